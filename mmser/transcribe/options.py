"""What a transcription is asked to do. Every default is here, once; the command line is made from these fields."""

import math
from dataclasses import dataclass

from mmser.errors import MmserError

TASKS = ("transcribe", "translate")
"""Whisper's own: what is said, or what it means in English."""

COLUMN = "asr_text"
"""The manifest's column of recognised text."""


@dataclass(frozen=True)
class Recognition:
    """The recipe of a transcription.

    Raises:
        MmserError: a value that cannot be.
    """

    model: str
    """Hugging Face id (ID or ID@REVISION) or local folder of a model for CTC, or of Whisper."""
    language: str | None = None
    """Whisper's name or code of the language that is spoken; None: it guesses that of each utterance."""
    task: str = "transcribe"
    """One of :data:`TASKS`."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``."""
    jobs: int | None = None
    """Processes that decode recordings; None: one a core."""
    batch_seconds: float | None = None
    """Seconds of padded audio in a batch; None: what suits the device. One that its memory cannot hold is halved."""

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise MmserError(f"task {self.task!r}: expected one of {', '.join(TASKS)}")
        if self.jobs is not None and self.jobs < 1:
            raise MmserError(f"decoding in {self.jobs} processes is impossible; give 1 or more")
        if self.batch_seconds is not None and not 0 < self.batch_seconds < math.inf:
            raise MmserError(f"--batch-seconds {self.batch_seconds}: expected a number of seconds more than 0")
