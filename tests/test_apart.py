"""What trains run by run: CNN14 on crops of log-mel frames; SGD; from a cache, through the command line."""

import json
import shutil
from functools import partial
from pathlib import Path
from zlib import crc32

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from small_cache import LABELS, POOLED, TEXT, add_stream, edit_manifest, make_rows, write_cache
from small_corpus import mmser
from torch import Tensor, nn
from torch.nn import functional as F

from mmser.cache import Cache
from mmser.errors import ProtocolError
from mmser.heads import HEADS
from mmser.heads.batch import Batch, Inputs, Sequence
from mmser.heads.cnn14 import Cnn14
from mmser.heads.store import load_head
from mmser.train import crops
from mmser.train.apart import train_apart
from mmser.train.apply import apply
from mmser.train.engine import Run, Targets, Training, outputs, train
from mmser.train.options import Experiment
from mmser.train.packed import Packed
from mmser.train.run import train_head
from mmser.train.table import Table

BINS = 64
NUM, TRAIN, DEV = 60, 36, 48
BANDS = {"angry": slice(0, 16), "happy": slice(24, 40), "sad": slice(48, 64)}
"""Where a class is loud."""


def mel_of(label: str, num_frames: int, seed: int) -> NDArray[np.float32]:
    """Noise around -60 dB, 20 dB louder in the band of the class."""
    frames = np.random.default_rng(seed).normal(-60, 8, (num_frames, BINS))
    frames[:, BANDS[label]] += 20
    return frames.astype(np.float32)


def num_frames(seed: int) -> int:
    return 35 + 13 * seed % 60


@pytest.fixture(scope="module")
def table() -> Table:
    frames = [mel_of(LABELS[row % 3], num_frames(row), row) for row in range(NUM)]
    offsets = np.array([0, *np.cumsum([len(own) for own in frames])])
    mel = Packed(torch.from_numpy(np.concatenate(frames)).half()[None], torch.from_numpy(offsets))
    return Table(tuple(f"u{row}" for row in range(NUM)), {}, None, mel)


TARGETS = Targets.of_classes(torch.arange(NUM) % 3, 3)
RUN = Run("toy", np.arange(TRAIN), np.arange(TRAIN, DEV), seed=1, learning_rate=0.01)
TRAINING = Training(epochs=3, batch_size=12, crop_s=0.4)


def narrow() -> nn.Module:
    return HEADS["cnn14"].build(Inputs(0, 0, (), mel_dim=BINS), 3, HEADS["cnn14"].options(width_multiplier=1 / 32))


def other(run: Run, **changes: object) -> Run:
    return Run(**{**{name: getattr(run, name) for name in Run.__dataclass_fields__}, **changes})


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_cnn14_learns_which_band_is_loud(table: Table, optimiser: str) -> None:
    training = Training(epochs=20, patience=20, batch_size=12, crop_s=0.4, optimiser=optimiser)
    (trained,) = train(table, TARGETS, narrow, [other(RUN, learning_rate=0.02)], training)
    (said,) = outputs(table, narrow, [trained], [np.arange(DEV, NUM)])
    assert (said.argmax(-1) == torch.arange(DEV, NUM) % 3).float().mean() > 0.8
    assert trained.state["norm.num_batches_tracked"] == 3 * trained.best_epoch
    assert trained.state["norm.running_mean"].mean() < -20  # of the decibels, on their way from 0


def test_a_run_is_the_same_alone_and_among_others_and_is_reported(table: Table) -> None:
    runs = [RUN, other(RUN, name="second", seed=2)]
    reports, kept = [], []
    together = train(
        table,
        TARGETS,
        narrow,
        runs,
        TRAINING,
        progress=lambda done, total: reports.append((done, total)),
        finished=lambda place, trained: kept.append((place, trained.run.name)),
    )
    (alone,) = train(table, TARGETS, narrow, runs[1:], TRAINING)
    assert reports == [(n, 6) for n in range(1, 7)]
    assert kept == [(0, "toy"), (1, "second")]
    for name, value in alone.state.items():
        assert torch.equal(value, together[1].state[name]), name
    assert not torch.equal(together[0].state["embed.weight"], alone.state["embed.weight"])


