"""Shards are written by a thread of their own, so that the encoder never waits for the disk.

The stage at work makes a shard's pieces one by one; each is a task that fetches states from the device, checks them and
writes them. The thread does the tasks in order, at most :data:`AHEAD` behind, and gives the shard its name at the end,
while the stage is already at the next one.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmser.cache.shard_writer import ShardWriter
from mmser.extract.work import UnstorableError, Work

AHEAD = 4
"""Tasks that may wait for the disk: what they hold is memory."""

Task = Callable[[], None]
"""Writes one piece of a shard."""
Make = Callable[[Mapping[str, Any]], tuple[list[ShardWriter], Iterator[Task]]]
"""Opens the shards of some utterances, one in each stream that wants them, and makes their tasks one by one."""

TORCH_TYPES = {"float16": torch.float16, "float32": torch.float32}


@dataclass
class _Filling:
    """Shards that are being filled."""

    streams: tuple[str, ...]
    items: Mapping[str, Any]
    make: Make
    shards: list[ShardWriter]
    error: BaseException | None = None
    done: threading.Event = field(default_factory=threading.Event)


class WriterThread:
    """The thread that writes, from ``with`` to its end.

    Whatever goes wrong in it is raised in the stage at its next task. Leaving the ``with`` block waits until all is
    written; leaving it by an exception keeps the shards that are complete and removes the one that is not.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._tasks: queue.Queue[tuple[_Filling, Task] | None] = queue.Queue(AHEAD)
        self._before: _Filling | None = None
        self._thread = threading.Thread(target=self._write, name="mmser-writer", daemon=True)

    def fill(self, streams: Sequence[str], items: Mapping[str, Any], make: Make) -> None:
        """Write one shard; where an utterance's states cannot be stored, note it and write the shard without it.

        Returns once all pieces are made; they may still be on their way to the disk.

        Args:
            streams: the names of the streams, for reports.
            items: what each utterance is made from.
            make: called again, with fewer items, where an utterance has to be left out.
        """
        filling = self._begin(streams, items, make)
        self._settle_before()
        self._before = filling

    def _begin(self, streams: Sequence[str], items: Mapping[str, Any], make: Make) -> _Filling | None:
        while items:
            shards, tasks = make(items)
            filling = _Filling(tuple(streams), items, make, shards)
            try:
                for task in tasks:
                    self._raise_from(self._before)
                    if filling.error is not None:
                        raise filling.error
                    self._tasks.put((filling, task))
            except UnstorableError as error:
                self._abandon(filling)
                items = self._without(filling, error)
            except BaseException:
                self._abandon(filling)
                raise
            else:
                self._tasks.put((filling, lambda filling=filling: _commit(filling)))  # type: ignore[misc]
                return filling
        return None

    def _settle_before(self) -> None:
        """Wait for the shard before this one, and write it anew where one of its utterances cannot be stored."""
        while (filling := self._before) is not None:
            filling.done.wait()
            self._before = None
            if isinstance(filling.error, UnstorableError):
                self._before = self._begin(filling.streams, self._without(filling, filling.error), filling.make)
            elif filling.error is not None:
                raise filling.error
            else:
                for stream in filling.streams:
                    self._work.wrote(stream, len(filling.items))

    def _without(self, filling: _Filling, error: UnstorableError) -> dict[str, Any]:
        for stream in filling.streams:
            self._work.fail(error.utterance_id, stream, str(error))
        return {uid: item for uid, item in filling.items.items() if uid != error.utterance_id}

    @staticmethod
    def _raise_from(filling: _Filling | None) -> None:
        if filling is not None and filling.error is not None and not isinstance(filling.error, UnstorableError):
            raise filling.error

    def _abandon(self, filling: _Filling) -> None:
        """Remove what was written of a shard, behind the tasks under way."""
        if filling.error is None:
            filling.error = RuntimeError("abandoned")
        self._tasks.put((filling, lambda: None))
        filling.done.wait()

    def _write(self) -> None:
        """What the thread does: every task in its turn; behind an error, none of the same shard."""
        while (entry := self._tasks.get()) is not None:
            filling, task = entry
            if filling.error is None:
                try:
                    task()
                except BaseException as error:  # of whatever kind, it is the stage's, which waits for it
                    filling.error = error
            if filling.error is not None and not filling.done.is_set():
                _close(filling)
                filling.done.set()

    def __enter__(self) -> "WriterThread":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            if error is None:
                self._settle_before()
            elif self._before is not None:
                self._before.done.wait()
                if self._before.error is None:
                    for stream in self._before.streams:
                        self._work.wrote(stream, len(self._before.items))
        finally:
            self._tasks.put(None)
            self._thread.join()


def _commit(filling: _Filling) -> None:
    for shard in filling.shards:
        shard.commit()
    filling.done.set()


def _close(filling: _Filling) -> None:
    for shard in filling.shards:
        try:
            shard.__exit__(None, None, None)
        except Exception as error:  # closing a file on a full disk fails as writing it did
            filling.error = filling.error or error


def fetch(states: torch.Tensor, dtype: str) -> Callable[[], NDArray]:
    """Begin to copy states from the device in the type they are stored in; call what it returns to wait for them.

    Args:
        states: any shape, any device; not changed afterwards.
        dtype: ``float16`` or ``float32``.
    """
    stored = states.to(TORCH_TYPES[dtype])
    if stored.device.type != "cuda":
        return lambda: np.asarray(stored.cpu().numpy(), np.dtype(dtype).newbyteorder("<"))
    host = torch.empty(stored.shape, dtype=stored.dtype, pin_memory=True)
    host.copy_(stored, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(stored.device))  # else that of cuda:0, wherever the states are

    def wait() -> NDArray:
        copied.synchronize()
        return np.asarray(host.numpy(), np.dtype(dtype).newbyteorder("<"))

    return wait


def check_storable(
    utterance_ids: Sequence[str], peaks: NDArray[np.float32], dtype: str, compute: str, layers: Sequence[int]
) -> None:
    """Refuse states that are not finite, or that their stored type cannot hold.

    Args:
        utterance_ids: whose they are.
        peaks: (num_layers, utterances), the largest absolute value of each.
        dtype: ``float16`` or ``float32``.
        compute: the arithmetic they were made with, for the message.
        layers: the layers' own numbers, for the message.

    Raises:
        UnstorableError: names the layer and the largest value.
    """
    # Not "> limit": a comparison with NaN is false either way round.
    bad = ~(peaks <= float(np.finfo(dtype).max))
    if not bad.any():
        return
    column = int(np.flatnonzero(bad.any(axis=0))[0])
    row = int(np.flatnonzero(bad[:, column])[0])
    advice = "--compute bf16 or float32" if compute == "fp16" else "--dtype float32"
    raise UnstorableError(
        utterance_ids[column],
        f"a state of layer {layers[row]} is {peaks[row, column]:g}, more than {dtype} holds or not a number; nothing "
        f"of this utterance was stored (try {advice}, or look at the recording)",
    )


def peaks_of(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Largest absolute value of each layer of each utterance, (num_layers, utterances), float32, on the device.

    Args:
        parts: states of each utterance, (num_layers, rows, dim).
    """
    return torch.stack([part.abs().amax(dim=(1, 2)).float() for part in parts], dim=1)
