"""Which runs train together: every run once, of about one size, groups whole where they can be, within memory."""

from collections.abc import Callable
from itertools import groupby

import numpy as np
import pytest
import torch

from mmser.heads import HEADS
from mmser.heads.batch import Inputs
from mmser.train.packed import Packed
from mmser.train.plan import Run
from mmser.train.sharing import (
    CPU_TOGETHER,
    FLAT_TOGETHER,
    batches_of,
    blocks_of,
    in_order,
    most_together,
    pieces_of,
)
from mmser.train.table import Table


@pytest.fixture(autouse=True)
def two_cores(threads: Callable[[int], None]) -> None:
    threads(2)


def sizes(keys: str, together: int | None, most: int) -> list[int]:
    pieces = pieces_of(keys, together, most)
    assert [place for piece in pieces for place in range(len(keys))[piece]] == list(range(len(keys)))
    return [piece.stop - piece.start for piece in pieces]


def test_there_is_a_piece_for_every_core_or_several_of_one_size() -> None:
    assert sizes("abcdefghij", 5, 99) == [5, 5]
    assert sizes("abcdefghi", 5, 99) == [5, 4]
    assert sizes("abcdefghijklmnopqrstuvwxyz", 6, 99) == [7, 7, 6, 6]
    assert sizes("abc", 40, 99) == [2, 1]


def test_runs_that_share_their_data_stay_together_where_that_costs_little() -> None:
    groups = "".join(6 * name for name in "abcdefghijklmnopqrstuvwxy")  # SUPERB's sweep: 25 folds and seeds, six rates
    found = sizes(groups, 40, 999)
    assert sum(found) == 150
    assert len(found) == 4
    assert all(size % 6 == 0 for size in found)
    assert sizes("aaaaaaaa", 40, 99) == [4, 4]  # one group is cut, rather than that a core idles


def test_no_piece_is_larger_than_memory_allows() -> None:
    groups = "".join(7 * name for name in "abcdefg")
    for most in range(2, 60):
        assert max(sizes(groups, 40, most)) <= max(1, most // 2)  # two pieces at a time
        assert max(sizes(groups, None, most)) <= most  # a GPU: one at a time
    assert sizes(groups, None, 60) == [49]
    assert sizes(groups, 1, 1) == [1] * 49


def a_table(device: str = "cpu", *, lengths: tuple[int, ...] = (9, 11)) -> Table:
    def stream(dim: int) -> Packed:
        return Packed(
            torch.zeros(1, sum(lengths), dim, device=device), torch.tensor([0, *torch.tensor(lengths).cumsum(0)])
        )

    return Table(tuple("ab"), {"word": stream(768)}, stream(768))


def test_a_run_is_alone_where_it_fills_a_core() -> None:
    def together(kind: str, table: Table, **options: int) -> int | None:
        inputs = Inputs(768, 768, ("word",))
        return most_together(table, HEADS[kind].build(inputs, 4, HEADS[kind].options(**options)), 32)

    assert together("coattention", a_table()) == 1
    assert together("coattention", a_table(), width=32) == FLAT_TOGETHER
    assert together("coattention", a_table(lengths=(2, 1)), width=64) == FLAT_TOGETHER
    assert together("speech-probe", a_table()) == CPU_TOGETHER
    assert together("coattention", a_table(lengths=(10, 10))) == CPU_TOGETHER  # of one length: nothing to fill up
    assert together("coattention", a_table("meta")) is None


def test_groups_are_what_the_keys_say() -> None:
    """The sweep's pieces end where a group ends."""
    groups = "".join(6 * name for name in "abcdefghijklmnopqrstuvwxy")
    for piece in pieces_of(groups, 40, 999):
        assert {len(list(group)) for _, group in groupby(groups[piece])} == {6}


def test_in_any_choice_of_runs_groups_are_whole_and_those_at_work_longest_come_first() -> None:
    """As a resume leaves them, and as memory cuts them: also where runs of one group have other dev parts."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        parts = [np.arange(length) for length in rng.integers(5, 9, 4)]
        devs = [np.arange(20 + fold % 2, 25) for fold in range(3)]
        runs = [
            Run(f"{n}", parts[rng.integers(4)], devs[rng.integers(3)], int(rng.integers(2)), 0, learning_rate=1e-3)
            for n in range(rng.integers(1, 14))
        ]
        runs = [runs[number] for number in in_order(runs)]
        keys = batches_of(runs)
        for block in blocks_of(keys, int(rng.integers(1, 14))):
            groups = [keys[place : place + block.members] for place in range(len(runs))[block.span][:: block.members]]
            assert all(len(set(group)) == 1 for group in groups)
            assert len({group[0] for group in groups}) == len(groups)
            lengths = [len(run.train_rows) for run in runs[block.leaders]]
            assert lengths == sorted(lengths, reverse=True)
