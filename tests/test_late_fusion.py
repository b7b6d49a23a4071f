"""Late fusions of a whole experiment: what each is made from, and that nothing of the test part gets in."""

import json
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small_cache import LABELS, SPEAKERS, TEXT, edit_manifest, make_rows, num_words, toy_states, write_cache
from small_corpus import mmser

from mmser.cache import Cache, Column, StreamWriter
from mmser.errors import MmserError, ProtocolError
from mmser.heads.batch import Batch, Sequence
from mmser.heads.store import load_head
from mmser.train.fusion import fit_fusion, load_fusion
from mmser.train.late import averaged
from mmser.train.options import Experiment, Training
from mmser.train.rating_fusion import fit_rating_fusion
from mmser.train.results import Outcome
from mmser.train.run import train_head

FUSION = Experiment(
    head="late-fusion",
    members=("speech-probe@utterance", "text-probe"),
    settings={"hidden": 4},
    layer="0,9",
    learning_rate=0.03,
    training=Training(epochs=6, batch_size=16, patience=6),
)
SHARES = [f"p_{label}" for label in LABELS]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cache(tmp_path_factory.mktemp("late") / "toy")


def read(folder: Path, head: str) -> pd.DataFrame:
    table = pd.read_csv(folder / "predictions.csv")
    return table[table["head"] == head].set_index(["fold", "utterance_id"])[SHARES].sort_index()


def batch_of(ids: list[str]) -> Batch:
    """The utterances as the heads of FUSION see them, made from the states by hand."""
    speech = torch.from_numpy(np.stack([toy_states(uid, "utterance")[[0, 2]] for uid in ids]).astype(np.float32))
    tokens = [torch.from_numpy(toy_states(uid, "token")[-1, 1:-1].astype(np.float32)) for uid in ids]
    text = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
    mask = torch.arange(text.shape[1]) < torch.tensor([len(own) for own in tokens])[:, None]
    return Batch({"utterance": Sequence(speech, torch.ones(len(ids), 1).bool())}, Sequence(text, mask), None)


def shares(head: torch.nn.Module, batch: Batch) -> np.ndarray:
    return head(batch).softmax(-1).detach().numpy()


def members(folder: Path, fold: int) -> list[torch.nn.Module]:
    return [load_head(folder / "heads" / f"{name}-fold{fold}-seed0")[0] for name in FUSION.members]


def ids_of(speaker: str) -> list[str]:
    return [uid for uid in make_rows()["utterance_id"] if uid.split("_")[0] == speaker]


@pytest.mark.parametrize("diverged", list(product([False, True], repeat=2)))
def test_a_fusion_diverged_where_any_of_its_members_did(diverged: tuple[bool, bool]) -> None:
    """In that fold and seed: the other run's members are sound."""
    shares = np.array([[0.5, 0.25, 0.25], [0.0, 0.5, 0.5]])
    sound, other = (Outcome("probe", "s1", seed, np.arange(2), shares, 4, 2, diverged=False) for seed in (0, 1))
    members = [[replace(sound, diverged=own), other] for own in diverged]
    assert [one.diverged for one in averaged("late-fusion", members)] == [diverged != (False, False), False]


@pytest.mark.parametrize("rule", ["dev-weighted", "svm", "logistic"])
def test_what_is_fitted_is_fitted_on_dev_and_opened_on_test(cache: Path, tmp_path: Path, rule: str) -> None:
    train_head(cache, replace(FUSION, fusion=rule), tmp_path / "run")
    found = read(tmp_path / "run", "late-fusion")
    for number, speaker in enumerate(SPEAKERS):
        heads, dev, test = members(tmp_path / "run", number), ids_of(SPEAKERS[(number + 1) % 6]), ids_of(speaker)
        of_dev, of_test = (np.stack([shares(h, batch_of(ids)) for h in heads]) for ids in (dev, test))
        truth = np.array([LABELS.index(uid.split("_")[1]) for uid in dev])
        kept, names, labels = load_fusion(tmp_path / "run" / "fusions" / f"fold{number}-seed0.safetensors")
        assert (names, labels) == (list(FUSION.members), list(LABELS))
        for fusion in (kept, fit_fusion(rule, of_dev, truth, "here")):
            own = found.loc[[(speaker, uid) for uid in test]]
            np.testing.assert_allclose(own, fusion(of_test), atol=1e-3 if rule == "svm" else 1e-4)
    check_calibration(tmp_path / "run", told=rule != "svm")


