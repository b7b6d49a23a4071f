"""Many heads of one shape as one: every parameter has a leading axis, a run's parameters are one row of a matrix."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_map

from mmser.heads.batch import Batch
from mmser.heads.layers import Standardise
from mmser.heads.linear import Linear
from mmser.train.packed import PART
from mmser.train.plan import Run
from mmser.train.table import Table


class Showing(nn.Module):
    """A head that also shows what its last layer sees (:mod:`mmser.heads`: every head has ``features``)."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head: Any = head

    def forward(self, batch: Batch) -> Tensor:
        """Outputs and features side by side, (B, num_outputs + F)."""
        features = self.head.features(batch)
        return torch.cat([self.head.classify(self.head.dropout(features, batch.key)), features], -1)


class _OfThread(threading.local):
    """A head of a thread's own: while it computes, its parameters are replaced by a run's."""

    def __init__(self, template: nn.Module) -> None:
        self.alone, self.stacked = Showing(deepcopy(template)), Showing(deepcopy(template))
        for module in self.stacked.modules():
            if isinstance(module, Linear):
                module.stacked = True


class Stack:
    """R heads. ``weights`` (R, P) holds all parameters, ``buffers`` maps a name to (R, ...)."""

    def __init__(self, heads: Iterable[nn.Module], device: torch.device) -> None:
        """Copy the parameters and buffers of ``heads``, which all have the same shape."""
        rows: list[Tensor] = []
        buffers: list[dict[str, Tensor]] = []
        for head in heads:
            rows.append(torch.cat([p.detach().flatten() for p in head.parameters()]))
            buffers.append(dict(head.named_buffers()))
        self.template = head.to(device)
        self._own = _OfThread(self.template)
        self.shapes = {name: p.shape for name, p in head.named_parameters()}
        self.weights = torch.stack(rows).to(device)
        self.buffers = {name: torch.stack([b[name] for b in buffers]).to(device) for name in buffers[0]}

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def sizes(self) -> list[int]:
        """Numbers of a run's parameters: a row of ``weights`` holds them one after the other."""
        return [shape.numel() for shape in self.shapes.values()]

    def leaves(self, span: slice) -> list[Tensor]:
        """The parameters of the R' runs in ``span``, each (R', ...), to differentiate by.

        They share memory with ``weights``: to slice inside the graph would give every gradient the size of the whole.
        """
        columns = self.weights[span].split(self.sizes, dim=1)
        views = zip(columns, self.shapes.values(), strict=True)
        return [column.view(len(column), *shape).detach().requires_grad_() for column, shape in views]

    def __call__(
        self, leaves: Sequence[Tensor], batch: Batch, span: slice, members: int = 1, *, features: bool = False
    ) -> Tensor:
        """Outputs (R', B, num_outputs) of the runs in ``span``, of which ``leaves`` are the parameters.

        ``batch`` is R' / ``members`` batches: each is shared by so many runs, neighbours of each other. With
        ``features``, what the heads' last layers see stands behind their outputs: (R', B, num_outputs + F).
        """
        parameters = dict(zip(self.shapes, leaves, strict=True))
        buffers = {name: value[span] for name, value in self.buffers.items()}
        if len(leaves[0]) == 1:  # rewriting its operations for many runs would cost it more than they take
            alone = partial(_called, self._own.alone, features)
            return alone(*tree_map(_only, (parameters, buffers, batch))).unsqueeze(0)
        one = partial(_called, self._own.stacked, features)
        axes = tree_map(lambda leaf: 0 if isinstance(leaf, Tensor) else None, batch)
        if members == 1:
            return vmap(one, in_dims=(0, 0, axes))(parameters, buffers, batch)
        for part in (parameters, buffers):
            part.update({name: value.unflatten(0, (-1, members)) for name, value in part.items()})
        sharing = vmap(one, in_dims=(0, 0, None))
        return vmap(sharing, in_dims=(0, 0, axes))(parameters, buffers, batch).flatten(0, 1)

    def state(self, row: int, weights: Tensor | None = None) -> dict[str, Tensor]:
        """What ``load_state_dict`` takes, on the CPU: run ``row``'s, or with other ``weights`` (P,)."""
        weights = self.weights[row] if weights is None else weights
        columns = weights.cpu().split(self.sizes)
        parameters = {n: c.view(s).clone() for c, (n, s) in zip(columns, self.shapes.items(), strict=True)}
        return parameters | {name: value[row].cpu().clone() for name, value in self.buffers.items()}

    def keep(self, rows: Tensor) -> None:
        """Go on with the runs in ``rows`` (int64), in their order."""
        self.weights = self.weights[rows]
        self.buffers = {name: value[rows] for name, value in self.buffers.items()}


