"""What the engine promises of company, at widths that are used: fifty neighbours change nothing, stopped ones cost
nothing.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_engine import a_build, a_run, a_table, learnable_labels
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmser.heads import HEADS
from mmser.heads.batch import Inputs
from mmser.train.engine import Run, Targets, Trained, Training, train
from mmser.train.packed import Packed
from mmser.train.table import Table

NUM, NUM_TRAIN, DIM, WIDTH, CLASSES = 100, 80, 256, 64, 4
TWENTY_STEPS = Training(epochs=1, batch_size=4)
TOLERANCE = 1e-5
HEAD_OPTIONS = {
    "coattention": {"width": WIDTH, "heads": 8, "dropout": 0.0, "block_dropout": 0.0},
    "speech-probe": {"hidden": WIDTH},
}


def a_wide_table() -> Table:
    rng = np.random.default_rng(0)

    def stream(layers: int) -> Packed:
        lengths = rng.integers(1, 8, NUM)
        values = rng.normal(0.3, 2.0, (layers, lengths.sum(), DIM))
        return Packed(torch.from_numpy(values).half(), torch.tensor([0, *np.cumsum(lengths)]))

    return Table(tuple(f"u{n}" for n in range(NUM)), {"word": stream(2)}, stream(1))


def wide_runs() -> list[Run]:
    """51: folds, seeds, layers, rates and decays, in no order."""

    def run(number: int) -> Run:
        rows = np.random.default_rng(number % 5).permutation(NUM)
        rate, decay = (1e-4, 1e-3, 5e-3)[number % 3], (0.0, 0.1)[number % 2]
        return Run(f"run {number}", rows[:NUM_TRAIN], rows[NUM_TRAIN:], number // 5, number % 2, rate, decay)

    return [run(int(number)) for number in np.random.default_rng(1).permutation(51)]


def wide_build(kind: str) -> Callable[[], nn.Module]:
    options = HEADS[kind].options(**HEAD_OPTIONS[kind])
    return lambda: HEADS[kind].build(Inputs(DIM, DIM, ("word",)), CLASSES, options)


@pytest.mark.parametrize("kind", HEAD_OPTIONS)
def test_after_twenty_steps_a_run_among_fifty_has_the_weights_it_has_alone(kind: str) -> None:
    table, runs, build = a_wide_table(), wide_runs(), wide_build(kind)
    targets = Targets.of_classes(torch.from_numpy(np.random.default_rng(2).integers(0, CLASSES, NUM)), CLASSES)
    among = train(table, targets, build, runs, TWENTY_STEPS)
    assert len({trained.state["classify.bias"].numpy().tobytes() for trained in among}) == 51
    for place in (7, 25):
        (alone,) = train(table, targets, build, [runs[place]], TWENTY_STEPS)
        torch.manual_seed(runs[place].seed)
        before = build().state_dict()
        for name, value in alone.state.items():
            assert (value - before[name]).abs().max() > 10 * TOLERANCE, f"{name} has hardly moved"
            torch.testing.assert_close(among[place].state[name], value, rtol=0, atol=TOLERANCE)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("case", ["probe", "co-attention"])
def test_no_row_of_a_run_that_has_stopped_is_gathered(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run has rows that no other has: an epoch's rows say who was at work."""
    gathered: set[int] = set()
    gather = Table.gather

    def noted(self: Table, rows: torch.Tensor, *others: object, **options: object) -> object:
        gathered.update(rows.flatten().tolist())
        return gather(self, rows, *others, **options)

    monkeypatch.setattr(Table, "gather", noted)
    runs = [
        a_run(case, seed=number, train_rows=np.arange(first, first + 14), dev_rows=np.arange(first + 14, first + 20))
        for number, first in enumerate(range(0, 80, 20))
    ]
    epochs: list[set[int]] = []

    def epoch_ended(_done: int, _total: int) -> None:
        epochs.append(set(gathered))
        gathered.clear()

    table = a_table()
    patient = Training(epochs=5, batch_size=4, patience=1)
    trained = train(table, learnable_labels(table), a_build(case), runs, patient, progress=epoch_ended)
    lasted = [len(one.history) for one in trained]
    assert len(set(lasted)) > 1, "the test needs runs that stop at different times"
    assert len(epochs) == max(lasted)
    for number, rows in enumerate(epochs):
        at_work = [run for run, last in zip(runs, lasted, strict=True) if last > number]
        assert rows == {int(row) for run in at_work for part in (run.train_rows, run.dev_rows) for row in part}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("case", ["probe", "plain co-attention"])
def test_a_run_that_has_stopped_is_no_longer_computed(case: str) -> None:
    """Runs of two rates share their batches; one diverges in its first epoch: then there is the work of one."""
    table = a_table()

    def flops(runs: list[Run]) -> tuple[list[int], list[Trained]]:
        ends = [0]
        with FlopCounterMode(display=False) as counter:
            trained = train(
                table,
                learnable_labels(table),
                a_build(case),
                runs,
                Training(epochs=2, batch_size=8),
                progress=lambda _done, _total: ends.append(counter.get_total_flops()),
            )
        return [int(each) for each in np.diff(ends)], trained

    calm = a_run(case, num_train=16)
    together, (_, wild) = flops([calm, replace(calm, name="wild", learning_rate=1e30)])
    alone, _ = flops([calm])
    assert wild.diverged
    assert len(wild.history) == 1
    assert together[0] > 1.5 * alone[0] > 0
    assert together[1:] == alone[1:]
