"""Pieces of work on a core each: as one by one, in their order, and without a trace."""

import threading
from collections.abc import Iterator

import pytest
import torch

from mmser.train.abreast import abreast, one_by_one

CPU = torch.device("cpu")


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_pieces_run_at_the_same_time_each_on_one_core() -> None:
    """Three pieces that wait for each other: one after the other none would ever end."""
    met = threading.Barrier(3, timeout=20)

    def work(piece: int) -> tuple[int, int]:
        met.wait()
        return 10 * piece, torch.get_num_threads()

    with abreast(CPU) as at_once:
        assert at_once(work, [3, 1, 2]) == [(30, 1), (10, 1), (20, 1)]
        assert torch.get_num_threads() == 3
        assert at_once(lambda _: torch.get_num_threads(), ["alone"]) == [3]
        assert at_once(work, []) == []


@pytest.mark.usefixtures("three_threads")
def test_what_a_piece_raises_is_raised_and_the_threads_are_back() -> None:
    def work(piece: int) -> float:
        return 1 / piece

    with pytest.raises(ZeroDivisionError), abreast(CPU) as at_once:
        at_once(work, [1, 0, 2])
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_one_core_or_a_gpu_takes_one_by_one(device: str) -> None:
    before = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    with abreast(torch.device(device)) as at_once:
        assert at_once is one_by_one
        assert at_once(lambda _: threading.current_thread(), [1, 2]) == [threading.current_thread()] * 2
    torch.set_num_threads(before)