def check_calibration(folder: Path, *, told: bool) -> None:
    """Members have an ECE, and the fusion only where it gives probabilities: in both tables and as it is printed."""
    members = dict.fromkeys(FUSION.members, True)
    stored = json.loads((folder / "summary.json").read_text())["lines"]
    assert {line["head"]: line["ece"] is not None for line in stored} == {**members, "late-fusion": told}
    by_head = pd.read_csv(folder / "results.csv").groupby("head")["ece"]
    assert by_head.count().to_dict() == {**dict.fromkeys(members, 6), "late-fusion": 6 * told}
    shown = mmser("runs", "show", folder).stdout.splitlines()[-1]
    assert shown.startswith("late-fusion: recall of ")
    assert shown.endswith("; ECE -") != told


def test_concat_is_a_linear_layer_on_what_the_members_see(cache: Path, tmp_path: Path) -> None:
    result = train_head(cache, replace(FUSION, fusion="concat"), tmp_path / "run")
    assert result.lines[-1].head == "late-fusion"
    assert result.lines[-1].ua > 0.6
    found = read(tmp_path / "run", "late-fusion")
    for number, speaker in enumerate(SPEAKERS):
        head, about = load_head(tmp_path / "run" / "heads" / f"late-fusion-fold{number}-seed0")
        assert about["features_of"] == list(FUSION.members)
        batch = batch_of(ids_of(speaker))
        features = torch.cat([member.features(batch) for member in members(tmp_path / "run", number)], -1)
        seen = Sequence(features.unsqueeze(1), torch.ones(len(features), 1).bool())
        own = found.loc[[(speaker, uid) for uid in ids_of(speaker)]]
        np.testing.assert_allclose(own, shares(head, Batch({"utterance": seen}, None, None)), atol=1e-4)


@pytest.mark.parametrize("tried", [(), ("0", "9")])
def test_concat_sees_what_each_seed_and_the_chosen_layer_of_its_members_see(
    cache: Path, tmp_path: Path, tried: tuple[str, ...]
) -> None:
    experiment = replace(FUSION, fusion="concat", seeds=2, layer="mix" if tried else "0,9", try_layers=tried)
    folder = train_head(cache, experiment, tmp_path / "run").folder
    said = pd.read_csv(folder / "predictions.csv")
    said = said[said["head"] == "late-fusion"].set_index(["seed", "fold", "utterance_id"])[SHARES]
    trials = pd.read_csv(folder / "trials.csv") if tried else None
    for (number, speaker), seed in product(enumerate(SPEAKERS), range(2)):
        batch, end = batch_of(ids_of(speaker)), ""
        if trials is not None:
            own = (trials["head"] == FUSION.members[0]) & (trials["fold"] == speaker) & (trials["seed"] == seed)
            trial = tried.index(str(trials[own & trials["tested"]]["layer"].item()))
            end, both = f"-trial{trial}", batch.speech["utterance"]
            batch = batch._replace(speech={"utterance": both._replace(values=both.values[:, trial])})
        names = (f"{FUSION.members[0]}-fold{number}-seed{seed}{end}", f"{FUSION.members[1]}-fold{number}-seed{seed}")
        features = torch.cat([load_head(folder / "heads" / name)[0].features(batch) for name in names], -1)
        layer, _ = load_head(folder / "heads" / f"late-fusion-fold{number}-seed{seed}")
        seen = Sequence(features.unsqueeze(1), torch.ones(len(features), 1).bool())
        own = said.loc[[(seed, speaker, uid) for uid in ids_of(speaker)]]
        np.testing.assert_allclose(own, shares(layer, Batch({"utterance": seen}, None, None)), atol=1e-4)


def test_an_svm_is_fitted_on_dev_rows_whose_class_is_known(rated_cache: Path, tmp_path: Path) -> None:
    """Others are in the dev part for their ratings."""
    cache = Path(shutil.copytree(rated_cache, tmp_path / "toy"))
    unknown = [f"{speaker}_sad_0" for speaker in SPEAKERS]
    edit_manifest(
        cache, lambda rows: rows.__setitem__("label", rows["label"].mask(rows["utterance_id"].isin(unknown), ""))
    )
    experiment = replace(FUSION, task="both", dimensions=("arousal",), fusion="svm")
    folder = train_head(cache, experiment, tmp_path / "run").folder
    kept = [load_fusion(path)[0].arrays for path in folder.glob("fusions/fold?-seed0.safetensors")]
    assert [own["classes"].tolist() for own in kept] == [[0, 1, 2]] * 6


