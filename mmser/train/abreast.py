"""Independent work on a processor's cores: each piece on a core of its own, where that is faster than all on one piece.

Training a stack is many small operations. Shared among cores, each waits for the slowest part of each operation and for
Python between them; a block of runs a core has nothing to wait for. Python's lock is no hindrance: it is held for a
small part of the time.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol, TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


class Abreast(Protocol):
    """Like ``map``, of a list."""

    def __call__(self, work: Callable[[T], R], pieces: Sequence[T], /) -> list[R]:
        """``work`` of each piece, in their order."""


def one_by_one(work: Callable[[T], R], pieces: Sequence[T], /) -> list[R]:
    """Each piece with all cores."""
    return [work(piece) for piece in pieces]


@contextmanager
def abreast(device: torch.device) -> Iterator[Abreast]:
    """What calls a function on several pieces at once, as many as torch has threads, each with one of them.

    A piece that is alone, or on a GPU, has all. The pieces must not touch each other's memory.
    """
    cores = torch.get_num_threads()
    if device.type != "cpu" or cores == 1:
        yield one_by_one
        return
    with ThreadPoolExecutor(cores) as pool:

        def at_once(work: Callable[[T], R], pieces: Sequence[T], /) -> list[R]:
            if len(pieces) == 1:
                return one_by_one(work, pieces)

            def alone(piece: T) -> R:
                torch.set_num_threads(1)  # MKL's is the whole process's, torch's own is the thread's
                return work(piece)

            try:
                return list(pool.map(alone, pieces))
            finally:
                torch.set_num_threads(cores)

        yield at_once
