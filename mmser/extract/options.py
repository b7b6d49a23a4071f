"""What an extraction is asked to do. Every default is here, once; the command line is made from these fields."""

import math
from dataclasses import dataclass

from mmser.errors import MmserError
from mmser.extract.align import NONE, AlignerOptions
from mmser.records import GRANULARITIES, POOLINGS

DTYPES = ("float16", "float32")

COMPUTES = ("float32", "bf16", "fp16")
"""Arithmetic of the encoders."""

TEXT_COLUMN = "text"
"""The manifest's own column of transcripts."""

OPENSMILE_SETS = {"egemaps": "eGeMAPSv02"}
"""openSMILE's feature sets by mmser's name, with openSMILE's own; v02 is the eGeMAPS that it recommends."""


@dataclass(frozen=True)
class Extraction(AlignerOptions):
    """The recipe of an extraction: of its alignment (:class:`~mmser.extract.align.AlignerOptions`) and of its states.

    Raises:
        MmserError: a granularity that does not exist, or one that needs an alignment where none is made; an option of
            another aligner; another value that cannot be.
    """

    speech_model: str = "facebook/wav2vec2-base"
    """Hugging Face id (ID or ID@REVISION), local folder, ``builtin:tiny``, ``builtin:small``, or ``none``."""
    text_model: str = "google-bert/bert-base-uncased"
    """The same for text; skipped where the manifest has no text."""
    text_column: str = TEXT_COLUMN
    """The manifest's column that the text encoder reads, as one of recognised text; alignments are of ``text``."""
    mel: bool = False
    """Log-mel spectrograms too (:class:`mmser.extract.mel.MelRecipe`), for ``cnn14``."""
    opensmile: str = NONE
    """openSMILE's descriptors too: ``egemaps``, or ``none``."""
    layers: str = "all"
    """Speech layers to keep: ``all``, ``9``, ``0,6,12``, ``4-8``, ``-1``; 0 is the input of the first block."""
    text_layers: str = "-1"
    """Text layers to keep, in the same way."""
    keep: tuple[str, ...] = ()
    """Granularities of speech to keep; empty: every one that the alignment gives, but not frames (50 a second)."""
    pooling: str = "mean"
    """``mean``, ``mean+std`` or ``max`` of the frames of a segment."""
    dtype: str = "float16"
    """Type of the stored states."""
    compute: str = "float32"
    """Arithmetic of the encoders: ``float32``, ``bf16`` or ``fp16``, which are faster on a GPU and drift from float32;
    the drift is measured, shown and kept with the stream."""
    batch_seconds: float | None = None
    """Seconds of padded audio in a batch; None: what suits the device. One that its memory cannot hold is halved."""
    refresh: bool = False
    """Look at every audio file and transcript again, and redo what changed since it was extracted."""

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [g for g in self.keep if g not in GRANULARITIES]
        if unknown:
            raise MmserError(f"--keep {','.join(unknown)}: no such granularity; there are {', '.join(GRANULARITIES)}")
        needs = [g for g in self.keep if g in ("phone", "syllable", "word")]
        if needs and self.aligner == NONE:
            raise MmserError(
                f"--keep {','.join(needs)} needs an alignment: add --align pocketsphinx (English), or --align textgrid "
                "with --textgrids FOLDER"
            )
        if self.pooling not in POOLINGS or self.dtype not in DTYPES or self.compute not in COMPUTES:
            raise MmserError(
                f"pooling {self.pooling!r}, dtype {self.dtype!r} and compute {self.compute!r}: expected one of "
                f"{', '.join(POOLINGS)}, one of {', '.join(DTYPES)} and one of {', '.join(COMPUTES)}"
            )
        if self.opensmile not in (*OPENSMILE_SETS, NONE):
            raise MmserError(f"--opensmile {self.opensmile}: expected one of {', '.join(OPENSMILE_SETS)}, {NONE}")
        if self.batch_seconds is not None and not 0 < self.batch_seconds < math.inf:
            raise MmserError(f"--batch-seconds {self.batch_seconds}: expected a number of seconds more than 0")

    @property
    def granularities(self) -> tuple[str, ...]:
        """The granularities of speech to keep, finest first."""
        return _kept(self.keep, self.aligner)


@dataclass(frozen=True)
class Pooling:
    """What to pool from stored frames, and how.

    Raises:
        MmserError: a granularity or a pooling that does not exist, or segments without an alignment.
    """

    aligner: str = NONE
    """Name of a stream ``align/...`` of the cache, or ``none``: utterances alone."""
    encoder: str | None = None
    """Encoder of a stream ``speech/...``, by its id or the stream's name; None where the cache has one alone."""
    keep: tuple[str, ...] = ()
    """Granularities to pool; empty: every one that the alignment gives."""
    pooling: str = "mean"
    """``mean``, ``mean+std`` or ``max`` of the frames of a segment."""
    redo: bool = False
    """Pool again what was made of an alignment or a recording that changed since."""

    def __post_init__(self) -> None:
        possible = [g for g in GRANULARITIES if g != "frame" and (g == "utterance" or self.aligner != NONE)]
        wrong = [g for g in self.keep if g not in possible]
        if wrong:
            raise MmserError(
                f"--keep {','.join(wrong)}: with --align {self.aligner} there are {', '.join(possible)} to pool"
            )
        if self.pooling not in POOLINGS:
            raise MmserError(f"pooling {self.pooling!r}: expected one of {', '.join(POOLINGS)}")

    @property
    def granularities(self) -> tuple[str, ...]:
        """The granularities to pool, finest first."""
        return _kept(self.keep, self.aligner)


def _kept(keep: tuple[str, ...], aligner: str) -> tuple[str, ...]:
    """What was asked for, or by default all that the alignment gives but frames; finest first."""
    default = ("utterance",) if aligner == NONE else ("phone", "syllable", "word", "utterance")
    return tuple(g for g in GRANULARITIES if g in (keep or default))
