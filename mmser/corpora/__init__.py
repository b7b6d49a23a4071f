"""Known corpora: their folder as downloaded becomes a manifest. One file a corpus, one entry in ``CORPORA``."""

from collections.abc import Callable
from pathlib import Path

from mmser.corpora.audformat import AUDFORMAT
from mmser.corpora.cmu import CMU_MOSEI, CMU_MOSI
from mmser.corpora.corpus import Corpus, Reading, Request
from mmser.corpora.corpus import read_corpus as _read_corpus
from mmser.corpora.crema_d import CREMA_D
from mmser.corpora.emodb import EMODB
from mmser.corpora.emodb_labels import HandLabels, read_emodb_labels
from mmser.corpora.esd import ESD
from mmser.corpora.iemocap import IEMOCAP
from mmser.corpora.meld import MELD
from mmser.corpora.msp_improv import MSP_IMPROV
from mmser.corpora.msp_podcast import MSP_PODCAST
from mmser.corpora.nemo import NEMO
from mmser.corpora.ravdess import RAVDESS
from mmser.corpora.savee import SAVEE
from mmser.corpora.tess import TESS

CORPORA: dict[str, Corpus] = {
    "iemocap": IEMOCAP,
    "msp-podcast": MSP_PODCAST,
    "msp-improv": MSP_IMPROV,
    "meld": MELD,
    "crema-d": CREMA_D,
    "ravdess": RAVDESS,
    "emodb": EMODB,
    "savee": SAVEE,
    "tess": TESS,
    "esd": ESD,
    "nemo": NEMO,
    "cmu-mosi": CMU_MOSI,
    "cmu-mosei": CMU_MOSEI,
    "audformat": AUDFORMAT,
}
"""By the name that the command line takes."""

HAND_LABELS: dict[str, Callable[[Path], HandLabels]] = {"emodb": read_emodb_labels}
"""Readers of the words, syllables and phones that come with a corpus."""


def read_corpus(name: str, request: Request, labels: str | None = None) -> Reading:
    """Read a corpus of ``CORPORA`` with one of its label sets (None: its first).

    Raises:
        ManifestError: no such corpus, label set or folder, or nothing of the corpus in it.
    """
    return _read_corpus(name, CORPORA, request, labels)


__all__ = ["CORPORA", "HAND_LABELS", "Corpus", "HandLabels", "Reading", "Request", "read_corpus"]
