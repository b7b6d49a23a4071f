"""How many runs a device holds at once: a step of a few of them is tried, and every tensor in it counted."""

import weakref
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmser.devices import free_bytes
from mmser.errors import ProtocolError
from mmser.train.evaluate import ASKED_AT_ONCE, DEV_BATCHES, by_length
from mmser.train.plan import Run, Training, order_of
from mmser.train.sharing import batches_of, most_together, questions_of
from mmser.train.stack import Stack, flat, part_of, stacks
from mmser.train.table import Table

CPU_GB = 4.0
"""What runs may occupy in main memory unless told otherwise: small enough for a laptop."""
ROOM, FLAT_ROOM = 1.25, 2.3
"""Memory taken for each byte that is counted: the heap has gaps. States end to end are of another size at every step
and leave many. Measured (docs/benchmarks.md)."""
PROCESS_BYTES = 80e6
"""What a process takes by itself on a CPU, the one that forks the others too: statistics to standardise by, copies of
the head to compute with, and what the heap keeps of memory that is free."""


def max_stacked(table: Table, head: nn.Module, runs: Sequence[Run], training: Training) -> int:
    """How many of ``runs`` may train at once, in all processes together; at least 1.

    They fit beside the features, which are there before, and beside the weights of runs that ended.
    """
    if len(runs) == 1:
        return 1
    budget = _budget_bytes(table.device, training)
    cores = min(torch.get_num_threads(), len(runs))
    if table.device.type == "cpu":
        budget -= PROCESS_BYTES * (cores + (cores > 1))
    room = FLAT_ROOM if flat(head, table) else ROOM
    return max(1, int(budget / (room * bytes_of_a_run(table, head, runs, training))))


def bytes_of_a_run(table: Table, head: nn.Module, runs: Sequence[Run], training: Training) -> float:
    """What tensors hold for one of ``runs`` at the largest step of an epoch, of all that it needs for itself.

    The first epoch's largest batch is trained on by as few runs as show what they share, and the largest batch of dev
    rows is scored. To what is counted there come weights, best weights, moments, buffers, and the epoch's order,
    keys and targets. Runs that stop are copied out of the stack, which takes the weights twice again.
    """
    head, end_to_end = head.to(table.device), flat(head, table)
    alone = len(runs) == 1 or most_together(table, head, training.batch_size) == 1
    part, size = part_of(head, table, training.batch_size), training.batch_size
    batches = batches_of(runs)
    orders = [order_of(run, 1, table.read_lengths, size) for run in dict(zip(batches, runs, strict=True)).values()]
    learnt = _largest(table, orders, size, part, end_to_end)
    step = _own(
        partial(_peak, table, head, learnt, runs[0].layer, part, True, training.metric_weight > 0), batches, alone
    )
    dev_rows, layers = [run.dev_rows for run in runs], [run.layer for run in runs]
    dev = _asked(table, head, dev_rows, layers, size * (DEV_BATCHES if end_to_end else 1), alone)
    weights = sum(parameter.nbytes for parameter in head.parameters())
    buffers = sum(buffer.nbytes for buffer in head.buffers())
    rows = max(len(run.train_rows) for run in runs)
    # Rows, whether they count, keys and their copies (int64, bool), and targets twice (float32).
    epoch = rows * (8 + 1 + 2 * 8 + 2 * 4 * int(head.num_outputs))  # type: ignore[arg-type]
    moments = 2 if training.optimiser == "adamw" else 1
    return (2 + moments) * weights + buffers + epoch + max(step, dev, 2 * weights)


def max_asked(
    table: Table,
    head: nn.Module,
    rows: Sequence[NDArray[np.int64]],
    layers: Sequence[int | None],
    training: Training,
) -> int:
    """How many trained heads may be asked at once about ``rows`` and speech layers of their own; at least 1."""
    if not stacks(head) or len(rows) == 1:
        return 1
    head, size = head.to(table.device), training.batch_size
    alone = most_together(table, head, size) == 1
    weights = sum(own.nbytes for own in [*head.parameters(), *head.buffers()])
    held = weights + _asked(table, head, rows, layers, size, alone)
    room = FLAT_ROOM if flat(head, table) else ROOM
    return min(ASKED_AT_ONCE, max(1, int(_budget_bytes(table.device, training) / (room * held))))


