"""What a head sees. Named tuples and dicts all the way down, so that ``torch.func`` can stack a batch of batches."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from mmser.errors import ProtocolError
from mmser.records import GRANULARITIES

LINKS = ("word", "time", "lexicon")
"""What a state can know besides its values: fields of :class:`Sequence` that heads ask for."""


class Flat(NamedTuple):
    """Where S states that stand end to end belong: those of B utterances, of which the longest has T.

    Of several stacked batches S is the largest number of states that one has; the others repeat a state to fill up.
    """

    utterance: Tensor
    """(S,) int64: which of the B utterances a state belongs to."""
    step: Tensor
    """(S,) int64: which of its utterance's states it is."""
    held: Tensor
    """(S,) bool: False for what only fills up."""
    first: Tensor
    """(B,) int64: which of the S states is an utterance's first; some state or other where it has none."""
    masks: tuple[Tensor, ...]
    """Utterances that attention takes at a time, in their order: of each part (b, T') bool, True where there is a
    state; T' are the states of its longest utterance."""
    places: Tensor
    """(P,) int64: the state at each place of the parts' (b, T'), all parts end to end; in the padding one nearby."""
    begin: Tensor
    """(S,) int64: the place of the first state of a state's utterance."""
    width: Tensor
    """(S,) int64: T' of the part that a state is in."""


class Sequence(NamedTuple):
    """States of B utterances, padded to the longest; or, where ``flat`` is given, end to end."""

    values: Tensor
    """(B, T, D) float32; (B, L, T, D) where all L encoder layers go to a learned mix. Padding is finite. Flat: (S, D)
    or (L, S, D), and (S,) in place of (B, T) for what else a state knows; but the mask stays (B, T)."""
    mask: Tensor
    """(B, T) bool; True where there is a state. A row may be empty: an utterance without words, say."""
    word: Tensor | None = None
    """(B, T) int64: which word of the transcript a state belongs to, counted from 0; -1: none. Only for heads that ask
    (:meth:`mmser.heads.HeadKind.links`), in speech and text alike."""
    time: Tensor | None = None
    """(B, T) float32: the middle of a state in seconds of the utterance, for a token that of its word as it was spoken;
    -1: not known. Only for heads that ask."""
    lexicon: Tensor | None = None
    """(B, T) float32: the weight of a state's word in an emotion lexicon; 0: not in it, or no word. Only for heads that
    ask."""
    flat: Flat | None = None
    """Where the states stand, if end to end: only for heads whose class says ``flat`` (:mod:`mmser.heads.flat`)."""


class Batch(NamedTuple):
    """B utterances."""

    speech: dict[str, Sequence]
    """Granularity (``frame``, ``phone``, ``syllable``, ``word``, ``utterance``) to speech states."""
    text: Sequence | None
    """Token states, or None where no text was asked for."""
    key: Tensor | None
    """(B,) int64, not negative: each utterance's random key in this run and step, from which its dropout masks follow.
    None: no dropout, as in evaluation."""
    mel: Sequence | None = None
    """Log-mel frames (B, T, 64) in decibels, or None where no head asked for them."""


@dataclass(frozen=True)
class Inputs:
    """The shapes that a head is built for.

    Raises:
        ProtocolError: an unknown or repeated granularity, or a size that is not positive.
    """

    speech_dim: int
    """Width of a speech state; 768 for wav2vec 2.0 base. 0 for a head that reads text alone."""
    text_dim: int
    """Width of a token state; 768 for BERT base. 0 for a head that reads speech alone."""
    granularities: tuple[str, ...]
    """The speech sequences in the batch, in the order in which a head concatenates them."""
    speech_layers: int = 1
    """1: one encoder layer, chosen outside the head. More: that many layers go to a learned mix."""
    mel_dim: int = 0
    """Bins of a log-mel frame; 64 as extracted. 0 for a head that reads none."""
    text_layers: int = 1
    """As ``speech_layers``, of the text encoder."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "granularities", tuple(self.granularities))
        unknown = [name for name in self.granularities if name not in GRANULARITIES]
        if unknown or len(set(self.granularities)) != len(self.granularities):
            raise ProtocolError(
                f"granularities {', '.join(self.granularities)}: expected different ones of {', '.join(GRANULARITIES)}"
            )
        if min(self.speech_dim, self.text_dim, self.mel_dim) < 0 or min(self.speech_layers, self.text_layers) < 1:
            raise ProtocolError(
                f"inputs have speech_dim {self.speech_dim}, text_dim {self.text_dim}, mel_dim {self.mel_dim}, "
                f"speech_layers {self.speech_layers}, text_layers {self.text_layers}; expected widths of 0 or more and "
                "at least one layer"
            )
