"""Which runs train together: every run once, of about one size, groups whole where they can be, within memory."""

from collections.abc import Callable
from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest
import torch

from mmser import products
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
    questions_of,
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
    assert sizes(16 * "a" + 8 * "b", 40, 99) == [16, 8]  # a third more than half of all
    assert sizes(17 * "a" + 7 * "b", 40, 99) == [12, 12]


def test_no_piece_is_larger_than_memory_allows() -> None:
    groups = "".join(7 * name for name in "abcdefg")
    for most in range(1, 60):
        assert max(sizes(groups, 40, most)) <= max(1, most // 2)  # two pieces at a time
        assert max(sizes(groups, None, most)) <= most  # a GPU: one at a time
    assert sizes(groups, None, 60) == [49]
    assert sizes(14 * "a" + 10 * "b", 40, 28) == [14, 10]
    assert sizes(14 * "a" + 10 * "b", 40, 27) == [12, 12]
    assert sizes(groups, 1, 1) == sizes(groups, 1, 99) == [1] * 49  # each fills a core by itself


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


@pytest.mark.parametrize(("onednn", "limit", "longest"), [(False, 2e9, 16), (True, 4e9, 34)])
def test_a_core_is_filled_by_twice_as_many_operations_where_products_take_half_the_time(
    onednn: bool, limit: float, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "by_onednn", lambda: onednn)
    head = HEADS["coattention"].build(Inputs(768, 768, ("word",)), 4, HEADS["coattention"].options(width=128))
    weights = sum(parameter.numel() for parameter in head.parameters())
    for last, together in ((longest, FLAT_TOGETHER), (longest + 1, 1)):
        states = 2 * (1 + last) / 2  # of speech and text, for each of two utterances
        assert (6 * weights * 32 * states < limit) == (together > 1)
        assert most_together(a_table(lengths=(1, last)), head, 32) == together


def test_groups_are_what_the_keys_say() -> None:
    """The sweep's pieces end where a group ends."""
    groups = "".join(6 * name for name in "abcdefghijklmnopqrstuvwxy")
    for piece in pieces_of(groups, 40, 999):
        assert {len(list(group)) for _, group in groupby(groups[piece])} == {6}


def test_only_what_sees_the_very_same_in_the_same_order_shares_it() -> None:
    rows, one_off = np.arange(5), np.array([0, 1, 2, 3, 5])
    run = Run("one", rows, one_off, seed=1, layer=2, learning_rate=1e-3)
    alike = [
        {"learning_rate": 1e-2},
        {"weight_decay": 0.3},
        {"dev_rows": rows + 9},
        {"train_rows": rows.astype(np.int32)},
    ]
    unlike = [{"seed": 2}, {"layer": 1}, {"layer": None}, {"train_rows": one_off}, {"train_rows": rows[::-1]}]
    batches = batches_of([run, *(replace(run, **changes) for changes in (*alike, *unlike))])
    assert [key == batches[0] for key in batches] == [True] * 5 + [False] * 5
    asked = [(rows, 2), (rows.copy(), 2), (rows, 1), (rows, None), (one_off, 2), (rows[::-1], 2)]
    questions = questions_of(*zip(*asked, strict=True))
    assert [key == questions[0] for key in questions] == [True] * 2 + [False] * 4


def test_runs_that_are_asked_the_same_stand_together_the_largest_groups_first() -> None:
    """Here four runs of a group of their own, then two folds x two seeds in turn."""
    devs = [np.array([20]), np.array([21])]
    four = [Run("", np.arange(6), devs[n % 2], 0, learning_rate=10.0**-n) for n in range(4)]
    folds = [Run("", np.arange(6) + fold, devs[fold], seed) for seed in (1, 2) for fold in (0, 1)]
    runs = [*folds, *four]
    assert in_order(runs) == [4, 6, 5, 7, 0, 2, 1, 3]


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
        most = int(rng.integers(1, 14))
        for block in blocks_of(keys, most):
            groups = [keys[place : place + block.members] for place in range(len(runs))[block.span][:: block.members]]
            assert all(len(set(group)) == 1 for group in groups)
            assert len({group[0] for group in groups}) == len(groups)
            assert keys[block.leaders] == [group[0] for group in groups]
            assert len(groups) == 1 or block.groups * block.members <= most
            lengths = [len(run.train_rows) for run in runs[block.leaders]]
            assert lengths == sorted(lengths, reverse=True)