def _asked(
    table: Table,
    head: nn.Module,
    rows: Sequence[NDArray[np.int64]],
    layers: Sequence[int | None],
    size: int,
    alone: bool,
) -> float:
    """What is held for each of the heads that are asked about rows of their own, at the largest batch of ``size``."""
    questions = questions_of(rows, layers)
    orders = [own[by_length(table, own)] for own in dict(zip(questions, rows, strict=True)).values()]
    largest = _largest(table, orders, size, size, flat(head, table))
    return _own(partial(_peak, table, head, largest, layers[0], size, False, False), questions, alone)


def _own(peak: Callable[[int, int], int], keys: Sequence[Hashable], alone: bool) -> float:
    """A run's part in what is held where runs with equal ``keys`` share a batch; ``peak`` is of R runs in groups."""
    if alone:
        return peak(1, 1)
    groups = len(set(keys))
    if groups == len(keys):
        return peak(2, 1) / 2
    two, three = peak(2, 2), peak(3, 3)
    return (three - two) + max(0, 3 * two - 2 * three) * groups / len(keys)


def _largest(
    table: Table, orders: Iterable[NDArray[np.int64]], size: int, part: int, end_to_end: bool
) -> NDArray[np.int64]:
    """The batch of ``size`` rows, in parts, with the most states, padding included unless they stand end to end."""

    def states(rows: NDArray[np.int64]) -> int:
        lengths = table.lengths[rows]
        if end_to_end:
            return int(lengths.sum())
        return sum(len(some) * int(some.max()) for some in np.split(lengths, range(part, len(lengths), part)))

    batches = (batch for order in orders for batch in np.split(order, range(size, len(order), size)))
    return max(batches, key=states)


def _peak(
    table: Table,
    head: nn.Module,
    rows: NDArray[np.int64],
    layer: int | None,
    part: int,
    learns: bool,
    features: bool,
    number: int,
    members: int,
) -> int:
    """Bytes held at once while so many heads, in groups of so many ``members``, take a batch in parts.

    With ``features`` they also show what their last layers see, for a metric loss.
    """
    stack, span, groups = Stack([head] * number, table.device), slice(0, number), number // members
    leaves = stack.leaves(span)
    layers = None if layer is None else torch.full((groups,), layer)
    with _Held(table.device) as held, torch.set_grad_enabled(learns):
        parts = torch.from_numpy(rows).expand(groups, -1).split(part, 1)
        batches = (table.gather(some, layers, some if learns else None, flat=flat(head, table)) for some in parts)
        said = torch.cat([stack(leaves, batch, span, members, features=features) for batch in batches], 1)
        if learns:
            torch.autograd.grad(said.sum(), leaves)
    return held.most


class _Held(TorchDispatchMode):
    """Counts the bytes of the tensors on a device that are made while it is entered, as long as they are there."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.most = 0
        self._device, self._now = device, 0
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        new = [storage for storage in self._storages(made) if storage.data_ptr() not in self._alive]
        if new:
            given = {storage.data_ptr() for storage in self._storages((args, kwargs))}
            for storage in new:
                if storage.data_ptr() not in given:  # else a view of what was there before, or changed in place
                    self._note(storage)
        return made

    def _storages(self, values: Any) -> list[torch.UntypedStorage]:
        tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.device == self._device]
        return [tensor.untyped_storage() for tensor in tensors]

    def _note(self, storage: torch.UntypedStorage) -> None:
        place, size = storage.data_ptr(), storage.nbytes()

        def freed(_: weakref.ref[torch.UntypedStorage]) -> None:
            self._now -= size
            self._alive.pop(place, None)

        self._alive[place] = weakref.ref(storage, freed)
        self._now += size
        self.most = max(self.most, self._now)


def _budget_bytes(device: torch.device, training: Training) -> float:
    if training.memory_gb:
        return training.memory_gb * 1e9
    if device.type == "cuda":
        # Of what this process leaves of the whole: what others hold must not change how runs are grouped, and so round.
        left = torch.cuda.get_device_properties(device).total_memory - torch.cuda.memory_allocated(device)
        return min(left / 2, free_bytes(device) or left)
    return CPU_GB * 1e9


def check_room(needed: float, device: torch.device, what: str, remedy: str) -> None:
    """Refuse what the memory that is free on a device cannot hold, before it is read.

    Args:
        needed: bytes.
        device: where they are to lie.
        what: takes them.
        remedy: what to do.

    Raises:
        ProtocolError: less is free.
    """
    free = free_bytes(device)
    if free is not None and needed > free:
        raise ProtocolError(f"{what}: {needed / 1e9:.3g} GB, and {device} has {free / 1e9:.3g} GB free; {remedy}")
