"""Tables and summaries against scikit-learn, and the intervals' clusters."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score

from mmser.metrics import expected_calibration_error
from mmser.train.conclude import _diverged, _without_answer
from mmser.train.results import Line, Outcome, folds_table, predictions_table, summarise

NUM, LABELS, SEEDS = 60, ("angry", "happy", "sad"), (0, 1)
IDS = [f"u{i:02d}" for i in range(NUM)]
SPEAKERS = [f"s{i % 6}" for i in range(NUM)]
TRUTH = np.random.default_rng(0).choice(3, NUM, p=[0.6, 0.3, 0.1])


def outcomes(heads: tuple[str, ...] = ("one", "two")) -> list[Outcome]:
    """Two heads, two seeds, three folds of 10, 20 and 30 test rows; right more often than not."""
    rng = np.random.default_rng(1)
    made = []
    for head in heads:
        for name, test in zip("abc", np.split(np.arange(NUM), [10, 30]), strict=True):
            for seed in SEEDS:
                scores = rng.exponential(size=(len(test), 3)) + 0.8 * np.eye(3)[TRUTH[test]]
                shares = (scores / scores.sum(1, keepdims=True)).astype(np.float32)
                made.append(Outcome(head, name, seed, test, shares, 40, 10, best_epoch=3, dev_score=0.5))
    return made


def predictions(speakers: list[str] = SPEAKERS) -> pd.DataFrame:
    return predictions_table(outcomes(), IDS, speakers, TRUTH, LABELS)


def test_every_test_utterance_is_there_once_for_each_head_and_seed() -> None:
    table = predictions()
    assert list(table.columns) == [
        *("head", "fold", "seed", "utterance_id", "speaker", "truth", "prediction"),
        *("p_angry", "p_happy", "p_sad"),
    ]
    assert len(table) == 2 * len(SEEDS) * NUM
    assert not table.duplicated(["head", "seed", "utterance_id"]).any()
    assert table["truth"].tolist() == [LABELS[TRUTH[IDS.index(uid)]] for uid in table["utterance_id"]]
    assert table["speaker"].tolist() == [SPEAKERS[IDS.index(uid)] for uid in table["utterance_id"]]
    shares = table[["p_angry", "p_happy", "p_sad"]]
    assert table["prediction"].tolist() == [name.removeprefix("p_") for name in shares.idxmax(axis=1)]


def test_figures_of_folds_are_scikit_learns() -> None:
    table, all_predictions = folds_table(outcomes(), TRUTH), predictions()
    assert len(table) == 12
    for _, line in table.iterrows():
        own = all_predictions.query(f"head == '{line['head']}' and fold == '{line['fold']}' and seed == {line['seed']}")
        assert line["num_test"] == len(own)
        assert (line["num_train"], line["num_dev"], line["best_epoch"], line["dev_score"]) == (40, 10, 3, 0.5)
        assert line["ua"] == pytest.approx(balanced_accuracy_score(own["truth"], own["prediction"]))
        assert line["wa"] == pytest.approx(accuracy_score(own["truth"], own["prediction"]))
        assert line["macro_f1"] == pytest.approx(f1_score(own["truth"], own["prediction"], average="macro"))


def test_a_line_is_over_all_folds_together() -> None:
    table, of_folds = predictions(), folds_table(outcomes(), TRUTH)
    lines = summarise(outcomes(), TRUTH, SPEAKERS, IDS)
    assert [line.head for line in lines] == ["one", "two"]
    for line in lines:
        own = table[table["head"] == line.head]
        uas = [balanced_accuracy_score(part["truth"], part["prediction"]) for _, part in own.groupby("seed")]
        assert line.ua_by_seed == pytest.approx(uas)
        assert line.ua == pytest.approx(np.mean(uas))
        assert line.wa == pytest.approx(accuracy_score(own["truth"], own["prediction"]))
        assert line.macro_f1 == pytest.approx(f1_score(own["truth"], own["prediction"], average="macro"))
        assert line.ua_of_folds == pytest.approx(of_folds.loc[of_folds["head"] == line.head, "ua"].mean())
        assert line.ua_of_folds != pytest.approx(line.ua, abs=1e-3)
        assert line.num_runs == 6
        assert line.wa_of_folds == pytest.approx(of_folds.loc[of_folds["head"] == line.head, "wa"].mean())
        shares = own[["p_angry", "p_happy", "p_sad"]].to_numpy()
        codes = own["truth"].map({label: i for i, label in enumerate(LABELS)}).to_numpy()
        assert line.ece == pytest.approx(expected_calibration_error(codes, shares))
        counted = confusion_matrix(own["truth"], own["prediction"], labels=LABELS)
        assert np.array_equal(line.confusion, counted)


def test_what_is_no_probability_has_no_calibration_error() -> None:
    """And all other figures, which need the order alone."""
    some = outcomes(("one",))
    shares = [replace(one, are_probabilities=False) for one in some]
    (line,), (other,) = (summarise(own, TRUTH, SPEAKERS, IDS) for own in (some, shares))
    assert math.isnan(other.ece)
    assert replace(other, ece=line.ece) == line
    table = folds_table(shares, TRUTH)
    assert table["ece"].isna().all()
    pd.testing.assert_frame_equal(table.drop(columns="ece"), folds_table(some, TRUTH).drop(columns="ece"))


def brute_force(speakers: list[str], line: Line) -> tuple[float, float]:
    """Ends of the interval, each resample put together utterance by utterance."""
    own = predictions(speakers)
    own = own[own["head"] == line.head]
    groups = [part for _, part in own.groupby("speaker")]
    rng, scores = np.random.default_rng(7), []
    for _ in range(400):
        drawn = pd.concat([groups[i] for i in rng.integers(len(groups), size=len(groups))])
        recalls = [(part["prediction"] == label).mean() for label, part in drawn.groupby("truth")]
        scores.append(np.mean(recalls))
    low, high = np.quantile(scores, [0.025, 0.975])
    return float(low), float(high)


def test_the_interval_resamples_speakers_with_all_their_seeds() -> None:
    line = summarise(outcomes(), TRUTH, SPEAKERS, IDS)[0]
    assert (line.interval.clusters, line.interval.unit) == (6, "speaker")
    assert (line.interval.low, line.interval.high) == pytest.approx(brute_force(SPEAKERS, line), abs=0.03)


def test_without_speakers_the_interval_resamples_utterances_and_says_so() -> None:
    line = summarise(outcomes(), TRUTH, [""] * NUM, IDS)[0]
    assert (line.interval.clusters, line.interval.unit) == (NUM, "utterance")  # not NUM answers under each of two seeds
    assert (line.interval.low, line.interval.high) == pytest.approx(brute_force(IDS, line), abs=0.03)


def test_of_one_speaker_utterances_are_resampled_with_all_their_seeds() -> None:
    """More seeds that say the same make nothing surer."""
    own = [replace(one, posteriors=outcomes()[2 * (place // 2)].posteriors) for place, one in enumerate(outcomes())]
    intervals = [summarise(some, TRUTH, ["s"] * NUM, IDS)[0].interval for some in (own, own[::2])]
    assert intervals[0] == intervals[1]
    assert (intervals[0].clusters, intervals[0].unit) == (NUM, "utterance")


def test_a_speaker_who_is_not_known_is_alone() -> None:
    some = [speaker if speaker != "s0" else "" for speaker in SPEAKERS]
    assert summarise(outcomes(), TRUTH, some, IDS)[0].interval.clusters == 5 + 10


def test_a_head_that_is_always_right() -> None:
    rows = np.arange(NUM)
    line = summarise([Outcome("h", "f", 0, rows, np.eye(3, dtype=np.float32)[TRUTH], 1, 1)], TRUTH, SPEAKERS, IDS)[0]
    assert (line.ua, line.wa, line.macro_f1, line.interval.low, line.interval.high) == (1, 1, 1, 1, 1)
    assert math.isnan(
        folds_table([Outcome("h", "f", 0, rows, np.eye(3)[TRUTH], 1, 1)], TRUTH)["dev_score"].astype(float)[0]
    )


def test_runs_that_diverged_are_counted_by_head_and_fusions_by_their_members() -> None:
    sound = outcomes(("one", "two", "fusion", "well"))
    spoilt = {0: 0, 1: 2, 6: 1, 12: None, 13: None}
    told = _diverged([replace(o, diverged=i in spoilt, best_epoch=spoilt.get(i, 3)) for i, o in enumerate(sound)])
    as_before = "diverged (a loss or an answer that is not finite) and count as they were at their best epoch before"
    assert told == [
        f"2 of 6 runs of one {as_before}; 1 never had one, and count as they were before training; try a lower "
        "--learning-rate",
        f"1 of 6 runs of two {as_before}; try a lower --learning-rate",
        "2 of 6 runs of fusion have a member that diverged",
    ]


def test_answers_that_are_no_numbers_are_counted_by_head() -> None:
    said, rated = np.full((3, 2), 0.5, np.float32), np.zeros((3, 1), np.float32)
    lost, unrated = said.copy(), rated.copy()
    lost[0], lost[1, 1], unrated[1], unrated[2] = np.nan, np.inf, np.nan, -np.inf
    one = Outcome("one", "a", 0, np.arange(3), said, 4, 2)
    made = [one, replace(one, posteriors=lost), replace(one, head="two"), replace(one, ratings=rated)]
    ends = "are no finite numbers and count as 'sad'; try a lower --learning-rate"
    assert _without_answer(made, ["sad", "hot"]) == [f"2 answers of one about test utterances {ends}"]
    made.append(replace(one, head="two", posteriors=lost, ratings=unrated))  # either, or both
    assert _without_answer(made, ["sad", "hot"])[1:] == [f"3 answers of two about test utterances {ends}"]
    bare = replace(one, posteriors=said[:, :0], ratings=unrated)
    assert _without_answer([bare], []) == [
        "2 answers of one about test utterances are no finite numbers and leave its CCC empty; try a lower "
        "--learning-rate"
    ]