def test_a_fusion_goes_on_where_it_was_interrupted(cache: Path, tmp_path: Path) -> None:
    experiment = replace(FUSION, fusion="concat")
    train_head(cache, experiment, tmp_path / "run")
    before = read(tmp_path / "run", "late-fusion")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "heads").rglob("*")}
    train_head(cache, experiment, tmp_path / "run")
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "heads").rglob("*")}
    pd.testing.assert_frame_equal(read(tmp_path / "run", "late-fusion"), before)


def test_a_layer_on_other_members_is_not_taken_for_this_one(cache: Path, tmp_path: Path) -> None:
    """It may have learnt from what this one is tested on, or read features of other weights."""
    experiment = replace(FUSION, fusion="concat")
    heads = train_head(cache, experiment, tmp_path / "run").folder / "heads"
    shutil.copytree(heads / "late-fusion-fold1-seed0", heads / "late-fusion-fold0-seed0", dirs_exist_ok=True)
    with pytest.raises(MmserError, match=r"late-fusion-fold0-seed0 holds another run's head, which may have learnt"):
        train_head(cache, experiment, tmp_path / "run")


def test_a_layer_of_an_older_version_is_read(cache: Path, tmp_path: Path) -> None:
    """Those did not say what they were made of."""
    experiment = replace(FUSION, fusion="concat")
    first = train_head(cache, experiment, tmp_path / "run")
    path = first.folder / "heads" / "late-fusion-fold0-seed0" / "config.json"
    config = json.loads(path.read_text())
    del config["made_of"]
    path.write_text(json.dumps(config))
    before = path.read_bytes()
    assert train_head(cache, experiment, tmp_path / "run").lines == first.lines
    assert path.read_bytes() == before


def test_a_rule_belongs_to_a_late_fusion(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="--fusion svm belongs to a late fusion; the head is 'speech-probe'"):
        train_head(cache, replace(FUSION, head="speech-probe", members=(), fusion="svm"), tmp_path / "run")


def test_dev_chooses_among_settings_of_members_and_of_their_layer(cache: Path, tmp_path: Path) -> None:
    """Each member's own choice goes into the fusion, and concat tries the rates for its own layer too."""
    tried = replace(FUSION, learning_rate=(0.03, 1e-5), try_layers=("0", "9"), layer="mix")
    result = train_head(cache, replace(tried, fusion="concat"), tmp_path / "concat")
    assert result.lines[-1].ua > 0.6
    trials = pd.read_csv(tmp_path / "concat" / "trials.csv")
    own = trials[trials["head"] == "late-fusion"]
    assert (len(own), own["tested"].sum(), own["layer"].isna().all()) == (12, 6, True)
    for _, fold in own.groupby("fold"):
        assert fold[fold["tested"]]["dev_score"].item() == fold["dev_score"].max()
    train_head(cache, replace(tried, fusion="logistic"), tmp_path / "logistic")
    assert len(list((tmp_path / "logistic" / "fusions").iterdir())) == 6


@pytest.fixture(scope="module")
def rated_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = make_rows()
    rows["arousal"] = [arousal(uid) for uid in rows["utterance_id"]]
    return write_cache(tmp_path_factory.mktemp("rated") / "toy", rows)


def arousal(uid: str) -> float:
    """By the label, and a little by the speaker, so that no two speakers' are the same."""
    speaker, label = uid.split("_")[:2]
    return 1.0 + LABELS.index(label) + 0.1 * SPEAKERS.index(speaker)


RATED = replace(FUSION, task="dimensional", dimensions=("arousal",))


def test_ratings_are_averaged_or_learnt_from_features(rated_cache: Path, tmp_path: Path) -> None:
    for rule in ("mean", "concat"):
        result = train_head(rated_cache, replace(RATED, fusion=rule), tmp_path / rule)
        assert [line.head for line in result.rating_lines] == [*FUSION.members, "late-fusion"]
        assert result.rating_lines[-1].ccc > 0.5
    with pytest.raises(
        ProtocolError, match="--fusion logistic is fitted on classes, and the task is dimensional; take svm"
    ):
        train_head(rated_cache, replace(RATED, fusion="logistic"), tmp_path / "logistic")


