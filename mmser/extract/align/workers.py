"""Worker processes that may die without taking the others' work along."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers(Generic[Item, Result]):
    """Maps a function over items in worker processes, results in order, whatever happens to a worker.

    Processes are spawned, never forked: a fork of a process in which torch has started threads may hang. So a script
    that uses this needs the usual ``if __name__ == "__main__":``.
    """

    def __init__(
        self,
        jobs: int,
        work: Callable[[Item], Result],
        lost: Callable[[Item], Result],
        *,
        prepare: Callable[..., None],
        arguments: tuple[object, ...] = (),
    ) -> None:
        """Prepare, without starting any process yet.

        Args:
            jobs: number of processes.
            work: done in a worker, one item at a time; a module's function that does not raise.
            lost: the result of an item whose worker died of it.
            prepare: called once in every new worker, with ``arguments``.
            arguments: must pickle.
        """
        self._jobs = jobs
        self._work = work
        self._lost = lost
        self._prepare = prepare
        self._arguments = arguments
        self._pool: ProcessPoolExecutor | None = None

    def map(self, items: Iterable[Item]) -> Iterator[Result]:
        """The results in the order of the items; at most two items per process are taken ahead."""
        waiting = iter(items)
        running: deque[tuple[Item, Future[Result]]] = deque()
        try:
            while True:
                for item in waiting:
                    running.append((item, self._submit(item)))
                    if len(running) >= 2 * self._jobs:
                        break
                if not running:
                    return
                item, future = running.popleft()
                try:
                    yield future.result()
                except BrokenProcessPool:
                    # a dead worker fails everything under way and does not say which item killed it
                    suspects = [(item, future), *running]
                    running.clear()
                    self.close()
                    for suspect, its_future in suspects:
                        yield self._settle(suspect, its_future)
        finally:
            for _, future in running:
                future.cancel()

    def _settle(self, item: Item, future: "Future[Result]") -> Result:
        """The result of an item that was under way when a worker died: what it had, or another try by itself."""
        with suppress(BrokenProcessPool):  # not known whether this item killed the worker: the try alone tells
            return future.result()
        with self._new_pool(1) as alone:
            try:
                return alone.submit(self._work, item).result()
            except BrokenProcessPool:
                return self._lost(item)

    def _submit(self, item: Item) -> "Future[Result]":
        if self._pool is None:
            self._pool = self._new_pool(self._jobs)
        try:
            return self._pool.submit(self._work, item)
        except BrokenProcessPool as broken:
            # the pool broke since: the item joins those that are tried again
            failed: Future[Result] = Future()
            failed.set_exception(broken)
            return failed

    def _new_pool(self, jobs: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            jobs,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=self._prepare,
            initargs=self._arguments,
        )

    def close(self) -> None:
        """Stop the processes once their present item is done; a later :meth:`map` starts new ones."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
