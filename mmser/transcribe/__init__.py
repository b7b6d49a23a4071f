"""What is said in a recording, by a speech recogniser of transformers; and how much of it is right."""

from mmser.transcribe.options import COLUMN, Recognition
from mmser.transcribe.transcripts import Transcripts, transcribe

__all__ = ["COLUMN", "Recognition", "Transcripts", "transcribe"]
