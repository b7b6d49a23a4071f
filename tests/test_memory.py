"""What a run is said to occupy, against what torch's allocator gave out while runs trained."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_cache import write_cache
from torch import nn
from torch.profiler import ProfilerActivity, profile

from mmser.cache import Cache
from mmser.devices import free_bytes
from mmser.errors import ProtocolError
from mmser.heads import HEADS
from mmser.heads.batch import Inputs
from mmser.train import engine, sharing
from mmser.train.engine import Run, Targets, Training, train
from mmser.train.evaluate import posteriors
from mmser.train.features import resident_bytes
from mmser.train.memory import FLAT_ROOM, PROCESS_BYTES, bytes_of_a_run, max_asked, max_stacked
from mmser.train.options import Experiment
from mmser.train.packed import Packed
from mmser.train.prepare import prepare
from mmser.train.run import train_head
from mmser.train.table import Table

DIM, NUM, BATCH = 32, 150, 16
TRAINING = Training(epochs=1, batch_size=BATCH)


def a_stream(seed: int, layers: int, *, even: bool) -> Packed:
    """Log-normal lengths, or all alike."""
    rng = np.random.default_rng(seed)
    lengths = np.full(NUM, 9) if even else np.clip(rng.lognormal(2.0, 0.7, NUM), 1, 60).astype(np.int64)
    values = torch.from_numpy(rng.normal(size=(layers, lengths.sum(), DIM))).half()
    return Packed(values, torch.tensor([0, *np.cumsum(lengths)]))


def a_table(layers: int = 1, *, even: bool = False) -> Table:
    return Table(tuple(map(str, range(NUM))), {"word": a_stream(0, layers, even=even)}, a_stream(1, layers, even=even))


def a_build(kind: str, layers: int = 1, **options: object) -> Callable[[], nn.Module]:
    inputs = Inputs(DIM, DIM, ("word",), layers, text_layers=layers)
    return lambda: HEADS[kind].build(inputs, 3, HEADS[kind].options(**options))


def some_runs(number: int, rates: int, layer: int | None) -> list[Run]:
    """Runs of one fold; so many rates share a seed's batches."""
    rows = np.random.default_rng(0).permutation(NUM)
    return [
        Run(f"run {n}", rows[:100], rows[100:], n // rates, layer, learning_rate=1e-3 / (1 + n % rates))
        for n in range(number)
    ]


def allocated(work: Callable[[], object], path: Path) -> int:
    """The most bytes that torch's allocator had given out at once during ``work``, by its own account."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as told:
        work()
    told.export_chrome_trace(str(path))
    events = [event for event in json.loads(path.read_text())["traceEvents"] if event["name"] == "[memory]"]
    totals = [event["args"]["Total Allocated"] for event in sorted(events, key=lambda event: event["ts"])]
    first = min(events, key=lambda event: event["ts"])["args"]
    return max(totals) - (first["Total Allocated"] - first["Bytes"])


CASES = {
    "probe": ("speech-probe", {"hidden": 64}, 1, 1, False),
    "mix of layers, many rates": ("speech-probe", {"hidden": 16}, 6, 4, False),
    "mix of text layers": ("text-network", {"hidden": 16}, 6, 4, False),
    "mixes end to end": ("coattention", {"width": 16, "heads": 2}, 3, 1, False),
    "end to end": ("coattention", {"width": 16, "heads": 2}, 1, 1, False),
    "padded": ("crossmodal-transformer", {"width": 16, "heads": 2, "blocks": 1}, 1, 1, True),
    "many weights": ("film", {"width": 512}, 1, 1, True),
}
"""Head, options, layers of speech and text, rates that share a seed's batches, whether lengths are alike."""


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("case", CASES)
def test_a_run_occupies_what_is_counted(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From above and from below. What a stack takes by itself is not in the difference of a larger and a smaller."""
    kind, options, layers, rates, even = CASES[case]
    table, build = a_table(layers, even=even), a_build(kind, layers, **options)
    targets, layer = Targets.of_classes(torch.arange(NUM) % 3, 3), None if layers > 1 else 0
    monkeypatch.setattr(engine, "max_stacked", lambda *_: 100)

    def used(runs: list[Run]) -> int:
        return allocated(lambda: train(table, targets, build, runs, TRAINING), tmp_path / f"{len(runs)}.json")

    few, many = (some_runs(groups * rates, rates, layer) for groups in (2, 5))
    a_run = (used(many) - used(few)) / (3 * rates)
    counted = bytes_of_a_run(table, build(), many, TRAINING)
    # Batches of other epochs and runs are up to a tenth larger, and what is gathered does not always meet the peak.
    assert counted / 2 < a_run < 1.15 * counted
    if even:
        assert a_run == pytest.approx(counted, rel=0.02)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("hidden", [0, 32])
def test_what_a_metric_loss_looks_at_is_counted(hidden: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe that shows what its last layer sees has it, for every run, where else it is one product."""
    table, build = a_table(6).means(), a_build("speech-probe", 6, hidden=hidden)
    targets, training = Targets.of_classes(torch.arange(NUM) % 3, 3), replace(TRAINING, metric_weight=0.1)
    monkeypatch.setattr(engine, "max_stacked", lambda *_: 100)

    def used(runs: list[Run]) -> int:
        return allocated(lambda: train(table, targets, build, runs, training), tmp_path / f"{len(runs)}.json")

    few, many = (some_runs(groups * 4, 4, None) for groups in (2, 5))
    a_run = (used(many) - used(few)) / 12
    assert 0.5 < a_run / bytes_of_a_run(table, build(), many, training) < 1.15


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kind", ["film", "attention-pool"])
def test_no_more_heads_are_asked_than_fit(kind: str, tmp_path: Path) -> None:
    """A training that was split to fit would else not fit when it is tested."""
    table, build = a_table(6, even=True), a_build(kind, 6)
    targets, runs = Targets.of_classes(torch.arange(NUM) % 3, 3), some_runs(12, 1, None)
    rows, layers = [run.dev_rows for run in runs], [run.layer for run in runs]
    trained = train(table, targets, build, runs, TRAINING)
    all_of_them = allocated(lambda: posteriors(table, build, trained, rows, batch_size=BATCH), tmp_path / "all.json")
    budget = all_of_them / 4
    tight = replace(TRAINING, memory_gb=budget / 1e9)
    most = max_asked(table, build(), rows, layers, tight)
    assert 1 <= most < 12
    found = allocated(
        lambda: posteriors(table, build, trained, rows, batch_size=BATCH, max_stacked=most), tmp_path / "few.json"
    )
    assert found < 1.3 * budget
    assert max_asked(table, build(), rows, layers, TRAINING) == 32


@pytest.mark.usefixtures("one_thread")
def test_a_run_that_is_alone_occupies_what_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that fills a core by itself; here there is nothing to compare with but the head's other copies."""
    monkeypatch.setattr(sharing, "ALONE_FLOP", 0)
    table, build, runs = a_table(), a_build("coattention", width=16, heads=2), some_runs(1, 1, 0)
    targets = Targets.of_classes(torch.arange(NUM) % 3, 3)
    alone = allocated(lambda: train(table, targets, build, runs, TRAINING), tmp_path / "trace.json")
    counted = bytes_of_a_run(table, build(), runs * 2, TRAINING)
    assert counted == bytes_of_a_run(table, build(), runs, TRAINING)
    copies = 4 * 4 * sum(parameter.numel() for parameter in build().parameters())
    assert 0.8 * counted < alone - copies < 1.15 * counted


@pytest.mark.usefixtures("one_thread")
def test_what_dev_rows_occupy_is_counted_where_they_are_the_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = np.full(NUM, 2)
    lengths[some_runs(1, 1, 0)[0].dev_rows] = 60
    stream = Packed(torch.randn(1, int(lengths.sum()), DIM), torch.tensor([0, *np.cumsum(lengths)]))
    table = Table(tuple(map(str, range(NUM))), {"word": stream}, stream)
    build, targets = a_build("coattention", width=16, heads=2), Targets.of_classes(torch.arange(NUM) % 3, 3)
    monkeypatch.setattr(engine, "max_stacked", lambda *_: 100)
    # Of seeds of one fold, which share the dev rows.
    few, many = (
        allocated(
            lambda number=number: train(table, targets, build, some_runs(number, 1, 0), TRAINING),
            tmp_path / f"{number}.json",
        )
        for number in (2, 5)
    )
    assert 0.5 < (many - few) / 3 / bytes_of_a_run(table, build(), some_runs(5, 1, 0), TRAINING) < 1.15


def test_states_that_the_free_memory_cannot_hold_are_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, one = write_cache(tmp_path / "toy"), Experiment(head="speech-probe", layer="9", granularity="word")
    held = resident_bytes(prepare(Cache(cache), [one])[0].sources, Cache(cache).manifest.ids, 1, 0, ["word"])
    monkeypatch.setattr("mmser.train.assemble.load_table", lambda *_: pytest.fail("states were read"))
    monkeypatch.setattr("mmser.train.memory.free_bytes", lambda device: held - 1.0)
    with pytest.raises(ProtocolError, match=r"states of 54 utterances to hold in memory: .* GB free; read one --layer"):
        train_head(cache, one, tmp_path / "run")
    monkeypatch.setattr("mmser.train.memory.free_bytes", lambda device: float(held))
    with pytest.raises(pytest.fail.Exception, match="states were read"):
        train_head(cache, one, tmp_path / "run")


def test_features_of_members_that_the_free_memory_cannot_hold_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer on what two heads of width 4 see, for 3 folds and 2 seeds of 54 utterances: 6 x 54 x 8 float32."""
    cache = write_cache(tmp_path / "toy")
    training = Training(epochs=1)
    both = Experiment(head="late-fusion", members=("speech-probe", "text-probe"), fusion="concat", folds="session",
                      layer="9", seeds=2, settings={"hidden": 4}, training=training)  # fmt: skip
    free = iter([1e9, 6 * 54 * 8 * 4 - 1.0])
    monkeypatch.setattr("mmser.train.memory.free_bytes", lambda device: next(free))
    with pytest.raises(ProtocolError, match=r"features of 6 runs: .* have fewer --seeds, or another --fusion"):
        train_head(cache, both, tmp_path / "run")
    free = iter([1e9, 6 * 54 * 8 * 4.0])
    assert len(train_head(cache, both, tmp_path / "run").lines) == 3


def test_what_is_free_is_what_linux_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = tmp_path / "meminfo"
    told.write_text("MemTotal:       16000 kB\nMemFree:          100 kB\nMemAvailable:    2048 kB\n")
    monkeypatch.setattr("mmser.devices._MEMINFO", told)
    assert free_bytes(torch.device("cpu")) == 2048 * 1024
    monkeypatch.setattr("mmser.devices._MEMINFO", tmp_path / "no")
    assert free_bytes(torch.device("cpu")) is None


@pytest.mark.parametrize(("cores", "processes"), [(1, 1), (2, 3), (3, 4)])
def test_what_runs_occupy_and_every_process_fits_the_budget(
    cores: int, processes: int, threads: Callable[[int], None]
) -> None:
    """No more runs than fit beside what the processes take, the one that forks the others included; and no fewer."""
    threads(cores)
    table, build, runs = a_table(), a_build("coattention", width=16, heads=2), some_runs(12, 1, 0)
    a_run = FLAT_ROOM * bytes_of_a_run(table, build(), runs, TRAINING)
    budget = 1e9
    most = max_stacked(table, build(), runs, replace(TRAINING, memory_gb=budget / 1e9))
    assert most * a_run + processes * PROCESS_BYTES <= budget < (most + 1) * a_run + processes * PROCESS_BYTES


def test_the_longest_utterances_are_not_taken_to_meet_in_one_batch(threads: Callable[[int], None]) -> None:
    """Batches are drawn: of a few long utterances among many, one or two are in the largest."""
    threads(1)
    lengths = np.where(np.arange(NUM) % 10 == 0, 60, 3)
    stream = Packed(torch.zeros(1, int(lengths.sum()), DIM), torch.tensor([0, *np.cumsum(lengths)]))
    table, build = Table(tuple(map(str, range(NUM))), {"word": stream}, stream), a_build("coattention", width=16)
    drawn = bytes_of_a_run(table, build(), some_runs(2, 1, 0), TRAINING)
    worst = bytes_of_a_run(
        table,
        build(),
        [replace(run, train_rows=np.arange(0, NUM, 10), dev_rows=np.array([1])) for run in some_runs(2, 1, 0)],
        TRAINING,
    )
    assert drawn < 0.7 * worst
