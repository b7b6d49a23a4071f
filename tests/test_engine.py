"""The stacked engine: equal to the serial loop, blind to its neighbours and to rows that are not its own."""

import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from torch import nn
from torch.nn import functional as F

from mmser.errors import ProtocolError
from mmser.heads import HEADS
from mmser.heads.batch import Inputs
from mmser.heads.layers import Standardise
from mmser.train import abreast, engine, sharing
from mmser.train.engine import Run, Targets, Trained, Training, posteriors, train
from mmser.train.evaluate import unweighted_averages
from mmser.train.losses import mean_losses
from mmser.train.memory import max_stacked
from mmser.train.packed import Packed
from mmser.train.serial import train_serially
from mmser.train.stack import Stack, fill_standardise
from mmser.train.table import Table

DIM, TEXT_DIM, MEL_DIM, LAYERS, CLASSES, NUM = 6, 5, 4, 3, 3, 90

CASES = {
    "probe": ("speech-probe", {"hidden": 8, "dropout": 0.3}, 1),
    "mixing probe": ("speech-probe", {"hidden": 0, "pooling": "mean+std"}, LAYERS),
    "plain mixing probe": ("speech-probe", {"hidden": 8}, LAYERS),
    "text probe": ("text-probe", {"hidden": 8}, 1),
    "mixing text probe": ("text-probe", {"hidden": 8}, 1),
    "co-attention": ("coattention", {"width": 8, "heads": 2}, 1),
    "deep co-attention": ("coattention", {"width": 8, "heads": 1, "blocks": 2, "self_attention": "after"}, 1),
    "plain co-attention": ("coattention", {"width": 8, "heads": 2, "dropout": 0.0, "block_dropout": 0.0}, 1),
    "mixing co-attention": ("coattention", {"width": 8, "heads": 1, "pooling": "attention"}, LAYERS),
    "co-attention by time": ("coattention", {"width": 8, "heads": 1, "positions": "time", "queries": "last"}, 1),
    "summaries": ("cls-coattention", {"width": 8, "heads": 2, "summary": "attention"}, 1),
    "random co-attention": ("bayesian-coattention", {"width": 8, "heads": 2, "shape": 2.0}, 1),
    "crossmodal": ("crossmodal-transformer", {"width": 8, "heads": 1, "blocks": 2}, 1),
    "crossing": ("mmer-cross", {"width": 8, "heads": 2}, 1),
    "one query": ("attention-pool", {"width": 8, "positions": "word"}, 1),
    "words": ("aligned-words", {"width": 8, "heads": 2}, LAYERS),
    "film": ("film", {"width": 8}, 1),
    "conditioned states": ("conditioned-states", {"width": 8, "blocks": 2}, 1),
    "text network": ("text-network", {"hidden": 8}, 1),
    "both mix": ("coattention", {"width": 8, "heads": 2}, LAYERS),
    "text mixes, speech has a layer a run": ("coattention", {"width": 8, "heads": 2, "positions": "word"}, 1),
    "experts": ("moe", {"width": 8, "layers": "experts"}, LAYERS),
    "prior of a lexicon": ("bayesian-coattention", {"width": 8, "heads": 2, "prior": "lexicon"}, 1),
    "spectral expert": ("moe", {"width": 8, "spectral": "mel"}, 1),
}
"""Kind, options, speech layers in the mix."""

TEXT_MIXES = ("mixing text probe", "both mix", "text mixes, speech has a layer a run")
"""Of these the text layers are mixed too."""
TEXT_LAYERS = 2


