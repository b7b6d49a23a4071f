"""Known corpora: their folder as downloaded becomes a manifest. One file a corpus."""
