"""A corpus's features, resident: all utterances end to end on the device, so that a batch is one gather."""

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
from mmser.heads.layers import masked_mean

_CHUNK = 1 << 14
"""States turned to float64 at a time: 100 MB at 768 dimensions."""

NO_LINK = {"word": -1, "time": -1, "lexicon": 0}
"""What stands for no word, no time, no weight."""

_MEANS = 32
"""Utterances averaged at a time: 150 MB of frames for half a minute each."""


@dataclass(frozen=True, eq=False)
class Packed:
    """One stream's states: utterance i owns ``values[:, offsets[i]:offsets[i + 1]]``.

    Raises:
        ProtocolError: the shapes disagree, or the offsets are no partition of the states.

    >>> words = Packed(torch.arange(5.0).reshape(1, 5, 1), torch.tensor([0, 2, 2, 5]))
    >>> words.lengths.tolist()
    [2, 0, 3]
    >>> words.gather(torch.tensor([[0, 2]])).values.squeeze(-1).tolist()
    [[[0.0, 1.0, 0.0], [2.0, 3.0, 4.0]]]
    """

    values: Tensor
    """(L, N, D) float16 or float32, on the device."""
    offsets: Tensor
    """(n + 1,) int64, on the same device."""
    word: Tensor | None = None
    """(N,) int64: the word of the transcript that each state belongs to, -1 for none; None where no head asks."""
    time: Tensor | None = None
    """(N,) float32: the middle of each state in seconds, -1 where not known; None where no head asks."""
    lexicon: Tensor | None = None
    """(N,) float32: the weight of each state's word in a lexicon, 0 for none; None where no head asks."""

    def __post_init__(self) -> None:
        if self.values.dim() != 3 or self.values.dtype not in (torch.float16, torch.float32):
            raise ProtocolError(
                f"states have shape {tuple(self.values.shape)} and type {self.values.dtype}; "
                "expected (layers, states, dim) of float16 or float32"
            )
        ends = self.offsets.cpu()
        if ends.dim() != 1 or ends.dtype != torch.int64 or ends[0] != 0 or ends[-1] != self.values.shape[1]:
            raise ProtocolError(f"offsets do not run from 0 to the {self.values.shape[1]} states that there are")
        if bool((ends.diff() < 0).any()):
            raise ProtocolError("offsets run backwards: an utterance would have fewer than 0 states")
        for name, link in zip(heads.LINKS, self.links, strict=True):
            if link is not None and link.shape != self.values.shape[1:2]:
                raise ProtocolError(
                    f"{name} links of shape {tuple(link.shape)} for {self.values.shape[1]} states; expected one each"
                )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def links(self) -> list[Tensor | None]:
        """What each state knows besides its values, in the order of :data:`mmser.heads.batch.LINKS`."""
        return [self.word, self.time, self.lexicon]

    @cached_property
    def lengths(self) -> Tensor:
        """(n,) int64 on the CPU: states of each utterance."""
        return self.offsets.cpu().diff()

    def gather(self, rows: Tensor, layer: Tensor | None = None) -> heads.Sequence:
        """The states of utterances ``rows``, padded with zeros to the longest of them.

        Args:
            rows: (R, B) int64 on the CPU, where the longest can be known without waiting for the device.
            layer: (R,) int64: each run's layer. None: all layers if there are several, for a learned mix.

        Returns:
            Values (R, B, T, D), or (R, B, L, T, D) for all layers, float32; mask (R, B, T); word, time and lexicon
            (R, B, T) where this holds them.
        """
        num_layers, num_states, dim = self.values.shape
        lengths = self.lengths[rows]
        width = max(1, int(lengths.max()))
        full = int(lengths.min()) == width
        device = self.values.device
        steps = torch.arange(width, device=device)
        lengths, rows = lengths.to(device).unsqueeze(-1), rows.to(device)
        mask = steps < lengths
        # Padding reads the utterance's own last state: the nearest memory, and never another utterance's.
        index = self.offsets[rows].unsqueeze(-1) + torch.minimum(steps, (lengths - 1).clamp_(min=0))
        index.clamp_(max=max(0, num_states - 1))
        links = [_linked(name, link, index, mask) for name, link in zip(heads.LINKS, self.links, strict=True)]
        hold = mask
        if layer is not None:
            index += (layer.to(device) * num_states)[:, None, None]
        elif num_layers > 1:
            first = torch.arange(num_layers, device=device) * num_states
            index, hold = index.unsqueeze(2) + first[:, None], mask.unsqueeze(2)
        if num_states == 0:
            return heads.Sequence(torch.zeros(*index.shape, dim, device=device), mask, *links)
        states = self.values.flatten(0, 1).index_select(0, index.flatten()).float()
        states = states.view(*index.shape, dim)
        return heads.Sequence(states if full else states.mul_(hold.unsqueeze(-1)), mask, *links)

    def linked_by(self, links: Collection[str]) -> "Packed":
        """The same states with no other links than ``links`` names."""
        held = [name for name, link in zip(heads.LINKS, self.links, strict=True) if link is not None]
        dropped = {name: None for name in held if name not in links}
        return replace(self, **dropped) if dropped else self  # type: ignore[arg-type]

    def states_of(self, rows: NDArray[np.int64]) -> Tensor:
        """(m,) int64 on the device: which states belong to the utterances ``rows``, in their order."""
        chosen = torch.from_numpy(np.asarray(rows, dtype=np.int64))
        lengths = self.lengths[chosen]
        before = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        shift = self.offsets.cpu()[chosen] - before[:-1]
        return (torch.arange(int(before[-1])) + shift.repeat_interleave(lengths)).to(self.values.device)

    def moments(self, rows: NDArray[np.int64], layer: int | None = None) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each feature over all states of the utterances ``rows``.

        In float64, of values from which the first is subtracted: no cancellation, and a constant feature has a
        deviation of exactly 0, which is given as 1 so that one can divide by it.

        Returns:
            Two float32 tensors on the device: (D,), or (L, D) where there are several layers and none is named.

        Raises:
            ProtocolError: these utterances have no states.
        """
        states = self.states_of(rows)
        if not len(states):
            raise ProtocolError(f"{len(rows)} utterances have no states at all: nothing to standardise by")
        layers = range(len(self.values)) if layer is None else [layer]
        means, deviations = zip(*(self._moments(number, states) for number in layers), strict=True)
        if len(means) == 1:
            return means[0], deviations[0]
        return torch.stack(means), torch.stack(deviations)

    def _moments(self, layer: int, states: Tensor) -> tuple[Tensor, Tensor]:
        first = self.values[layer, states[0]].double()
        total, squares = torch.zeros_like(first), torch.zeros_like(first)
        for chunk in states.split(_CHUNK):
            values = self.values[layer, chunk].double() - first
            total += values.sum(0)
            squares += values.square().sum(0)
        mean = total / len(states)
        deviation = (squares / len(states) - mean.square()).clamp(min=0).sqrt()
        return (first + mean).float(), torch.where(deviation > 0, deviation, 1.0).float()

    def means(self) -> "Packed":
        """One state an utterance, its mean, in float32: all that a head needs which pools in time first.

        An utterance without states stays without.
        """
        filled = self.lengths > 0
        means = [self.values[:, :0].float()]
        for rows in torch.arange(len(self))[filled].split(_MEANS) if filled.any() else ():
            for_each = [self.gather(rows[None], torch.tensor([layer])) for layer in range(len(self.values))]
            means.append(torch.cat([masked_mean(own.values[0], own.mask[0])[None] for own in for_each]))
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), filled.long().cumsum(0)])
        return Packed(torch.cat(means, 1), offsets.to(self.offsets.device))


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
    """Token states, of one layer."""
    mel: Packed | None = None
    """Log-mel frames; their one layer is 0."""

    def __post_init__(self) -> None:
        for name, stream in self.streams.items():
            if len(stream) != len(self.ids):
                raise ProtocolError(f"{name} has states for {len(stream)} utterances, expected {len(self.ids)}")
        if self.text is not None and len(self.text.values) != 1:
            raise ProtocolError(f"text has {len(self.text.values)} layers; choose one")

    @property
    def streams(self) -> dict[str, Packed]:
        """Every stream by name; text is ``"text"``, log-mel frames are ``"mel"``."""
        beside = {"text": self.text, "mel": self.mel}
        return self.speech | {name: stream for name, stream in beside.items() if stream is not None}

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """(n,) states of each utterance, all streams together."""
        return np.sum([stream.lengths.numpy() for stream in self.streams.values()], axis=0)

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

    def gather(self, rows: Tensor, layer: Tensor | None = None, key: Tensor | None = None) -> heads.Batch:
        """R batches as one; see :meth:`Packed.gather`. ``layer`` is of speech; ``key`` (R, B) passes through."""
        speech = {name: stream.gather(rows, layer) for name, stream in self.speech.items()}
        text = None if self.text is None else self.text.gather(rows)
        mel = None if self.mel is None else self.mel.gather(rows)
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
            for chunk in states.split(_CHUNK):
                standard = (stream.values[layer, chunk].float() - mean) / deviation
                values[layer, chunk] = standard.to(values.dtype)
    return replace(stream, values=values)


def _linked(name: str, link: Tensor | None, index: Tensor, mask: Tensor) -> Tensor | None:
    """A link of the states ``index``; in the padding what stands for none."""
    if link is None:
        return None
    if not len(link):
        return torch.full_like(index, NO_LINK[name], dtype=link.dtype)
    return link[index].masked_fill_(~mask, NO_LINK[name])
