"""Known corpora: their folder as downloaded becomes a manifest. One file a corpus, one entry in ``CORPORA``."""

from collections.abc import Callable
from pathlib import Path

from mmser.corpora.emodb import read_emodb
from mmser.corpora.emodb_labels import HandLabels, read_emodb_labels
from mmser.manifest import Manifest

CORPORA: dict[str, Callable[[Path], Manifest]] = {"emodb": read_emodb}
"""Readers by the name that the command line takes."""

HAND_LABELS: dict[str, Callable[[Path], HandLabels]] = {"emodb": read_emodb_labels}
"""Readers of the words, syllables and phones that come with a corpus."""
