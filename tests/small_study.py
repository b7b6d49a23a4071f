"""Two run folders on six noises, made in seconds: real recordings, alignments, tokens and heads. Shared by tests."""

from dataclasses import dataclass, replace
from pathlib import Path

from small_cache import edit_manifest
from small_corpus import make_corpus, run

from mmser.cache import Cache
from mmser.manifest import Manifest, read_manifest, write_manifest
from mmser.train.options import Experiment, Training
from mmser.train.run import train_head

SCRIPT = "</script><script>alert(1)</script><!-- \u2028 <b>bold</b>"
"""A transcript's end that must never be more than text."""

_SHORT = Training(epochs=2, batch_size=4)
COATTENTION = Experiment(
    head="coattention", granularity="word", seeds=2, settings={"width": 4, "heads": 2}, training=_SHORT
)
FUSION = replace(COATTENTION, head="late-fusion", granularity="utterance", settings={"hidden": 4}, task="categorical")


@dataclass(frozen=True)
class Study:
    corpus: Path
    """The manifest of the recordings."""
    cache: Cache
    coattention: Path
    fusion: Path


def make_study(folder: Path) -> Study:
    """Three speakers of two classes; the transcript of u1 ends in :data:`SCRIPT`."""
    corpus = make_corpus(folder / "corpus")
    table = read_manifest(corpus).table.assign(
        speaker=["ann", "ann", "bob", "bob", "eve", "eve"], label=["calm", "wild"] * 3
    )
    write_manifest(Manifest(table, corpus.parent), corpus)
    run(corpus, folder / "cache")

    def append(table):  # behind what was tokenized, whose places stay right
        table.loc[table["utterance_id"] == "u1", "text"] += f" {SCRIPT}"

    edit_manifest(folder / "cache", append)
    cache = Cache(folder / "cache")
    train_head(cache.path, COATTENTION, folder / "coattention")
    train_head(cache.path, FUSION, folder / "fusion")
    return Study(corpus, cache, folder / "coattention", folder / "fusion")
