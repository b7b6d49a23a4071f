"""One stream's states, resident: all utterances end to end on the device, so that a batch is one gather."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_map

from mmser import products
from mmser.errors import ProtocolError
from mmser.heads import batch as heads
from mmser.heads.layers import masked_mean

CHUNK = 1 << 11
"""States turned to float64 at a time: 13 MB at 768 dimensions, a few times over, of which little leaves the cache."""

NO_LINK = {"word": -1, "time": -1, "lexicon": 0}
"""What stands for no word, no time, no weight."""

PART = 8
"""Utterances that are computed at a time where padding costs. A batch lies from its shortest utterance to its longest,
so in parts of 8 little of what is computed is padding; smaller parts gain no more."""

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
    of: "Packed | None" = None
    """What these states are the means of (:meth:`means`), and are standardised by; None: they are as they were read."""

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
        for name, link in self.links.items():
            if link is not None and link.shape != self.values.shape[1:2]:
                raise ProtocolError(
                    f"{name} links of shape {tuple(link.shape)} for {self.values.shape[1]} states; expected one each"
                )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def links(self) -> dict[str, Tensor | None]:
        """What each state knows besides its values, by the names of :data:`mmser.heads.batch.LINKS`."""
        return {name: getattr(self, name) for name in heads.LINKS}

    @property
    def origin(self) -> "Packed":
        """The states as they were read: these, or those that these are the means of."""
        return self if self.of is None else self.of

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
        lengths = self.lengths[rows]
        width = max(1, int(lengths.max()))
        full = int(lengths.min()) == width
        device = self.values.device
        steps = torch.arange(width, device=device)
        lengths, rows = lengths.to(device).unsqueeze(-1), rows.to(device)
        mask = steps < lengths
        # Padding reads the utterance's own last state: the nearest memory, and never another utterance's.
        index = self.offsets[rows].unsqueeze(-1) + torch.minimum(steps, (lengths - 1).clamp_(min=0))
        values, links = self._taken(index, layer, mask)
        if not full:
            values.mul_((mask if values.dim() == 4 else mask.unsqueeze(2)).unsqueeze(-1))
        return heads.Sequence(values, mask, **links)

    def gather_flat(self, rows: Tensor, layer: Tensor | None = None) -> heads.Sequence:
        """The states of utterances ``rows`` end to end, S in each of the R batches: :class:`mmser.heads.batch.Flat`.

        Arguments as for :meth:`gather`.

        Returns:
            Values (R, S, D), or (R, L, S, D) for all layers, float32; mask (R, B, T); word, time and lexicon (R, S)
            where this holds them.
        """
        device, lengths = self.values.device, self.lengths[rows]
        flat = _end_to_end(lengths)
        index = self.offsets.cpu()[rows].gather(1, flat.utterance) + flat.step
        flat = tree_map(lambda part: part.to(device), flat)
        values, links = self._taken(index.to(device), layer, flat.held)
        return heads.Sequence(values, _mask(lengths).to(device), **links, flat=flat)

    def _taken(self, index: Tensor, layer: Tensor | None, held: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """The states ``index`` (R, ..., T) in float32, (R, ..., T, D) or (R, ..., L, T, D), and their links."""
        num_layers, num_states, dim = self.values.shape
        index = index.clamp(max=max(0, num_states - 1))
        links = {name: _linked(name, link, index, held) for name, link in self.links.items()}
        if layer is not None:
            index += (layer.to(index.device) * num_states).view(-1, *(1,) * (index.dim() - 1))
        elif num_layers > 1:
            first = torch.arange(num_layers, device=index.device) * num_states
            index = index.unsqueeze(-2) + first[:, None]
        if num_states == 0:
            return torch.zeros(*index.shape, dim, device=index.device), links
        states = self.values.flatten(0, 1).index_select(0, index.flatten()).float()
        return states.view(*index.shape, dim), links

    def linked_by(self, links: Collection[str]) -> "Packed":
        """The same states with no other links than ``links`` names."""
        held = [name for name, link in self.links.items() if link is not None]
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
        deviation of exactly 0, which is given as 1 so that one can divide by it. Of means, those of the states that
        they are the means of: whoever takes a sequence's mean first standardises it by what its states are.

        Returns:
            Two float32 tensors on the device: (D,), or (L, D) where there are several layers and none is named.

        Raises:
            ProtocolError: these utterances have no states.
        """
        if self.of is not None:
            return self.of.moments(rows, layer)
        self.check_states(rows)
        states = self.states_of(rows)
        layers = range(len(self.values)) if layer is None else [layer]
        means, deviations = zip(*(self._moments(number, states) for number in layers), strict=True)
        if len(means) == 1:
            return means[0], deviations[0]
        return torch.stack(means), torch.stack(deviations)

    def check_states(self, rows: NDArray[np.int64]) -> None:
        """Raise ProtocolError where utterances (n,) have no states to be standardised by."""
        if not bool(self.lengths[torch.from_numpy(rows)].any()):
            raise ProtocolError(f"{len(rows)} utterances have no states at all: nothing to standardise by")

    def _moments(self, layer: int, states: Tensor) -> tuple[Tensor, Tensor]:
        first = self.values[layer, states[0]].double()
        total, squares = torch.zeros_like(first), torch.zeros_like(first)
        for chunk in states.split(CHUNK):
            values = self.values[layer, chunk].double() - first
            total += values.sum(0)
            squares += values.square().sum(0)
        mean = total / len(states)
        deviation = (squares / len(states) - mean.square()).clamp(min=0).sqrt()
        return (first + mean).float(), torch.where(deviation > 0, deviation, 1.0).float()

    def means(self) -> "Packed":
        """One state an utterance, its mean, in float32: all that a head needs which pools in time first.

        An utterance without states stays without. States that are one an utterance already are left as they are.
        """
        if bool((self.lengths <= 1).all()):
            return self
        filled = self.lengths > 0
        means = [self.values[:, :0].float()]
        for rows in torch.arange(len(self))[filled].split(_MEANS) if filled.any() else ():
            for_each = [self.gather(rows[None], torch.tensor([layer])) for layer in range(len(self.values))]
            means.append(torch.cat([masked_mean(own.values[0], own.mask[0])[None] for own in for_each]))
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), filled.long().cumsum(0)])
        return Packed(torch.cat(means, 1), offsets.to(self.offsets.device), of=self)