def test_everybody_is_told_of_every_run_in_its_turn(table: Table) -> None:
    """What a run that stops early leaves undone counts as done once it is kept, and not before."""
    runs = [other(RUN, learning_rate=1e-9), other(RUN, name="second", seed=2)]
    training = Training(epochs=4, patience=1, batch_size=12, crop_s=0.4)
    told: list[object] = []
    trained = train(
        table,
        TARGETS,
        narrow,
        runs,
        training,
        progress=lambda done, total: told.append(f"{done} of {total}"),
        finished=lambda place, one: told.append((place, one.run.name, one.best_epoch)),
        watch=lambda places, _: told.append(list(places)),
        log=lambda place, epoch: told.append((place, epoch)),
    )
    assert len(trained[0].history) < 4, "the test needs a run that stops early"
    expected: list[object] = []
    for place, one in enumerate(trained):
        for number, epoch in enumerate(one.history, 1):
            expected += [[place], (place, epoch)]
            expected += [f"{4 * place + number} of 8"] * (number < 4)
        expected += [(place, runs[place].name, one.best_epoch), f"{4 * place + 4} of 8"]
    assert told == expected


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dev_rows": np.arange(TRAIN - 1, DEV)}, "1 utterances are in train and in dev"),
        ({"weight_decay": -1.0}, "weight decay -1; expected"),
    ],
)
def test_a_run_that_cannot_be_trained_is_refused_before_the_others_are(
    table: Table, wrong: dict[str, object], message: str
) -> None:
    kept: list[int] = []
    with pytest.raises(ProtocolError, match=message):
        train(
            *(table, TARGETS, narrow, [RUN, other(RUN, **wrong)], TRAINING),
            finished=lambda place, _: kept.append(place),
        )
    assert not kept


def test_watching_changes_nothing_and_sees_every_epoch(table: Table) -> None:
    seen: list[torch.Tensor] = []
    test = np.arange(DEV, NUM)
    (watched,) = train(table, TARGETS, narrow, [RUN], TRAINING, watch=lambda _, ask: seen.append(ask([test])[0]))
    (alone,) = train(table, TARGETS, narrow, [RUN], TRAINING)
    for name, value in alone.state.items():
        assert torch.equal(value, watched.state[name]), name
    (said,) = outputs(table, narrow, [alone], [test])
    assert len(seen) == TRAINING.epochs
    torch.testing.assert_close(seen[alone.best_epoch - 1], said)


