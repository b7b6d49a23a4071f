"""Recordings of a shard, decoded ahead of the encoder, each in a process that may die of it.

A process decodes one recording at a time, so where one dies (libsndfile and soxr are C, and memory may run out) it is
known which recording it died of. They are started directly and not through multiprocessing, which would import the
main script in each, with torch where that imports it.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from mmser.audio import Recording
from mmser.cache import Unit
from mmser.errors import AudioError, MmserError
from mmser.extract.decoder_process import READY
from mmser.records import Utterance

PROCESS = "mmser.extract.decoder_process"
"""The module whose ``serve`` runs in each process."""

_START = (
    "import json, sys, importlib; sys.path[:] = json.loads(sys.argv[1]); importlib.import_module(sys.argv[2]).serve()"
)
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""numpy's libraries would start a thread a core in every process, for nothing."""

_HEADERS = 64
"""Utterances whose headers are asked for in one task."""


@dataclass(frozen=True)
class DecodedUnit:
    """A shard's utterances that could be decoded, in the planned order, and why the others could not."""

    unit: Unit
    recordings: dict[str, Recording]
    failures: dict[str, str]


class _DiedError(Exception):
    """A process ended instead of answering; says how."""


class _Process:
    """One decoder and the pipes to it."""

    def __init__(self) -> None:
        # -I: neither the folder we are in nor the environment decides what is imported, but this process's own path
        command = [sys.executable, "-I", "-c", _START, json.dumps([str(folder) for folder in sys.path]), PROCESS]
        try:
            self._process = subprocess.Popen(  # noqa: S603 - this Python, and no shell
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, **_ONE_THREAD},
                start_new_session=True,  # Ctrl-C is for this process, which then stops its decoders
            )
        except OSError as error:
            raise MmserError(f"no process can be started that decodes recordings ({error.strerror})") from error
        self._is_ready = False

    def ask(self, utterance: Utterance, *, header_alone: bool) -> tuple[dict[str, Any], Recording | None]:
        """What the process answers, and the recording where it decoded one.

        Raises:
            _DiedError: it ended instead.
            MmserError: it did not even start.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if not self._is_ready:
            if self._process.stdout.readline() != READY:
                raise MmserError(f"a process that decodes recordings did not start ({self._end()}); free some memory")
            self._is_ready = True
        request = {
            "path": str(utterance.audio),
            "start_s": utterance.start_s,
            "end_s": utterance.end_s,
            "header_alone": header_alone,
        }
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise _DiedError(self._end()) from None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise _DiedError(self._end())
        answer: dict[str, Any] = json.loads(line)
        if "digest" not in answer:
            return answer, None
        samples = np.empty(answer["num_samples"], "<f4")
        if self._process.stdout.readinto(samples.data.cast("B")) != samples.nbytes:  # type: ignore[attr-defined]
            raise _DiedError(self._end())
        return answer, Recording(samples, answer["digest"])

    def _end(self) -> str:
        code = self._process.wait()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def kill(self) -> None:
        """End it now, whatever it does; whoever waits for its answer sees it die."""
        self._process.kill()

    def stop(self) -> None:
        """End it now, and let go of it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:  # half a request was left in it
                continue


