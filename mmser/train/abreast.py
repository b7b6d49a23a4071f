"""Independent work on a processor's cores: each piece on a core of its own, where that is faster than all on one piece.

Training a stack is many small operations. Shared among cores, each waits for the slowest part of each operation and for
Python between them; a piece a core has nothing to wait for. Processes do not even share Python's lock, for which two
threads that train wait a tenth of their time (docs/benchmarks.md), and end at once when they are to. They are forked,
so that they see the resident features where they are and nothing is copied. Where a fork is not safe, threads do the
same.
"""

import multiprocessing
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from queue import SimpleQueue
from typing import Any, TypeVar

import torch

from mmser.errors import ProtocolError

T = TypeVar("T")
E = TypeVar("E")
Work = Callable[[T], Iterator[E]]


def abreast(
    work: Work[T, E], pieces: Sequence[T], device: torch.device, most: int, *, one_memory: bool = False
) -> Generator[E, None, None]:
    """What ``work`` tells of each piece, as it comes: of one piece in order, of several in any.

    Args:
        work: yields what is to be told of a piece. It may be called in another process: what it changes stays there,
            and what it yields must not hold tensors, which would travel by shared memory.
        pieces: as many at a time as torch has threads, each with one of them. One that is alone, or on a GPU, has all.
        device: where the work computes.
        most: pieces at a time, however many threads there are.
        one_memory: ``work`` changes what the caller sees: threads, never processes.

    Raises:
        ProtocolError: a process was killed.
        Exception: whatever ``work`` raised; the other pieces are stopped.
    """
    cores = min(torch.get_num_threads(), len(pieces), most)
    if device.type != "cpu" or cores <= 1:
        for piece in pieces:
            yield from work(piece)
    elif one_memory or not can_fork():
        yield from _in_threads(work, pieces, cores)
    else:
        yield from _in_processes(work, pieces, cores)


def can_fork() -> bool:
    """Whether a forked process may train: not beside a GPU's threads, whoever made it, nor where macOS forbids it."""
    return sys.platform == "linux" and not torch.accelerator.is_available()


class _Raised(Exception):  # noqa: N818
    """The traceback of an exception in another process, shown as the cause of it."""


def _in_processes(work: Work[T, E], pieces: Sequence[T], cores: int) -> Generator[E, None, None]:
    context = multiprocessing.get_context("fork")
    numbers = iter(range(len(pieces)))
    team: dict[Connection, ForkProcess] = {}
    try:
        for number in (next(numbers) for _ in range(cores)):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(work, pieces, theirs, [ours, *team]), daemon=True)
            with warnings.catch_warnings():  # of Python 3.12, that other threads are not forked: ours are idle
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            theirs.close()
            team[ours] = process
            _give(ours, process, number)
        while team:
            ready = wait(list(team))
            for ours in [one for one in team if one in ready]:
                told, error = _received(ours, team[ours])
                if error is not None:
                    raise error
                if told is not None:
                    yield told[0]
                    continue
                upcoming = next(numbers, None)
                _give(ours, team[ours], upcoming)
                if upcoming is None:
                    team.pop(ours).join()
                    ours.close()
    finally:
        for ours, process in team.items():
            process.kill()
            process.join()
            ours.close()


def _give(ours: Connection, process: ForkProcess, number: int | None) -> None:
    """Tell a process which piece is next, or None: that there are no more, which one that is gone need not know."""
    try:
        ours.send(number)
    except OSError:
        if number is not None:
            raise _ended(process) from None


def _ended(process: ForkProcess) -> ProtocolError:
    """The error that a process ended with pieces left."""
    process.join()
    return ProtocolError(
        f"a training process ended with exit code {process.exitcode}, where -9 is mostly the system's, for lack of "
        "memory: lower --memory-gb, or OMP_NUM_THREADS, and run the same command again; runs that ended are kept"
    )


def _received(ours: Connection, process: ForkProcess) -> tuple[tuple[Any] | None, Exception | None]:
    """What a process told, or None at the end of a piece; and what it raised."""
    try:
        told, error, trace = ours.recv()
    except (EOFError, OSError):  # an OSError if it ended amid a message
        raise _ended(process) from None
    if error is not None:
        error.__cause__ = _Raised(f"\n{trace}")
    return told, error


def _serve(work: Work[T, E], pieces: Sequence[T], theirs: Connection, others: Sequence[Connection]) -> None:
    """In a process of its own: work on the pieces whose numbers come, until there are no more or nobody listens."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to answer
    for other in others:  # held open here, they would hide from the other processes that the parent is gone
        other.close()
    torch.set_num_threads(1)
    try:
        while (number := theirs.recv()) is not None:
            for event in work(pieces[number]):
                theirs.send(((event,), None, ""))
            theirs.send((None, None, ""))
    except (EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone
        return
    except Exception as error:
        theirs.send((None, error, traceback.format_exc()))


def _in_threads(work: Work[T, E], pieces: Sequence[T], cores: int) -> Iterator[E]:
    told: SimpleQueue[tuple[E] | BaseException | None] = SimpleQueue()
    stopped = threading.Event()

    def serve(piece: T) -> None:
        torch.set_num_threads(1)  # MKL's is the whole process's, torch's own is the thread's
        try:
            for event in work(piece):
                told.put((event,))
                if stopped.is_set():
                    return
            told.put(None)
        except BaseException as error:
            told.put(error)

    before, pool = torch.get_num_threads(), ThreadPoolExecutor(cores)
    try:
        for piece in pieces:
            pool.submit(serve, piece)
        ended = 0
        while ended < len(pieces):
            event = told.get()
            if isinstance(event, BaseException):
                raise event
            if event is None:
                ended += 1
            else:
                yield event[0]
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