def test_evaluation_hears_whole_utterances_whatever_they_are_batched_with(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    (trained,) = train(table, TARGETS, narrow, [RUN], TRAINING)
    rows = np.array([50, 3, 59, 41, 7])
    (said,) = outputs(table, narrow, [trained], [rows])
    monkeypatch.setattr(crops, "MOST_FRAMES", 100)
    (in_parts,) = outputs(table, narrow, [trained], [rows])
    head = narrow()
    head.load_state_dict(trained.state)
    head.eval()
    for place, row in enumerate(rows):
        frames = torch.from_numpy(mel_of(LABELS[row % 3], num_frames(row), row)).half().float()[None]
        alone = head(Batch({}, None, None, Sequence(frames, torch.ones(frames.shape[:2], dtype=torch.bool))))[0]
        torch.testing.assert_close(said[place], alone, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(in_parts[place], alone, rtol=1e-4, atol=1e-5)


def test_crops_are_drawn_by_seed_epoch_and_row_alone(table: Table) -> None:
    rows = np.arange(NUM)
    first = crops.crops_of(table, RUN, 1, rows, TRAINING)
    assert crops.crops_of(table, RUN, 1, rows[::-1], TRAINING) == first[::-1]
    alike = Table(table.ids, {}, None, Packed(torch.zeros(1, 90 * NUM, BINS), 90 * torch.arange(NUM + 1)))
    assert len({crop.start for crop in crops.crops_of(alike, RUN, 1, rows, TRAINING)}) > 10  # each row draws its own
    for run, epoch in ((RUN, 2), (other(RUN, seed=2), 1)):
        assert crops.crops_of(table, run, epoch, rows, TRAINING) != first
    for row, crop in enumerate(first):
        assert crop.stop - crop.start == 40  # 0.4 s of frames every 10 ms
        assert 0 <= crop.start <= max(0, num_frames(row) - 40)
    row = int(np.argmax([num_frames(row) for row in rows]))
    spare = num_frames(row) - 40
    starts = {crops.crops_of(table, RUN, epoch, np.array([row]), TRAINING)[0].start for epoch in range(20 * spare)}
    assert starts == set(range(spare + 1))
    assert crops.crops_of(table, RUN, 1, rows, Training(crop_s=0)) is None


def test_training_sees_crops_and_no_more(table: Table) -> None:
    widths: list[int] = []

    class Spy(nn.Module):
        stacks, num_outputs = False, 3

        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(3))

        def forward(self, batch: Batch) -> torch.Tensor:
            if self.training:
                widths.append(batch.mel.values.shape[1])
                assert batch.mel.mask.sum(1).max() <= 40
            return self.bias.expand(len(batch.mel.mask), 3)

    train(table, TARGETS, Spy, [RUN], TRAINING)
    assert set(widths) == {40}


def test_batches_of_whole_utterances_hold_every_row_once_and_few_frames(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crops, "MOST_FRAMES", 300)
    rows = np.array([5, 50, 3, 59, 41, 7, 8, 9])
    batches = crops.whole_batches(table, rows, 5)
    assert sorted(np.concatenate(batches)) == list(range(8))
    for batch in batches:
        longest = max(num_frames(row) for row in rows[batch])
        assert len(batch) <= 5
        assert len(batch) * longest <= 300


def test_a_training_part_without_states_is_refused_before_any_run_trains(table: Table) -> None:
    """Its mean would be no number, and the run said to have diverged."""
    words = Packed(torch.randn(1, DEV, 2), torch.tensor([*range(DEV + 1), *[DEV] * (NUM - DEV)]))
    build = partial(HEADS["text-probe"].build, Inputs(0, 2, ()), 3, HEADS["text-probe"].options())
    runs = [RUN, other(RUN, name="without", train_rows=np.arange(NUM - 3, NUM), dev_rows=RUN.dev_rows)]
    done: list[int] = []
    with pytest.raises(ProtocolError, match="3 utterances have no states at all: nothing to standardise by"):
        train_apart(
            Table(table.ids, {}, words, None),
            *(TARGETS, build, runs, Training(epochs=1)),
            finished=lambda number, _: done.append(number),
        )
    assert not done


def test_sgd_is_nesterovs(table: Table) -> None:
    """A linear head on utterance means, by hand: v = m v + g; p -= rate (g + m v)."""
    values = torch.randn(NUM, 6, generator=torch.Generator().manual_seed(0))
    states = Table(table.ids, {"utterance": Packed(values[None], torch.arange(NUM + 1))})
    options = HEADS["speech-probe"].options(hidden=0)

    def build() -> nn.Module:
        return HEADS["speech-probe"].build(Inputs(6, 0, ("utterance",)), 3, options)

    training = Training(
        epochs=3, batch_size=TRAIN, optimiser="sgd", momentum=0.8, normalise="none", clip_norm=0, patience=3
    )
    run = other(RUN, learning_rate=0.1, weight_decay=0.02)
    trained = train(states, TARGETS, build, [run], training)[0]
    torch.manual_seed(run.seed)
    head = build()
    weight, bias = (p.detach().clone().requires_grad_() for p in (head.classify.weight, head.classify.bias))
    velocity = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for _ in range(trained.best_epoch):
        loss = F.cross_entropy(values[:TRAIN] @ weight.T + bias, torch.arange(TRAIN) % 3)
        gradients = torch.autograd.grad(loss, [weight, bias])
        for place, (value, gradient) in enumerate(zip([weight, bias], gradients, strict=True)):
            gradient = gradient + 0.02 * value.detach()
            velocity[place] = 0.8 * velocity[place] + gradient
            value.data -= 0.1 * (gradient + 0.8 * velocity[place])
    torch.testing.assert_close(trained.state["classify.weight"], weight.detach())
    torch.testing.assert_close(trained.state["classify.bias"], bias.detach())


def told_by_mel(uid: str) -> NDArray[np.float32]:
    """Frames that tell the class, of a length of the utterance's own."""
    seed = crc32(uid.encode())
    return mel_of(uid.split("_")[1], 35 + seed % 30, seed)


def write_cache_with_mel(folder: Path) -> Path:
    """The small cache with log-mel frames and descriptors that tell the class, and a rating that follows it."""
    write_cache(folder)

    def descriptors(uid: str) -> dict[str, NDArray[np.float32]]:
        values = np.random.default_rng(crc32(uid.encode())).normal(size=(6, 4))
        values[0, LABELS.index(uid.split("_")[1])] += 4
        return {"frame": values[1:, :2], "utterance": values[:1]}

    add_stream(folder, "mel/cnn14", lambda uid: {"frame": told_by_mel(uid)})
    add_stream(folder, "opensmile/egemaps", descriptors)
    edit_manifest(
        folder,
        lambda rows: rows.__setitem__(
            "arousal", [LABELS.index(label) + 0.1 * (n % 5) for n, label in enumerate(rows["label"])]
        ),
    )
    return folder


def test_neither_targets_nor_states_of_the_test_part_change_a_head_that_trains_alone(
    cache: Path, tmp_path: Path
) -> None:
    """As for heads that train together (test_protocol_runs.py): bit for bit, with a choice of rates and the oracle."""
    lying, odd = (Path(shutil.copytree(cache, tmp_path / name)) for name in ("lying", "odd"))

    def turn(rows: pd.DataFrame) -> None:
        own = rows["split"] == "Test2"
        rows.loc[own, "label"] = rows.loc[own, "label"].map(dict(zip(LABELS, LABELS[1:] + LABELS[:1], strict=True)))
        rows.loc[own, "arousal"] = 4 - rows.loc[own, "arousal"]

    edit_manifest(lying, turn)
    tested = {uid for uid, split in make_rows()[["utterance_id", "split"]].itertuples(index=False) if split == "Test2"}
    shutil.rmtree(odd / "mel")
    add_stream(odd, "mel/cnn14", lambda uid: {"frame": told_by_mel(uid) * (3 if uid in tested else 1)})
    experiment = Experiment(
        head="conditioned-cnn14",
        folds="split",
        test_split="Test2",
        task="both",
        dimensions=("arousal",),
        learning_rate=(0.02, 0.003),
        report_oracle=True,
        settings={"width_multiplier": 1 / 32},
        training=Training(epochs=2, batch_size=12, crop_s=0.4),
    )
    plain, lied, absurd = (train_head(one, experiment, tmp_path / f"run-{one.name}") for one in (cache, lying, odd))
    weights = [
        {path.parent.name: path.read_bytes() for path in one.folder.glob("heads/*/model.safetensors")}
        for one in (plain, lied, absurd)
    ]
    assert len(weights[0]) == 2
    assert weights[0] == weights[1] == weights[2]
    trials = [(one.folder / "trials.csv").read_bytes() for one in (plain, lied, absurd)]
    assert trials[0] == trials[1] == trials[2]
    assert plain.lines[0].ua != lied.lines[0].ua
    assert plain.oracle_lines[0].ua != lied.oracle_lines[0].ua
    said = [pd.read_csv(one.folder / "predictions.csv")[f"p_{LABELS[0]}"] for one in (plain, absurd)]
    assert not np.allclose(*said, atol=0.01)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cache_with_mel(tmp_path_factory.mktemp("apart") / "toy")


QUICK = ("--batch-size", 12, "--learning-rate", 0.02, "--set", "width_multiplier=0.03125", "--crop-seconds", 0.4)


def test_late_fusion_of_cnn14_and_a_text_network_through_the_command_line(cache: Path, tmp_path: Path) -> None:
    """Shallow fusion: the mean of what the two say; the settings of each go to the one that has them."""
    result = mmser(
        *("train-head", cache, "--head", "late-fusion", "--members", "cnn14,text-network", "--folds", "session"),
        *("--epochs", 6, *QUICK, "--set", "hidden=8", "--optimiser", "sgd", "--out", tmp_path / "run"),
    )
    assert result.exit_code == 0, result.output
    predictions = pd.read_csv(tmp_path / "run" / "predictions.csv").set_index(["head", "utterance_id"])
    shares = [f"p_{label}" for label in LABELS]
    parts = [predictions.loc[head, shares].sort_index() for head in ("cnn14", "text-network", "late-fusion")]
    np.testing.assert_allclose((parts[0] + parts[1]) / 2, parts[2], atol=1e-5)


def test_cnn14_through_the_command_line_and_back(cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ("train-head", cache, "--head", "cnn14", "--folds", "session", "--epochs", 20, *QUICK, "--out", out)
    result = mmser(*command)
    assert result.exit_code == 0, result.output
    predictions = pd.read_csv(out / "predictions.csv")
    # 18 utterances train: three standard errors above chance, which is a third
    share = (predictions["truth"] == predictions["prediction"]).mean()
    assert share > 1 / 3 + 3 * np.sqrt(2 / 9 / len(predictions))
    stream = Cache(cache).stream("mel/cnn14")
    folder = sorted((out / "heads").iterdir())[0]
    head, config = load_head(folder)
    assert config["kind"] == "cnn14"
    own = predictions[predictions["fold"] == config["fold"]]
    for _, row in own.head(3).iterrows():
        frames = torch.from_numpy(stream.packed("frame", utterances=[row["utterance_id"]]).values[0]).float()[None]
        said = head(Batch({}, None, None, Sequence(frames, torch.ones(frames.shape[:2], dtype=torch.bool))))
        assert config["labels"][int(said.argmax())] == row["prediction"]
    assert mmser(*command).stdout == result.stdout  # finished runs are not trained again


def test_a_mixture_hears_the_spectrum_beside_speech_and_text(cache: Path, tmp_path: Path) -> None:
    """Its statistics are those of the training part's frames, whichever speech layer a run takes."""
    out = tmp_path / "run"
    result = mmser(
        *("train-head", cache, "--head", "moe", "--granularity", "word", "--folds", "session", "--epochs", 6),
        *("--try-layers", "0,4", "--set", "spectral=mel", "--set", "width=8", "--learning-rate", 0.01, "--out", out),
    )
    assert result.exit_code == 0, result.output
    folds = pd.read_csv(out / "predictions.csv").drop_duplicates("utterance_id").set_index("utterance_id")["fold"]
    stream = Cache(cache).stream("mel/cnn14")
    for folder in (out / "heads").iterdir():
        head, config = load_head(folder)
        names = sorted(set(folds))
        dev = names[(names.index(config["fold"]) + 1) % len(names)]
        trained_on = folds[~folds.isin([config["fold"], dev])].index
        frames = stream.packed("frame", utterances=list(trained_on)).values[0].astype(np.float64)
        np.testing.assert_allclose(head.mel.standardise.mean, frames.mean(0), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(head.mel.standardise.std, frames.std(0), rtol=1e-4, atol=1e-4)
        assert len(apply(folder, Cache(cache)).ids) == len(folds)


def test_conditioned_cnn14_rates_dimensions(cache: Path, tmp_path: Path) -> None:
    result = mmser(
        *("train-head", cache, "--head", "conditioned-cnn14", "--task", "dimensional", "--dimensions", "arousal"),
        *("--folds", "session", "--epochs", 20, *QUICK, "--out", tmp_path / "run"),
        *("--set", "conditioning=single", "--set", "condition_at=embedding"),
    )
    assert result.exit_code == 0, result.output
    predictions = pd.read_csv(tmp_path / "run" / "predictions.csv")
    truth, said = predictions["truth_arousal"], predictions["prediction_arousal"]
    spread = truth.var(ddof=0) + said.var(ddof=0) + (truth.mean() - said.mean()) ** 2
    ccc = 2 * np.cov(truth, said, ddof=0)[0, 1] / spread
    assert ccc > 3.3 / np.sqrt(len(predictions))  # a correlation of what is unrelated: 3.3 standard errors, 0.1 %
    (line,) = json.loads((tmp_path / "run" / "summary.json").read_text())["rating_lines"]
    assert line["dimension"] == "arousal"
    assert line["ccc"] == pytest.approx(ccc, abs=1e-4)


def test_descriptors_train_as_speech_does(cache: Path, tmp_path: Path) -> None:
    command = ("train-head", cache, "--head", "speech-probe", "--speech-stream", "opensmile/egemaps")
    result = mmser(*command, "--granularity", "utterance", "--epochs", 10, "--out", tmp_path / "run", *QUICK[:4])
    assert result.exit_code == 0, result.output
    predictions = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert (predictions["truth"] == predictions["prediction"]).mean() > 0.7
    result = mmser(*command, "--granularity", "word", "--out", tmp_path / "other")
    assert result.exit_code == 1
    assert "opensmile/egemaps has no 'word' features; it holds frame, utterance" in result.output


def test_a_fusions_own_layer_takes_no_more_frames_at_a_time_than_evaluation_does(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crops, "MOST_FRAMES", 200)
    occupied, heard = [], Cnn14.features

    def features(head: Cnn14, batch: Batch) -> Tensor:
        if not head.training:
            occupied.append(batch.mel.mask.numel())
        return heard(head, batch)

    monkeypatch.setattr(Cnn14, "features", features)
    train_head(
        cache,
        Experiment(
            head="late-fusion",
            members=("cnn14", "text-network"),
            fusion="concat",
            folds="session",
            settings={"width_multiplier": 1 / 32, "hidden": 8},
            training=Training(epochs=1),
        ),
        tmp_path / "run",
    )
    assert 100 < max(occupied) <= 200


def test_a_linear_layer_learns_on_what_cnn14_sees_in_evaluation(cache: Path, tmp_path: Path) -> None:
    result = mmser(
        *("train-head", cache, "--head", "late-fusion", "--members", "cnn14,text-network", "--folds", "session"),
        *("--epochs", 6, *QUICK, "--set", "hidden=8", "--fusion", "concat", "--out", tmp_path / "run"),
    )
    assert result.exit_code == 0, result.output
    predictions = pd.read_csv(tmp_path / "run" / "predictions.csv")
    uid = predictions.loc[predictions["head"] == "late-fusion", "utterance_id"].iloc[0]
    fold = predictions.loc[predictions["utterance_id"] == uid, "fold"].iloc[0]
    run = next(
        path.name.removeprefix("cnn14")
        for path in (tmp_path / "run" / "heads").glob("cnn14-*")
        if load_head(path)[1]["fold"] == fold
    )
    (ear, _), (reader, _), (layer, _) = (
        load_head(tmp_path / "run" / "heads" / f"{name}{run}") for name in ("cnn14", "text-network", "late-fusion")
    )

    def states(stream: str, granularity: str) -> Tensor:
        return torch.from_numpy(Cache(cache).stream(stream).packed(granularity, utterances=[uid]).values[-1:]).float()

    tokens = states(TEXT, "token")[:, 1:-1]
    own = [Sequence(one, torch.ones(one.shape[:2]).bool()) for one in (states("mel/cnn14", "frame"), tokens)]
    with torch.no_grad():
        features = torch.cat([part.features(Batch({}, own[1], None, own[0])) for part in (ear, reader)], -1)
        seen = Sequence(features.unsqueeze(1), torch.ones(1, 1).bool())
        shares = layer(Batch({"utterance": seen}, None, None)).softmax(-1)[0]
    found = predictions[(predictions["head"] == "late-fusion") & (predictions["utterance_id"] == uid)]
    np.testing.assert_allclose(found[[f"p_{label}" for label in LABELS]].to_numpy()[0], shares, atol=1e-4)


def test_descriptors_belong_to_no_word(cache: Path, tmp_path: Path) -> None:
    command = ("train-head", cache, "--head", "aligned-words", "--speech-stream", "opensmile/egemaps")
    result = mmser(*command, "--granularity", "utterance", "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert "a head that reads words or positions takes an encoder's states, not those of opensmile/" in result.stderr


def test_without_log_mel_frames_the_command_that_makes_them_is_named(tmp_path: Path) -> None:
    folder = write_cache(tmp_path / "toy")
    result = mmser("train-head", folder, "--head", "cnn14", "--out", tmp_path / "run")
    assert result.exit_code == 1
    there = ", ".join(Cache(folder).stream_names)
    told = f"holds no log-mel states (streams: {there}); extract them first (mmser extract ... --mel)"
    assert told in result.output


def test_of_several_spectrograms_one_is_named_and_a_stored_head_takes_its_own(tmp_path: Path) -> None:
    folder = write_cache(tmp_path / "toy")
    add_stream(folder, "mel/loud", lambda uid: {"frame": mel_of(uid.split("_")[1], 40, 1)})
    add_stream(folder, "mel/noise", lambda uid: {"frame": mel_of(LABELS[0], 40, crc32(uid.encode()))})
    command = ("train-head", folder, "--head", "cnn14", *QUICK, "--epochs", 1)
    assert "several streams would do: mel/loud, mel/noise; choose one with --mel-stream" in mmser(*command).output
    wrong = mmser(*command, "--mel-stream", POOLED)
    assert f"--mel-stream {POOLED}: log-mel frames lie in mel/..." in wrong.output
    for name in ("loud", "noise"):
        assert mmser(*command, "--mel-stream", f"mel/{name}", "--out", tmp_path / name).exit_code == 0
        predictions = pd.read_csv(tmp_path / name / "predictions.csv").set_index(["fold", "utterance_id"])
        head = tmp_path / name / "heads" / "cnn14-fold0-seed0"
        own = predictions.loc[load_head(head)[1]["fold"]]
        said = apply(head, Cache(folder), list(own.index))
        np.testing.assert_allclose(said.posteriors, own[[f"p_{label}" for label in said.labels]], atol=1e-5)


def test_conditioned_states_learn_from_a_cache_as_many_runs(cache: Path, tmp_path: Path) -> None:
    result = mmser(
        *("train-head", cache, "--head", "conditioned-states", "--granularity", "word", "--layer", "9"),
        *("--epochs", 6, "--set", "width=8", "--set", "blocks=2", "--learning-rate", 0.02, "--out", tmp_path / "run"),
    )
    assert result.exit_code == 0, result.output
    predictions = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert (predictions["truth"] == predictions["prediction"]).mean() > 0.7


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_starts_where_a_cpu_does_and_learns_as_well(table: Table) -> None:
    """Same weights, crops and dropout at first; cuDNN rounds otherwise, and a batch norm spreads it."""
    there = Table(table.ids, {}, None, Packed(table.mel.values.cuda(), table.mel.offsets.cuda()))
    one_step = Training(epochs=1, batch_size=TRAIN, crop_s=0.4)
    (here,), (far,) = (train(own, TARGETS, narrow, [RUN], one_step) for own in (table, there))
    assert here.history[0].train_loss == pytest.approx(far.history[0].train_loss, rel=1e-3)
    training = Training(epochs=20, patience=20, batch_size=12, crop_s=0.4)
    (trained,) = train(there, TARGETS, narrow, [other(RUN, learning_rate=0.02)], training)
    (said,) = outputs(there, narrow, [trained], [np.arange(DEV, NUM)])
    assert (said.argmax(-1) == torch.arange(DEV, NUM) % 3).float().mean() > 0.8
