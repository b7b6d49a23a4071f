"""Pieces of work on a core each: as one by one, and whatever ends them leaves nothing behind."""

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
import torch

from mmser.errors import ProtocolError
from mmser.train import abreast as module
from mmser.train.abreast import abreast, can_fork

CPU = torch.device("cpu")

processes = pytest.param(False, marks=pytest.mark.skipif(not can_fork(), reason="no fork beside a GPU or off Linux"))
both = pytest.mark.parametrize("one_memory", [processes, True], ids=["processes", "threads"])


@pytest.fixture
def three_threads(threads: Callable[[int], None]) -> None:
    threads(3)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@both
@pytest.mark.usefixtures("three_threads")
def test_pieces_run_at_the_same_time_each_on_one_core(one_memory: bool, tmp_path: Path) -> None:
    """Three pieces that wait for each other: one after the other none would ever end."""

    def work(piece: int) -> Iterator[tuple[int, int]]:
        (tmp_path / str(piece)).touch()
        for _ in range(2000):
            if len(list(tmp_path.iterdir())) >= 3:
                break
            time.sleep(0.01)
        else:
            raise AssertionError("the others never came")
        yield piece, torch.get_num_threads()
        yield -piece, os.getpid()

    told = list(abreast(work, [3, 1, 2, 5], CPU, 9, one_memory=one_memory))
    firsts = [event for event in told if event[0] > 0]
    assert sorted(firsts) == [(1, 1), (2, 1), (3, 1), (5, 1)]
    assert all(told.index((piece, 1)) < [event[0] for event in told].index(-piece) for piece in (1, 2, 3, 5))
    assert (os.getpid() in {pid for piece, pid in told if piece < 0}) == one_memory
    assert torch.get_num_threads() == 3


@both
@pytest.mark.usefixtures("three_threads")
def test_no_more_pieces_are_at_work_than_memory_holds(one_memory: bool, tmp_path: Path) -> None:
    def work(piece: int) -> Iterator[int]:
        (tmp_path / str(piece)).touch()
        time.sleep(0.05)
        yield len(list(tmp_path.iterdir()))
        (tmp_path / str(piece)).unlink()

    assert max(abreast(work, range(6), CPU, 2, one_memory=one_memory)) <= 2


@both
@pytest.mark.usefixtures("three_threads")
def test_what_a_piece_raises_is_raised_and_the_others_are_stopped(one_memory: bool) -> None:
    def work(piece: int) -> Iterator[int]:
        yield os.getpid()
        for _ in range(200 if piece else 1):
            time.sleep(0.01)
            yield 1 // piece

    told: list[int] = []
    events = abreast(work, [1, 0, 2], CPU, 9, one_memory=one_memory)
    with pytest.raises(ZeroDivisionError) as raised, closing(events):
        told.extend(events)
    assert "yield 1 // piece" in "".join(traceback.format_exception(raised.value))  # where it was, also in a process
    assert torch.get_num_threads() == 3
    assert all(gone(pid) for pid in told if pid > 2 and pid != os.getpid())


@both
@pytest.mark.usefixtures("three_threads")
def test_who_stops_listening_stops_the_work(one_memory: bool, tmp_path: Path) -> None:
    def work(piece: int) -> Iterator[int]:
        for number in range(500):
            (tmp_path / f"{piece}").write_text(str(number))
            yield os.getpid()
            time.sleep(0.01)

    with closing(abreast(work, [1, 2, 3], CPU, 9, one_memory=one_memory)) as events:
        pids = {next(events) for _ in range(6)}
    assert one_memory or all(gone(pid) for pid in pids)
    reached = [path.read_text() for path in sorted(tmp_path.iterdir())]
    time.sleep(0.1)
    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == reached
    assert max(int(number or 0) for number in reached) < 400


@both
@pytest.mark.usefixtures("three_threads")
def test_a_fault_of_the_disk_is_not_taken_for_a_parent_that_is_gone(one_memory: bool) -> None:
    def work(piece: int) -> Iterator[int]:
        yield piece
        raise FileNotFoundError(2, "No such file", "states.h5")

    with pytest.raises(FileNotFoundError, match="states"):
        list(abreast(work, [1, 2, 3], CPU, 9, one_memory=one_memory))