@pytest.mark.parametrize("rule", ["svm", "dev-weighted"])
def test_ratings_are_fused_by_what_is_fitted_on_dev(rated_cache: Path, tmp_path: Path, rule: str) -> None:
    """Beside classes, which have a fusion of their own."""
    result = train_head(rated_cache, replace(RATED, task="both", fusion=rule), tmp_path / "run")
    assert result.rating_lines[-1].ccc > 0.5
    assert result.lines[-1].ua > 0.5
    table = pd.read_csv(tmp_path / "run" / "predictions.csv").set_index(["head", "fold", "utterance_id"])
    for number, speaker in enumerate(SPEAKERS):
        heads = [load_head(tmp_path / "run" / "heads" / f"{name}-fold{number}-seed0") for name in FUSION.members]
        dev, test = ids_of(SPEAKERS[(number + 1) % 6]), ids_of(speaker)
        of_dev, of_test = (np.stack([rated(*head, batch_of(ids)) for head in heads]) for ids in (dev, test))
        truth = np.array([[arousal(uid)] for uid in dev])
        path = tmp_path / "run" / "fusions" / f"fold{number}-seed0-ratings.safetensors"
        kept, names, dimensions = load_fusion(path)
        assert (names, dimensions) == (list(FUSION.members), ["arousal"])
        found = table.loc[[("late-fusion", speaker, uid) for uid in test], "prediction_arousal"]
        for fusion in (kept, fit_rating_fusion(rule, of_dev, truth)):
            np.testing.assert_allclose(found, fusion(of_test)[:, 0], atol=5e-3)


@pytest.fixture(scope="module")
def lying_cache(tmp_path_factory: pytest.TempPathFactory, rated_cache: Path) -> Path:
    """The same, but for every target of one speaker."""
    cache = shutil.copytree(rated_cache, tmp_path_factory.mktemp("lying") / "toy")

    def turn(table: pd.DataFrame) -> None:
        own = table["speaker"] == "s3"
        table.loc[own, "label"] = table.loc[own, "label"].map(dict(zip(LABELS, LABELS[1:] + LABELS[:1], strict=True)))
        table.loc[own, "arousal"] = 6 - table.loc[own, "arousal"]

    edit_manifest(cache, turn)
    return cache


@pytest.mark.parametrize(
    ("rule", "task"),
    [
        (rule, task)
        for rule in ("mean", "dev-weighted", "svm", "logistic", "concat")
        for task in ("categorical", "dimensional", "both")
        if rule != "logistic" or task == "categorical"  # which is fitted on classes alone
    ],
)
def test_targets_of_the_test_speaker_change_no_answer_about_him(
    rated_cache: Path, lying_cache: Path, tmp_path: Path, rule: str, task: str
) -> None:
    """To the bit: neither his fold's fusion nor what it says, while that of a fold which trains on him is another."""
    experiment = replace(RATED, task=task, fusion=rule)
    found = []
    for name, cache in (("honest", rated_cache), ("lying", lying_cache)):
        train_head(cache, experiment, tmp_path / name)
        table = pd.read_csv(tmp_path / name / "predictions.csv")
        said = [column for column in table if column.startswith(("p_", "prediction"))]
        own = table[table["head"] == "late-fusion"].set_index(["fold", "utterance_id"])[said].sort_index()
        fitted = {path.name: load_fusion(path)[0].arrays for path in (tmp_path / name).glob("fusions/fold2-*")}
        found.append((own, fitted))
    (honest, of_honest), (lied, of_lied) = found
    pd.testing.assert_frame_equal(honest.loc["s3"], lied.loc["s3"], check_exact=True)
    assert not np.allclose(honest.loc["s5"].select_dtypes("number"), lied.loc["s5"].select_dtypes("number"), atol=1e-3)
    assert len(of_honest) == {"mean": 0, "concat": 0}.get(rule, 1 + (task == "both"))
    assert of_honest.keys() == of_lied.keys()
    for name, arrays in of_honest.items():
        for key, array in arrays.items():
            np.testing.assert_array_equal(array, of_lied[name][key])
    if rule == "concat":
        for part in ("honest", "lying"):
            found.append((tmp_path / part / "heads" / "late-fusion-fold2-seed0" / "model.safetensors").read_bytes())
        assert found[2] == found[3]


def rated(head: torch.nn.Module, about: dict, batch: Batch) -> np.ndarray:
    """A head's ratings on the corpus's own scale, by what is stored beside it."""
    return head(batch)[:, len(LABELS) :].detach().numpy() * about["rating_deviation"] + about["rating_mean"]


