"""Known corpora: their folder as downloaded becomes a manifest. One file a corpus, one entry in ``CORPORA``."""

from collections.abc import Callable
from pathlib import Path

from mmser.corpora.emodb import read_emodb
from mmser.manifest import Manifest

CORPORA: dict[str, Callable[[Path], Manifest]] = {"emodb": read_emodb}
"""Readers by the name that the command line takes."""