def a_stream(dim: int, layers: int, seed: int, dtype: torch.dtype = torch.float16) -> Packed:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 6, NUM)
    values = torch.from_numpy(rng.normal(1.0, 2.0, (layers, lengths.sum(), dim))).to(dtype)
    words = torch.from_numpy(np.concatenate([np.arange(length) // 2 - (seed == 2) for length in lengths]))
    weights = torch.from_numpy(rng.random(len(words), dtype=np.float32))
    return Packed(values, torch.tensor([0, *np.cumsum(lengths)]), words, words / 3 + 0.1 * seed, weights)


def a_table(text_layers: int = 1) -> Table:
    speech = {"word": a_stream(DIM, LAYERS, 1), "phone": a_stream(DIM, LAYERS, 2)}
    mel = a_stream(MEL_DIM, 1, 5).linked_by(())
    return Table(tuple(f"u{n}" for n in range(NUM)), speech, a_stream(TEXT_DIM, text_layers, 3), mel)


def table_for(case: str) -> Table:
    return a_table(TEXT_LAYERS if case in TEXT_MIXES else 1)


def some_labels() -> Targets:
    return Targets.of_classes(torch.from_numpy(np.random.default_rng(4).integers(0, CLASSES, NUM)), CLASSES)


def learnable_labels(table: Table) -> Targets:
    """Whether an utterance's first feature is above 1 on average: the dev score then climbs for a while."""
    word = table.speech["word"]
    first = [word.values[1, word.offsets[row] : word.offsets[row + 1], 0].float() - 1 for row in range(NUM)]
    return Targets.of_classes(torch.tensor([int(values.sum() > 0) for values in first]), CLASSES)


def a_build(case: str) -> Callable[[], nn.Module]:
    kind, options, layers = CASES[case]
    granularities = ("word", "phone") if case in ("co-attention", "mixing probe") else ("word",)
    inputs = Inputs(DIM, TEXT_DIM, granularities, layers, MEL_DIM, TEXT_LAYERS if case in TEXT_MIXES else 1)
    return lambda: HEADS[kind].build(inputs, CLASSES, HEADS[kind].options(**options))


def a_run(case: str, seed: int = 3, first: int = 0, num_train: int = 41, **changes: object) -> Run:
    rows = np.random.default_rng(first).permutation(NUM - 5)
    layer = None if CASES[case][2] > 1 else 1
    run = Run(f"run {seed}", rows[:num_train], rows[num_train : num_train + 20], seed, layer, learning_rate=3e-3)
    return replace(run, **changes)


def neighbours(case: str) -> list[Run]:
    """Runs with more and fewer steps an epoch, other folds, seeds, layers and rates; one of them diverges."""
    layer = None if CASES[case][2] > 1 else 2
    return [
        a_run(case, seed=8, first=1, num_train=60, layer=layer, learning_rate=1e-2),
        a_run(case),
        a_run(case, seed=9, first=2, num_train=12, layer=layer, weight_decay=0.3),
        a_run(case, seed=10, learning_rate=1e-4),
    ]


TRAINING = Training(epochs=4, batch_size=8, label_smoothing=0.1, class_weights="balanced")


def assert_same(one: Trained, other: Trained, tolerance: float = 1e-5) -> None:
    assert one.best_epoch == other.best_epoch
    assert one.dev_score == pytest.approx(other.dev_score, abs=1e-6)  # a CCC near 0 rounds, too
    np.testing.assert_allclose(np.array(one.history), np.array(other.history), rtol=1e-4, atol=1e-6)
    assert one.state.keys() == other.state.keys()
    for name in one.state:
        torch.testing.assert_close(one.state[name], other.state[name], rtol=tolerance, atol=tolerance)


def assert_identical(one: Trained, other: Trained) -> None:
    assert one.history == other.history
    for name in one.state:
        assert torch.equal(one.state[name], other.state[name]), name


@pytest.mark.parametrize("case", ["plain co-attention", "plain mixing probe"])
def test_a_piece_that_cuts_a_group_trains_its_runs_as_alone(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of a group of three is as large as a group of one with more steps an epoch, which follows it."""
    few = [a_run(case, num_train=12, first=1, learning_rate=rate) for rate in (1e-2, 3e-3, 1e-3)]
    runs = [*few, a_run(case, num_train=60)]
    monkeypatch.setattr(engine, "max_stacked", lambda *_: 2 * torch.get_num_threads())
    monkeypatch.setattr(engine, "most_together", lambda *_: 2)
    table, targets = table_for(case), some_labels()
    for one, run in zip(train(table, targets, a_build(case), runs, TRAINING), runs, strict=True):
        assert_same(one, train_serially(table, targets, a_build(case), run, TRAINING))


OF_MEANS = [case for case, (kind, given, _) in CASES.items() if HEADS[kind].reads_means(HEADS[kind].options(**given))]


@pytest.mark.parametrize("case", OF_MEANS)
def test_means_taken_once_teach_what_means_taken_in_every_step_do(case: str) -> None:
    table, targets, runs = table_for(case), some_labels(), [a_run(case), *neighbours(case)[2:]]
    of_states, of_means = (train(one, targets, a_build(case), runs, TRAINING) for one in (table, table.means()))
    for one, other in zip(of_states, of_means, strict=True):
        assert_same(one, other)
    assert_same(train_serially(table.means(), targets, a_build(case), runs[0], TRAINING), of_states[0])


def test_every_head_is_under_test() -> None:
    """Those that read log-mel frames train apart: test_apart.py."""
    assert {kind for kind, _, _ in CASES.values()} == {kind for kind in HEADS if not HEADS[kind].needs_mel}


@pytest.mark.parametrize("case", CASES)
def test_alone_among_others_and_serially_a_run_is_the_same(case: str) -> None:
    """After 24 steps, 6 an epoch (the last one of a single utterance)."""
    table, labels, build = table_for(case), some_labels(), a_build(case)
    (alone,) = train(table, labels, build, [a_run(case)], TRAINING)
    among = train(table, labels, build, neighbours(case), TRAINING)
    serial = train_serially(table, labels, build, a_run(case), TRAINING)
    assert len(serial.history) * 6 == 24
    assert_same(alone, serial)
    assert_same(among[1], serial)
    for run, trained in zip(neighbours(case), among, strict=True):
        assert trained.run.name == run.name
    assert_same(among[2], train_serially(table, labels, build, neighbours(case)[2], TRAINING))


def of_unequal_dev(case: str) -> list[Run]:
    return [
        replace(run, dev_rows=run.dev_rows[:num]) for run, num in zip(neighbours(case), (20, 7, 11, 20), strict=True)
    ]


def test_dev_parts_of_unequal_size_are_scored_each_by_itself() -> None:
    table, labels, build = a_table(), some_labels(), a_build("film")
    runs = of_unequal_dev("film")
    for run, trained in zip(runs, train(table, labels, build, runs, TRAINING), strict=True):
        assert_same(trained, train_serially(table, labels, build, run, TRAINING))


@pytest.mark.parametrize("case", ["co-attention", "mixing probe", "text network", "conditioned states"])
def test_under_sgd_too(case: str) -> None:
    table, labels, build = table_for(case), some_labels(), a_build(case)
    by_sgd = replace(TRAINING, optimiser="sgd", momentum=0.8, schedule="linear")
    (alone,) = train(table, labels, build, [a_run(case)], by_sgd)
    among = train(table, labels, build, neighbours(case), by_sgd)
    for run, trained in zip(neighbours(case), among, strict=True):
        if not trained.diverged:
            assert_same(trained, train_serially(table, labels, build, run, by_sgd))
    assert_same(alone, among[1])
    by_adamw = train_serially(table, labels, build, a_run(case), replace(by_sgd, optimiser="adamw"))
    assert alone.history != by_adamw.history


@pytest.mark.parametrize("case", ["co-attention", "mixing probe", "spectral expert"])
def test_a_metric_loss_is_the_same_alone_among_others_and_utterance_by_utterance(case: str) -> None:
    table, labels, build = table_for(case), some_labels(), a_build(case)
    contrasting = replace(TRAINING, metric_weight=0.5, metric_temperature=0.3)
    serial = train_serially(table, labels, build, a_run(case), contrasting)
    among = train(table, labels, build, neighbours(case), contrasting)
    assert_same(among[1], serial)
    for run, trained in zip(neighbours(case), among, strict=True):  # some end an epoch with fewer than a batch
        if not trained.diverged:
            assert_same(trained, train_serially(table, labels, build, run, contrasting))
    plain = train_serially(table, labels, build, a_run(case), TRAINING)
    assert serial.history[0].train_loss > plain.history[0].train_loss


def test_without_normalising_clipping_and_weights_too() -> None:
    table, labels, build = a_table(), some_labels(), a_build("co-attention")
    plain = Training(epochs=4, batch_size=16, normalise="none", clip_norm=0.0)
    among = train(table, labels, build, neighbours("co-attention"), plain)
    assert_same(among[1], train_serially(table, labels, build, a_run("co-attention"), plain))
    assert not among[1].state["pairs.word.speech_input.input.standardise.mean"].any()


def test_each_run_is_standardised_by_its_own_rows_and_layer() -> None:
    """The last shares its statistics with the first, whose seed alone is another."""
    table, build = a_table(), a_build("probe")
    runs = [a_run("probe", first=first, layer=layer) for first, layer in ((0, 0), (0, 1), (1, 1))]
    runs.append(a_run("probe", seed=9, layer=0))
    stack = Stack((build() for _ in runs), torch.device("cpu"))
    fill_standardise(stack, table, runs)
    (path,) = (name for name, module in stack.template.named_modules() if isinstance(module, Standardise))
    word = table.speech["word"]
    for number, run in enumerate(runs):
        spans = [slice(int(word.offsets[row]), int(word.offsets[row + 1])) for row in run.train_rows]
        states = torch.cat([word.values[run.layer, span] for span in spans]).double()
        for name, expected in (("mean", states.mean(0)), ("std", states.std(0, correction=0))):
            found = stack.buffers[f"{path}.{name}"][number].flatten().double()
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_runs_that_stop_leave_the_others_as_they_were() -> None:
    table, build = a_table(), a_build("probe")
    labels = learnable_labels(table)
    patient = replace(TRAINING, epochs=12, patience=2)
    among = train(table, labels, build, neighbours("probe"), patient)
    assert len({len(trained.history) for trained in among}) > 1, "the test needs runs that stop at different times"
    for run, trained in zip(neighbours("probe"), among, strict=True):
        assert_same(trained, train_serially(table, labels, build, run, patient))
        assert trained.best_epoch == 1 + int(np.argmax([epoch.dev_score for epoch in trained.history]))
        assert len(trained.history) in (12, trained.best_epoch + 2)


def a_sweep(case: str) -> list[Run]:
    """Two folds x two seeds x rates, in no order; the larger fold has fewer rates, and one run is there for itself."""
    runs = [
        a_run(case, seed=seed, first=first, num_train=num, learning_rate=rate)
        for first, num, rates in ((0, 41, (3e-3, 1e-2, 1e-4)), (1, 60, (3e-3, 1e-2)))
        for seed in (3, 4)
        for rate in rates
    ]
    return [*runs[::-2], a_run(case, seed=3, first=2), *runs[::2]]


@pytest.mark.parametrize(
    ("case", "together"),
    [("probe", 4), ("mixing probe", 99), ("plain mixing probe", 1), ("plain mixing probe", 99), ("co-attention", 4)],
)
def test_runs_that_share_their_batches_are_still_each_its_own(
    case: str, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is gathered and computed at once, and whichever of those who share it stop before the others."""
    monkeypatch.setattr("mmser.train.sharing.CPU_TOGETHER", together)
    table, build = table_for(case), a_build(case)
    labels = learnable_labels(table)
    patient = replace(TRAINING, epochs=6, patience=1)
    trained = train(table, labels, build, a_sweep(case), patient)
    assert len({len(one.history) for one in trained}) > 1, "the test needs runs that stop at different times"
    for run, one in zip(a_sweep(case), trained, strict=True):
        assert_same(one, train_serially(table, labels, build, run, patient))


@pytest.mark.usefixtures("one_thread")
def test_a_batch_is_gathered_once_for_all_that_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six rates of one fold and seed ask for as many utterances as one; five more seeds for no more dev utterances."""
    gathered = []
    gather = Table.gather

    def counted(self: Table, rows: torch.Tensor, *others: object, **options: object) -> object:
        gathered.append(rows.numel())
        return gather(self, rows, *others, **options)

    def asked(runs: list[Run]) -> int:
        gathered.clear()
        train(a_table(), some_labels(), a_build("probe"), runs, replace(TRAINING, epochs=1))
        return sum(gathered)

    monkeypatch.setattr(Table, "gather", counted)
    monkeypatch.setattr(engine, "max_stacked", lambda *_: 100)  # it gathers for itself
    rates = [a_run("probe", learning_rate=rate) for rate in (1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 1e-1)]
    seeds = [a_run("probe", seed=seed) for seed in range(6)]
    alone = asked(rates[:1])
    assert asked(rates) == alone
    assert asked(seeds) == alone + 5 * 41  # a last batch of one is not filled up


def test_small_memory_splits_the_stack_and_changes_nothing() -> None:
    table, labels, build = a_table(), some_labels(), a_build("co-attention")
    runs = neighbours("co-attention")
    ample, tight = replace(TRAINING, epochs=2), replace(TRAINING, epochs=2, memory_gb=1e-6)
    assert max_stacked(table, build(), runs, tight) == 1
    assert max_stacked(table, build(), runs, ample) > 100
    whole = train(table, labels, build, runs, ample)
    for one, other in zip(train(table, labels, build, runs, tight), whole, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("forks", [True, False])
@pytest.mark.parametrize(("case", "alone"), [("probe", False), ("co-attention", False), ("co-attention", True)])
def test_cores_side_by_side_come_to_what_one_comes_to(
    case: str, alone: bool, forks: bool, threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three cores take pieces of some runs, or of one each where it fills a core; in processes or threads."""
    monkeypatch.setattr(abreast, "can_fork", lambda: forks and sys.platform == "linux")
    monkeypatch.setattr(sharing, "ALONE_FLOP", 0 if alone else 1e30)
    runs = [a_run(case, seed=seed, first=seed, num_train=30 + 3 * seed) for seed in range(7)]
    found, said = [], []
    for cores in (1, 3):
        threads(cores)
        told: list[tuple[int, int]] = []
        kept: list[int] = []
        logged: list[int] = []
        found.append(
            train(
                a_table(),
                some_labels(),
                a_build(case),
                runs,
                TRAINING,
                progress=lambda *done, told=told: told.append(done),  # type: ignore[misc]
                finished=lambda number, _, kept=kept: kept.append(number),  # type: ignore[misc]
                log=lambda number, _, logged=logged: logged.append(number),  # type: ignore[misc]
            )
        )
        said.append((sorted(kept), sorted(logged)))
        assert torch.get_num_threads() == cores
        assert told == sorted(told)
        assert told[-1] == (7 * TRAINING.epochs, 7 * TRAINING.epochs)
    assert said[0] == said[1]
    assert said[0][0] == list(range(7))
    assert Counter(said[0][1]) == {number: len(one.history) for number, one in enumerate(found[0])}
    for one, other in zip(*found, strict=True):
        assert_same(one, other)


def test_repeated_training_is_identical_and_leaves_torchs_random_state() -> None:
    state = torch.get_rng_state()
    first, second = (
        train(a_table(), some_labels(), a_build("co-attention"), neighbours("co-attention"), TRAINING) for _ in range(2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    for one, other in zip(first, second, strict=True):
        assert_identical(one, other)


@pytest.mark.parametrize("case", ["mixing probe", "co-attention"])
def test_labels_and_features_of_other_rows_change_nothing(case: str) -> None:
    """The leak test: what is outside train and dev could be anything, and not a bit of the result would change."""
    table, labels, runs = table_for(case), some_labels(), neighbours(case)[1:]
    seen = np.unique(np.concatenate([rows for run in runs for rows in (run.train_rows, run.dev_rows)]))
    hidden = np.setdiff1d(np.arange(NUM), seen)
    assert len(hidden) >= 5
    other_classes = labels.classes.clone()
    other_classes[hidden] = -1
    other_labels = Targets.of_classes(other_classes, CLASSES)
    streams = {}
    for name, stream in table.streams.items():
        values = stream.values.clone()
        values[:, stream.states_of(hidden)] = 1e3
        streams[name] = replace(stream, values=values)
    other_table = Table(table.ids, {name: streams[name] for name in table.speech}, streams["text"], streams["mel"])
    clean = train(table, labels, a_build(case), runs, TRAINING)
    for one, other in zip(clean, train(other_table, other_labels, a_build(case), runs, TRAINING), strict=True):
        assert_identical(one, other)


def test_labels_of_its_own_rows_do_matter() -> None:
    """The leak test could otherwise pass by an engine that reads no labels at all."""
    run, labels = a_run("probe"), some_labels()
    (clean,) = train(a_table(), labels, a_build("probe"), [run], TRAINING)
    flipped = labels.classes.clone()
    flipped[run.train_rows[0]] = (flipped[run.train_rows[0]] + 1) % CLASSES
    (changed,) = train(a_table(), Targets.of_classes(flipped, CLASSES), a_build("probe"), [run], TRAINING)
    assert changed.history != clean.history


def test_a_run_that_diverges_ends_there_and_harms_no_other() -> None:
    table, labels, build = a_table(), some_labels(), a_build("plain co-attention")
    wild = replace(a_run("plain co-attention", seed=5), name="wild", learning_rate=1e30)
    result, calm = train(table, labels, build, [wild, a_run("plain co-attention")], TRAINING)
    assert result.diverged
    assert not np.isfinite(result.history[-1].train_loss)
    assert all(value.isfinite().all() for value in result.state.values()) or result.best_epoch
    assert_same(calm, train_serially(table, labels, build, a_run("plain co-attention"), TRAINING))


def test_posteriors_are_those_of_each_head_alone() -> None:
    table, labels, build = a_table(), some_labels(), a_build("co-attention")
    trained = train(table, labels, build, neighbours("co-attention"), replace(TRAINING, epochs=1))
    rows = [np.array([88, 2, 50]), np.arange(NUM)[::-1], np.array([7]), np.arange(40)]
    found = posteriors(table, build, trained, rows, batch_size=16, max_stacked=3)
    for one, own, answer in zip(trained, rows, found, strict=True):
        head = build()
        head.load_state_dict(one.state)
        for row, answered in zip(own, answer, strict=True):
            batch = table.gather(torch.tensor([[row]]), torch.tensor([one.run.layer]))
            single = torch.utils._pytree.tree_map(lambda leaf: None if leaf is None else leaf[0], batch)
            expected = head(single).softmax(-1)[0].detach().numpy()
            np.testing.assert_allclose(answered, expected, rtol=1e-4, atol=1e-5)


def test_unweighted_averages_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(0, 4, (6, 50)), rng.integers(0, 5, (6, 50))
    truth[0] %= 2  # classes 2 and 3 are absent: left out of the mean
    valid = rng.random((6, 50)) < 0.7
    found = unweighted_averages(*(torch.from_numpy(array) for array in (truth, prediction, valid)), 5)
    for run in range(6):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # predicted classes that truth lacks
            expected = balanced_accuracy_score(truth[run][valid[run]], prediction[run][valid[run]])
        assert found[run].item() == pytest.approx(expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_losses_are_torchs_cross_entropy(smoothing: float) -> None:
    logits = torch.randn(4, 7, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 3, (4, 7), generator=torch.Generator().manual_seed(1))
    weights = torch.tensor([[1.0, 1, 1], [0.2, 1, 3], [2, 0.5, 1], [1, 2, 3]])
    valid = torch.arange(7) < torch.tensor([7, 1, 4, 6])[:, None]
    found = mean_losses(logits, F.one_hot(labels, 3).float() * valid.unsqueeze(-1), weights, smoothing)
    for run in range(4):
        kept = valid[run]
        expected = F.cross_entropy(logits[run][kept], labels[run][kept], weight=weights[run], label_smoothing=smoothing)
        torch.testing.assert_close(found[run], expected)


@pytest.mark.usefixtures("one_thread")
def test_progress_ends_at_all_epochs_of_all_runs() -> None:
    calls: list[tuple[int, int]] = []
    patient = replace(TRAINING, epochs=12, patience=2)
    runs = neighbours("probe")
    train(a_table(), some_labels(), a_build("probe"), runs, patient, progress=lambda *at: calls.append(at))
    assert calls[-1] == (48, 48)
    assert calls == sorted(calls)
    assert calls[0] == (4, 48)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_rows": np.array([], dtype=np.int64)}, "run 'run 3' has no train utterances"),
        ({"dev_rows": np.array([NUM])}, f"dev row {NUM} is not in the table of {NUM}"),
        ({"dev_rows": np.array([89])}, "of dev row 89 neither class nor rating is known"),
        ({"train_rows": np.arange(9), "dev_rows": np.arange(8, 12)}, r"1 utterances are in train and in dev \(row 8\)"),
        ({"learning_rate": 0.0}, "learning rate 0 and weight decay 0.01; expected a positive rate"),
    ],
)
def test_runs_that_cannot_be_trusted_are_named(changes: dict, message: str) -> None:
    classes = some_labels().classes.clone()
    classes[89] = -1
    labels = Targets.of_classes(classes, CLASSES)
    with pytest.raises(ProtocolError, match=message):
        train(a_table(), labels, a_build("probe"), [a_run("probe", **changes)], TRAINING)


def test_layers_are_for_all_runs_or_for_none() -> None:
    runs = [a_run("probe"), a_run("probe", layer=None)]
    with pytest.raises(ProtocolError, match="some runs name a speech layer and some do not"):
        train(a_table(), some_labels(), a_build("probe"), runs, TRAINING)
    assert train(a_table(), some_labels(), a_build("probe"), [], TRAINING) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs is 0; expected at least 1"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1; expected at least 0 and less than 1"),
        ({"class_weights": "sqrt"}, "class_weights is 'sqrt'; expected one of: none, balanced"),
    ],
)
def test_training_is_checked(changes: dict, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        Training(**changes)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("case", ["mixing probe", "co-attention"])
def test_a_gpu_comes_to_what_a_cpu_comes_to(case: str) -> None:
    """Same order, same initial weights, same dropout; only sums are rounded otherwise."""
    table = a_table()
    streams = {name: Packed(one.values.cuda(), one.offsets.cuda()) for name, one in table.streams.items()}
    there = Table(table.ids, {name: streams[name] for name in table.speech}, streams["text"], streams["mel"])
    on_cpu = train(table, some_labels(), a_build(case), neighbours(case), TRAINING)
    for one, other in zip(on_cpu, train(there, some_labels(), a_build(case), neighbours(case), TRAINING), strict=True):
        np.testing.assert_allclose(np.array(one.history)[:, 1], np.array(other.history)[:, 1], rtol=1e-3)
    again = train(there, some_labels(), a_build(case), neighbours(case), TRAINING)
    repeat = train(there, some_labels(), a_build(case), neighbours(case), TRAINING)
    for one, other in zip(again, repeat, strict=True):
        assert_identical(one, other)
