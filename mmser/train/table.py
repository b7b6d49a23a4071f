"""A corpus's features, resident: all its streams on one device."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_map

from mmser.errors import ProtocolError
from mmser.heads import batch as heads
from mmser.train.packed import CHUNK, Packed


@dataclass(frozen=True, eq=False)
class Table:
    """The features of a corpus on one device.

    Raises:
        ProtocolError: a stream does not hold exactly the utterances named.
    """

    ids: tuple[str, ...]
    """Utterance ids; a row is a place in this tuple."""
    speech: dict[str, Packed]
    """Granularity to speech states."""
    text: Packed | None = None
    """Token states."""
    mel: Packed | None = None
    """Log-mel frames; their one layer is 0."""

    def __post_init__(self) -> None:
        for name, stream in self.streams.items():
            if len(stream) != len(self.ids):
                raise ProtocolError(f"{name} has states for {len(stream)} utterances, expected {len(self.ids)}")

    @property
    def streams(self) -> dict[str, Packed]:
        """Every stream by name; text is ``"text"``, log-mel frames are ``"mel"``."""
        beside = {"text": self.text, "mel": self.mel}
        return self.speech | {name: stream for name, stream in beside.items() if stream is not None}

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """(n,) states of each utterance, all streams together."""
        return np.sum([stream.lengths.numpy() for stream in self.streams.values()], axis=0)

    @cached_property
    def read_lengths(self) -> NDArray[np.int64]:
        """The same as the states were read, also where their means stand for them: what batches are ordered by."""
        return np.sum([stream.origin.lengths.numpy() for stream in self.streams.values()], axis=0)

    @property
    def device(self) -> torch.device:
        """Where the features lie."""
        return next(iter(self.streams.values())).values.device

    def only(
        self, granularities: Sequence[str], *, text: bool, mel: bool = False, links: Collection[str] = ()
    ) -> "Table":
        """A table of what a head reads: what is left out is never gathered. Nothing is copied.

        Args:
            granularities: of speech.
            text: whether it reads tokens.
            mel: whether it reads log-mel frames.
            links: those of :data:`mmser.heads.batch.LINKS` that it reads (:meth:`mmser.heads.HeadKind.links`).

        Raises:
            ProtocolError: a stream has no such links, as that of whole utterances.
        """
        for name in [*granularities, *(["text"] if text else [])]:
            if any(getattr(self.streams[name], link) is None for link in links):
                raise ProtocolError(
                    f"{name} states belong to no word of the transcript: a head that reads words or positions takes "
                    "frame, phone, syllable or word states"
                )
        return replace(
            self,
            speech={name: self.speech[name].linked_by(links) for name in granularities},
            text=self.text.linked_by(links) if text and self.text is not None else None,
            mel=self.mel if mel else None,
        )

    def means(self) -> "Table":
        """A table for heads that read nothing of speech and text but each utterance's mean: it is taken once, here.

        What such a head learns is the same, but for rounding. Log-mel frames stay frames.
        """
        return replace(
            self,
            speech={name: stream.means() for name, stream in self.speech.items()},
            text=None if self.text is None else self.text.means(),
        )

    def gather(
        self, rows: Tensor, layer: Tensor | None = None, key: Tensor | None = None, *, flat: bool = False
    ) -> heads.Batch:
        """R batches as one; see :meth:`Packed.gather`. ``layer`` is of speech; ``key`` (R, B) passes through.

        With ``flat`` states stand end to end (:meth:`Packed.gather_flat`).
        """
        take = Packed.gather_flat if flat else Packed.gather
        speech = {name: take(stream, rows, layer) for name, stream in self.speech.items()}
        text = None if self.text is None else take(self.text, rows)
        mel = None if self.mel is None else take(self.mel, rows)
        return heads.Batch(speech, text, None if key is None else key.to(self.device), mel)

    def batch(self, rows: Tensor, layer: Tensor | None = None) -> heads.Batch:
        """One batch, of utterances ``rows`` (B,), for a head that is alone; ``layer`` (1,) as in :meth:`gather`."""
        gathered = self.gather(rows.unsqueeze(0), layer)
        return tree_map(lambda leaf: None if leaf is None else leaf[0], gathered)

    def normalised_per_speaker(self, speakers: Sequence[str]) -> "Table":
        """A table whose speech features have mean 0 and deviation 1 over each speaker's states.

        It uses no labels, but all of a speaker's utterances, those of a test speaker too: it supposes that a speaker's
        recordings are there together (as Pepino et al. 2021 do). The states' type stays; text and log-mel frames are
        left as they are.

        Raises:
            ProtocolError: an utterance's speaker is not known.
        """
        names = np.asarray(speakers, dtype=str)
        unknown = np.flatnonzero(names == "")
        if len(unknown):
            raise ProtocolError(
                f"{len(unknown)} utterances have no speaker (first: {self.ids[unknown[0]]!r}): features cannot be "
                "normalised per speaker; name the speakers or normalise globally"
            )
        rows = [np.flatnonzero(names == name) for name in np.unique(names)]
        return replace(self, speech={name: _per_speaker(stream, rows) for name, stream in self.speech.items()})


def _per_speaker(stream: Packed, speakers: list[NDArray[np.int64]]) -> Packed:
    values = torch.empty_like(stream.values)
    for rows in speakers:
        states = stream.states_of(rows)
        if not len(states):
            continue
        for layer in range(len(values)):
            mean, deviation = stream.moments(rows, layer)
            for chunk in states.split(CHUNK):
                standard = (stream.values[layer, chunk].float() - mean) / deviation
                values[layer, chunk] = standard.to(values.dtype)
    return replace(stream, values=values)