def test_what_is_fitted_has_no_oracle_figure_and_a_note_says_why(cache: Path, tmp_path: Path) -> None:
    """Its members have theirs, and all else is as without."""
    mean = train_head(cache, replace(FUSION, report_oracle=True), tmp_path / "mean")
    assert [line.head for line in mean.oracle_lines] == [*FUSION.members, FUSION.head]
    for rule in ("svm", "logistic", "dev-weighted", "concat"):
        plain = train_head(cache, replace(FUSION, fusion=rule), tmp_path / rule)
        told = train_head(cache, replace(FUSION, report_oracle=True, fusion=rule), tmp_path / f"{rule}-told")
        assert told.oracle_lines == mean.oracle_lines[:-1]
        assert repr(told.lines) == repr(plain.lines)  # which hold NaN: no ECE is told of SVMs
        assert told.notes == (
            *plain.notes,
            f"no oracle figure of late-fusion: {rule} is fitted on what its members say after the epoch that dev "
            "chose, not after the one that the test part would choose; each member has its own",
        )
        assert not list(told.folder.glob("oracle/late-fusion-*"))
        for name in ("results.csv", "predictions.csv"):
            assert (told.folder / name).read_bytes() == (plain.folder / name).read_bytes()
    again = train_head(cache, replace(FUSION, report_oracle=True, fusion="concat"), told.folder)
    assert (again.lines, again.oracle_lines) == (told.lines, told.oracle_lines)


def test_who_lacks_an_alignment_is_left_out_or_kept_without(tmp_path: Path) -> None:
    cache, absent = write_cache(tmp_path / "toy"), "s1_sad_0"
    write_alignments(cache, without=absent)
    words = replace(FUSION, head="aligned-words", members=(), granularity="frame", settings={"width": 4, "heads": 1})
    dropped = train_head(cache, words, tmp_path / "dropped")
    assert dropped.left_out == {"not in stream align/hand": 1}
    kept = train_head(cache, replace(words, missing="keep"), tmp_path / "kept")
    assert kept.kept == {"not in stream align/hand": 1}
    assert absent in pd.read_csv(tmp_path / "kept" / "predictions.csv")["utterance_id"].tolist()


def test_whole_utterances_are_no_words_which_is_said_before_anything_is_written(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "toy")
    write_alignments(cache)
    words = replace(FUSION, head="aligned-words", members=(), granularity="utterance", settings={})
    with pytest.raises(ProtocolError, match="aligned-words: utterance states belong to no word of the transcript; a"):
        train_head(cache, words, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def write_alignments(cache: Path, without: str = "") -> None:
    """Word i of the transcript (small_cache counts from 1) is spoken from i / 2 s on."""
    ids = [uid for uid in make_rows()["utterance_id"] if uid != without]
    columns = {"start_s": Column("<f8"), "end_s": Column("<f8"), "parent": Column("<i4")}
    with StreamWriter(cache, "align/hand", {}, {}) as writer:
        for unit in writer.plan(dict.fromkeys(ids, 1.0), 1000.0):
            lengths = [num_words(uid) for uid in unit.utterance_ids]
            with writer.shard(unit.number, unit.utterance_ids, {}, {"word": (lengths, columns)}) as shard:
                for i, length in enumerate(lengths):
                    words = np.arange(1, length + 1, dtype=np.int32)
                    shard.put("word", "parent", i, words)
                    shard.put("word", "start_s", i, words / 2.0)
                    shard.put("word", "end_s", i, words / 2.0 + 0.3)
                shard.commit()


def test_the_full_system_in_one_command(tmp_path: Path) -> None:
    """Early, late, several granularities in one model, word by word: every part learns, and is kept by its name."""
    cache = write_cache(tmp_path / "toy")
    write_alignments(cache)
    names = ("coattention@frame+word", "aligned-words@word", "coattention@word", "speech-probe", "text-probe")
    settings = {"width": 8, "heads": 2, "positions": "time", "hidden": 4}
    experiment = replace(FUSION, members=names, settings=settings, fusion="dev-weighted", granularity="utterance")
    result = train_head(cache, experiment, tmp_path / "run")
    assert [line.head for line in result.lines] == [*names, "late-fusion"]
    assert min(line.ua for line in result.lines) > 0.5
    head, about = load_head(tmp_path / "run" / "heads" / "coattention@frame+word-fold0-seed0")
    assert (about["granularity"], head.inputs.granularities) == ("frame+word", ("frame", "word"))
    assert about["speech_layers_of_encoder"] == [0, 9]
    config = (tmp_path / "run" / "config.json").read_text()
    assert "align/hand" in config
    assert TEXT in config
    assert Cache(cache).stream("align/hand").granularities == ["word"]