def _linked(name: str, link: Tensor | None, index: Tensor, mask: Tensor) -> Tensor | None:
    """A link of the states ``index``; in the padding what stands for none."""
    if link is None:
        return None
    if not len(link):
        return torch.full_like(index, NO_LINK[name], dtype=link.dtype)
    return link[index].masked_fill_(~mask, NO_LINK[name])


def _end_to_end(lengths: Tensor) -> heads.Flat:
    """Where the states of R batches stand that hold utterances of these ``lengths`` (R, B).

    >>> where = _end_to_end(torch.tensor([[2, 1], [0, 2]]))  # where products are filled up, so many states and more
    >>> where.utterance[:, :3].tolist(), where.step[:, :3].tolist()
    ([[0, 0, 1], [1, 1, 1]], [[0, 1, 0], [0, 1, 1]])
    >>> where.held[:, :3].tolist(), where.first.tolist()
    ([[True, True, True], [True, True, False]], [[0, 2], [0, 0]])
    """
    ends = lengths.cumsum(1)
    starts, total = ends - lengths, ends[:, -1:]
    place = torch.arange(products.filled_up(max(1, int(total.max())))).expand(len(lengths), -1)
    filled = torch.minimum(place, total - 1).clamp_(min=0)  # what fills up repeats the last state
    utterance = torch.searchsorted(ends, filled, right=True).clamp_(max=lengths.shape[1] - 1)
    step = filled - starts.gather(1, utterance)
    masks = tuple(_mask(part) for part in lengths.split(PART, 1))
    first = starts.clamp_(max=place.shape[1] - 1)
    places, begins, widths, begin = [], [], [], 0
    for first_of, mask in zip(first.split(PART, 1), masks, strict=True):
        _, size, width = mask.shape
        within = torch.minimum(torch.arange(width), (mask.sum(-1, keepdim=True) - 1).clamp_(min=0))
        places.append((first_of.unsqueeze(-1) + within).flatten(1))
        begins.append(begin + torch.arange(size) * width)
        widths.append(torch.full((size,), width))
        begin += size * width
    begin_of, width_of = (torch.cat(part)[utterance] for part in (begins, widths))
    return heads.Flat(utterance, step, place < total, first, masks, torch.cat(places, 1), begin_of, width_of)


def _mask(lengths: Tensor) -> Tensor:
    """True where utterances of these ``lengths`` (R, B) have a state: (R, B, T)."""
    return torch.arange(max(1, int(lengths.max()))) < lengths.unsqueeze(-1)