class Decoders:
    """Decodes in processes, at most so many at once; also a context manager, which stops them.

    A recording of which a process dies is tried once more, in a new process; if that dies too, it is the recording's
    failure and the others go on.
    """

    def __init__(self, jobs: int | None = None) -> None:
        """Prepare; processes start as they are needed, or by :meth:`start`.

        Args:
            jobs: processes at most; None: one a core.
        """
        self._jobs = jobs or os.cpu_count() or 1
        self._threads = ThreadPoolExecutor(self._jobs, "mmser-decoder")  # each waits for one process
        self._lock = threading.Lock()
        self._idle: list[_Process] = []
        self._busy: set[_Process] = set()
        self._is_closed = False

    def start(self, number: int) -> None:
        """Start processes for so many utterances, and do not wait for them."""
        with self._lock:
            while len(self._idle) + len(self._busy) < min(number, self._jobs):
                self._idle.append(_Process())

    def units(self, units: Sequence[Unit], utterances: dict[str, Utterance]) -> Iterator[DecodedUnit]:
        """Decode the planned shards one by one, the next one while the caller works on this one.

        Raises:
            MmserError: no process can be started.
        """

        def begin(unit: Unit) -> list[Future[Recording]]:
            return [self._threads.submit(self._decode, utterances[uid]) for uid in unit.utterance_ids]

        futures: list[Future[Recording]] = []
        ahead = begin(units[0]) if units else []
        try:
            for i, unit in enumerate(units):
                futures, ahead = ahead, begin(units[i + 1]) if i + 1 < len(units) else []
                recordings, failures = {}, {}
                for uid, future in zip(unit.utterance_ids, futures, strict=True):
                    try:
                        recordings[uid] = future.result()
                    except AudioError as error:
                        failures[uid] = str(error)
                futures = []  # they hold the recordings, which the caller may let go of
                yield DecodedUnit(unit, recordings, failures)
        finally:
            for future in [*futures, *ahead]:
                future.cancel()

    def durations(self, utterances: Iterable[Utterance]) -> tuple[dict[str, float], dict[str, str]]:
        """Seconds of each utterance from its file's header, and the reason where there are none to be had.

        Raises:
            MmserError: no process can be started.
        """
        left, parts = iter(utterances), []
        while part := list(islice(left, _HEADERS)):
            parts.append(self._threads.submit(self._look, part))
        found: dict[str, float] = {}
        failures: dict[str, str] = {}
        try:
            for future in parts:
                some, others = future.result()
                found.update(some)
                failures.update(others)
        finally:
            for future in parts:
                future.cancel()
        return found, failures

    def _look(self, utterances: Sequence[Utterance]) -> tuple[dict[str, float], dict[str, str]]:
        found, failures = {}, {}
        for utterance in utterances:
            try:
                found[utterance.utterance_id] = float(self._ask(utterance, header_alone=True)[0]["duration_s"])
            except AudioError as error:
                failures[utterance.utterance_id] = str(error)
        return found, failures

    def _decode(self, utterance: Utterance) -> Recording:
        recording = self._ask(utterance, header_alone=False)[1]
        assert recording is not None
        return recording

    def _ask(self, utterance: Utterance, *, header_alone: bool) -> tuple[dict[str, Any], Recording | None]:
        ends = []
        for _ in range(2):
            process = self._take()
            try:
                answer, recording = process.ask(utterance, header_alone=header_alone)
            except _DiedError as death:
                ends.append(str(death))
                self._drop(process)
                continue
            except BaseException:
                self._drop(process)
                raise
            self._put_back(process)
            if "refused" in answer:
                raise AudioError(answer["refused"])
            assert "defect" not in answer, f"utterance {utterance.utterance_id!r}: {answer['defect']}"
            return answer, recording
        raise AudioError(
            f"audio {str(utterance.audio)!r}: the process that decoded it died ({ends[0]}), and so did the next one "
            f"({ends[1]}); convert the recording with another program, or leave it out. SIGKILL may mean that memory "
            "ran out: give fewer --jobs"
        )

    def _take(self) -> _Process:
        with self._lock:
            if self._is_closed:
                raise CancelledError
            process = self._idle.pop() if self._idle else _Process()
            self._busy.add(process)
            return process

    def _put_back(self, process: _Process) -> None:
        with self._lock:
            self._busy.discard(process)
            self._idle.append(process)

    def _drop(self, process: _Process) -> None:
        with self._lock:
            self._busy.discard(process)
        process.stop()

    def close(self) -> None:
        """Stop the processes, whatever they do. May be called twice."""
        with self._lock:
            self._is_closed = True
            for process in self._busy:
                process.kill()  # the thread that waits for it lets go of it
        self._threads.shutdown(wait=True, cancel_futures=True)
        for process in self._idle:
            process.stop()
        self._idle.clear()

    def __enter__(self) -> "Decoders":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