@pytest.mark.skipif(not can_fork(), reason="no fork beside a GPU or off Linux")
@pytest.mark.usefixtures("three_threads")
def test_an_interrupt_from_the_keyboard_is_left_to_the_parent() -> None:
    """A terminal sends it to all of them."""

    def work(piece: int) -> Iterator[int]:
        os.kill(os.getpid(), signal.SIGINT)
        yield piece

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job may ignore it
    try:
        assert sorted(abreast(work, [1, 2, 3, 4], CPU, 9)) == [1, 2, 3, 4]
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(not can_fork(), reason="no fork beside a GPU or off Linux")
@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("victim", [1, 2, 3])
def test_a_process_that_is_killed_is_an_error_that_says_what_to_do(victim: int) -> None:
    def work(piece: int) -> Iterator[int]:
        yield piece
        if piece == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(20)

    with pytest.raises(ProtocolError, match=r"ended with exit code -9.*--memory-gb.*runs that ended are kept"):
        list(abreast(work, [1, 2, 3], CPU, 9))


@pytest.mark.skipif(not can_fork(), reason="no fork beside a GPU or off Linux")
@pytest.mark.usefixtures("three_threads")
def test_so_is_one_that_is_killed_amid_a_message() -> None:
    def work(_: int) -> Iterator[int | bytes]:
        yield os.getpid()
        yield bytes(10_000_000)  # more than a pipe takes at once

    def killed() -> None:
        with closing(abreast(work, [1, 2, 3], CPU, 9)) as events:
            for told in events:
                assert isinstance(told, int)
                time.sleep(0.1)
                os.kill(told, signal.SIGKILL)

    with pytest.raises(ProtocolError, match=r"ended with exit code -9"):
        killed()


@pytest.mark.skipif(not can_fork(), reason="no fork beside a GPU or off Linux")
@pytest.mark.usefixtures("three_threads")
def test_a_process_that_is_killed_between_pieces_is_the_same_error_if_any_are_left() -> None:
    """As while what came of the last one is kept: its memory is not given back until then."""

    def work(_: int) -> Iterator[int]:
        yield os.getpid()

    def killed(pieces: int) -> int:
        told = 0
        with closing(abreast(work, range(pieces), CPU, 9)) as events:
            for pid in events:
                told += 1
                time.sleep(0.1)  # by now it waits for another
                os.kill(pid, signal.SIGKILL)
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return told

    with pytest.raises(ProtocolError, match=r"ended with exit code -9.*runs that ended are kept"):
        killed(6)
    assert killed(3) == 3


@pytest.mark.skipif(not can_fork(), reason="no fork beside a GPU or off Linux")
def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    """Killed, the parent can tell them nothing: they see that nobody listens."""

    def work(piece: int) -> Iterator[int]:
        while True:
            (tmp_path / f"{piece}").write_text(str(os.getpid()))
            yield piece
            time.sleep(0.01)

    parent = os.fork()
    if not parent:
        torch.set_num_threads(2)
        for event in abreast(work, [1, 2], CPU, 9):
            assert event in (1, 2)
        os._exit(1)
    pids: list[int] = []
    for _ in range(1000):
        pids = [int(path.read_text() or 0) for path in tmp_path.iterdir()]
        if len(pids) == 2 and all(pids):
            break
        time.sleep(0.01)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    for _ in range(1000):
        if all(gone(pid) for pid in pids):
            break
        time.sleep(0.01)
    assert len(pids) == 2
    assert all(gone(pid) for pid in pids)


@pytest.mark.parametrize(
    ("device", "cores", "most", "pieces"), [("cuda", 3, 9, 2), ("cpu", 1, 9, 2), ("cpu", 3, 1, 2), ("cpu", 3, 9, 1)]
)
def test_a_gpu_one_core_one_piece_or_little_memory_take_one_by_one(
    device: str, cores: int, most: int, pieces: int, threads: Callable[[int], None]
) -> None:
    threads(cores)

    def work(piece: int) -> Iterator[tuple[int, int, int, object]]:
        yield piece, os.getpid(), torch.get_num_threads(), threading.current_thread()

    found: Sequence[tuple[int, int, int, object]] = list(abreast(work, range(pieces), torch.device(device), most))
    assert found == [(piece, os.getpid(), cores, threading.current_thread()) for piece in range(pieces)]


def test_no_fork_beside_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its driver's threads would be missing in the child."""
    monkeypatch.setattr(module.sys, "platform", "linux")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert not can_fork()
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert can_fork()
    monkeypatch.setattr(module.sys, "platform", "darwin")
    assert not can_fork()