def _called(
    showing: Showing, features: bool, parameters: dict[str, Tensor], buffers: dict[str, Tensor], batch: Batch
) -> Tensor:
    """What a head says with these parameters and buffers, and what its last layer sees if ``features`` are wanted."""
    if not features:
        return functional_call(showing.head, (parameters, buffers), (batch,))
    inside = {f"head.{name}": value for name, value in {**parameters, **buffers}.items()}
    return functional_call(showing, inside, (batch,))


def _only(leaf: Any) -> Any:
    # Not leaf[0], whose gradient is a tensor of zeros into which the gradient is copied.
    return leaf.squeeze(0) if isinstance(leaf, Tensor) else leaf


def in_parts(table: Table) -> bool:
    """Whether padding is worth avoiding: where utterances differ in length, on a CPU.

    There arithmetic on padding costs as much as any; on a GPU it is the number of operations that costs.
    """
    return table.device.type == "cpu" and len(np.unique(table.lengths)) > 1


def flat(head: nn.Module, table: Table) -> bool:
    """Whether to give ``head`` the states of ``table`` end to end (:mod:`mmser.heads.flat`)."""
    return in_parts(table) and bool(getattr(head, "flat", False))


def part_of(head: nn.Module, table: Table, batch_size: int) -> int:
    """How many utterances of a training batch ``head`` is given at a time."""
    return PART if in_parts(table) and not flat(head, table) else batch_size


def stacks(head: nn.Module | type[nn.Module]) -> bool:
    """Whether many runs of this head can train as one (:mod:`mmser.heads`)."""
    return bool(getattr(head, "stacks", True))


_SEEDING = threading.Lock()
"""torch's random state is the whole process's: of threads that build heads one at a time may set it."""


def initial_head(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """The head that ``build`` makes from ``seed``, on the CPU so that it is the same everywhere."""
    with _SEEDING, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build()


def restored_head(build: Callable[[], nn.Module], state: Mapping[str, Tensor]) -> nn.Module:
    """The head that ``build`` makes, with the parameters and buffers of ``state``."""
    head = initial_head(build, 0)
    head.load_state_dict(dict(state))
    return head


def fill_standardise(stack: Stack, table: Table, runs: Sequence[Run]) -> None:
    """Set the statistics of every run's standardising layers from its own training rows."""
    known: dict[tuple[str, int | None, bytes], tuple[Tensor, Tensor]] = {}
    for path, module in stack.template.named_modules():
        if not isinstance(module, Standardise):
            continue
        for number, run in enumerate(runs):
            layer = run.layer if module.stream in table.speech else None
            rows = np.ascontiguousarray(run.train_rows, dtype=np.int64)
            case = (module.stream, layer, rows.tobytes())
            if case not in known:  # runs that differ in seed or learning rate alone share their statistics
                known[case] = table.streams[module.stream].moments(rows, layer)
            stack.buffers[f"{path}.mean"][number], stack.buffers[f"{path}.std"][number] = known[case]


def pad_rows(rows: Sequence[NDArray[np.int64]], multiple: int = 1) -> tuple[Tensor, Tensor]:
    """Lists of rows side by side, as long as the longest rounded up to a ``multiple``.

    A list is filled up with its own last row, so that no run ever touches a row that is not its own.

    Returns:
        Rows (R, W) int64 and which of them count (R, W) bool, both on the CPU.

    >>> pad_rows([np.array([5, 7, 9]), np.array([4])], 2)[0].tolist()
    [[5, 7, 9, 9], [4, 4, 4, 4]]
    """
    width = -(-max(len(own) for own in rows) // multiple) * multiple
    padded = np.stack([np.pad(own, (0, width - len(own)), mode="edge") for own in rows])
    counts = torch.tensor([len(own) for own in rows])
    return torch.from_numpy(padded.astype(np.int64)), torch.arange(width) < counts[:, None]
