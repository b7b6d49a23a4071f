"""Which layers of an encoder are read: what was asked for, against what is stored."""

from collections.abc import Sequence

from mmser.cache import Stream
from mmser.errors import ProtocolError
from mmser.train.columns import DESCRIPTORS

MIX = "mix"
"""The layer asked for where a head is to learn a weighted sum of all layers."""


SPEECH_OPTION, TEXT_OPTION = "--layer", "--text-layer"
"""The options that name the layers."""

_EXTRACTED_BY = {SPEECH_OPTION: "--layers", TEXT_OPTION: "--text-layers"}


def layers_of(stream: Stream, asked: str, option: str = SPEECH_OPTION) -> list[int]:
    """The encoder layers to read.

    Args:
        stream: of speech or text; where several of speech are read, the first decides.
        asked: a number; ``-1`` for the last that is stored; several (``4,8,12``) for a learned mix of those; ``mix``
            for one of all.
        option: which of the two options asked, for what errors say.

    Raises:
        ProtocolError: not understood, not stored, or named twice.
    """
    stored = stream.layers
    if asked == MIX and stream.name.startswith(f"{DESCRIPTORS}/"):
        return stored
    if asked == MIX:
        if len(stored) < 2:
            raise ProtocolError(
                f"{option} mix: only layer {stored[0]} is stored; give {option} {stored[0]}, or extract more, with "
                f"{_EXTRACTED_BY[option]}, into another cache"
            )
        return stored
    try:
        found = [_stored_layer(stored, int(part)) for part in asked.split(",")]
    except ValueError as error:
        raise ProtocolError(f"{option} {asked}: expected a number, several (4,8,12), or {MIX}") from error
    layers = [layer for layer in found if layer is not None]
    if len(layers) < len(found):
        raise ProtocolError(f"{option} {asked}: stored layers are {', '.join(map(str, stored))}")
    if len(set(layers)) < len(layers):
        raise ProtocolError(f"{option} {asked}: a layer is named twice")
    return layers


def _stored_layer(stored: Sequence[int], asked: int) -> int | None:
    """A layer by the encoder's number, or counted from the last that is stored; None if it is not there."""
    if -len(stored) <= asked < 0:
        return stored[asked]
    return asked if asked in stored else None
