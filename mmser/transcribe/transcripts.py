"""What a recogniser hears in some utterances. What it needs is imported when it is asked."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmser.records import Utterance
from mmser.transcribe.options import Recognition

if TYPE_CHECKING:
    from mmser.extract.work import Report


@dataclass(frozen=True)
class Transcripts:
    """What a recogniser heard."""

    texts: dict[str, str]
    """By utterance; empty where it heard no words."""
    failures: dict[str, str]
    """Reason by utterance."""
    recipe: dict[str, object] = field(default_factory=dict)
    """Everything that decides the texts: the model, its revision and the digest of its weights among it."""
    device: str = ""
    """Where the recogniser ran."""
    num_kept: int = 0
    """Texts that an earlier run had finished."""


def transcribe(
    utterances: Iterable[Utterance],
    model: str,
    *,
    device: str = "auto",
    language: str | None = None,
    report: "Report" = lambda *_: None,
) -> Transcripts:
    """What is said in some utterances.

    Args:
        utterances: the recordings; their own transcripts are not looked at.
        model: Hugging Face id (``ID`` or ``ID@REVISION``) or local folder of a model for CTC, or of Whisper.
        device: ``auto``, ``cpu``, ``cuda``, ...
        language: what is spoken, for Whisper; None: it guesses.
        report: told how far it is.

    Raises:
        MmserError: the model cannot be used.
    """
    from mmser.transcribe.run import recognise

    return recognise(utterances, Recognition(model, language=language, device=device), report=report)
