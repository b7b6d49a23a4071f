"""Folds: what they hold, and what they refuse."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmser.errors import ProtocolError
from mmser.train.protocol import PARTS, Fold, HoldOut, folds_from_split, make_folds


def rows_of(fold: Fold) -> tuple[list[int], list[int], list[int]]:
    return fold.train.tolist(), fold.dev.tolist(), fold.test.tolist()


def test_each_session_is_tested_once_with_the_next_as_dev() -> None:
    folds = make_folds(["10", "2", "1", "2", "9"])
    assert [fold.name for fold in folds] == ["1", "2", "9", "10"]  # as numbers
    assert [rows_of(fold) for fold in folds] == [
        ([0, 4], [1, 3], [2]),
        ([0, 2], [4], [1, 3]),
        ([1, 2, 3], [0], [4]),
        ([1, 3, 4], [2], [0]),
    ]
    assert all(rows.dtype == np.int64 for fold in folds for rows in (fold.train, fold.dev, fold.test))


@st.composite
def corpora(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    """Speakers, each at home in one session; some utterances whose speaker is not known."""
    num_sessions = draw(st.integers(3, 6))
    homes = draw(st.lists(st.integers(0, num_sessions - 1), min_size=1, max_size=10))
    utterances = [(f"spk{n}", f"Ses{home}") for n, home in enumerate(homes)]
    utterances += [("", f"Ses{session}") for session in range(num_sessions)]
    chosen = draw(st.lists(st.sampled_from(utterances), max_size=40)) + utterances
    shuffled = draw(st.permutations(chosen))
    return [session for _, session in shuffled], [speaker for speaker, _ in shuffled]


@given(corpora())
def test_parts_are_disjoint_cover_all_and_share_no_speaker(corpus: tuple[list[str], list[str]]) -> None:
    sessions, speakers = corpus
    folds = make_folds(sessions, speakers)
    assert sorted(row for fold in folds for row in fold.test.tolist()) == list(range(len(sessions)))
    for fold in folds:
        parts = [set(fold.part(name).tolist()) for name in PARTS]
        assert sum(len(part) for part in parts) == len(sessions)
        assert set.union(*parts) == set(range(len(sessions)))
        known = [{speakers[row] for row in part} - {""} for part in parts]
        assert sum(len(part) for part in known) == len(set.union(*known))
        assert fold.num_unchecked == speakers.count("")


@given(corpora(), st.data())
def test_a_speaker_in_two_sessions_is_always_found(corpus: tuple[list[str], list[str]], data: st.DataObject) -> None:
    sessions, speakers = corpus
    one, other = data.draw(st.lists(st.sampled_from(sorted(set(sessions))), min_size=2, max_size=2, unique=True))
    with pytest.raises(ProtocolError, match="speaker 'traveller' is in"):
        make_folds([*sessions, one, other], [*speakers, "traveller", "traveller"])


def test_a_shared_speaker_is_named_with_its_parts_and_counts() -> None:
    with pytest.raises(
        ProtocolError,
        match=re.escape(
            "fold 'a': speaker 'S2' is in dev (2 utterances) and in test (1) (and 1 more speakers); "
            "folds must not share speakers: choose another fold column"
        ),
    ):
        make_folds(["a", "a", "b", "b", "b", "c"], ["S2", "S10", "S2", "S2", "S10", "S3"])


def test_too_few_folds_and_rows_without_one() -> None:
    with pytest.raises(ProtocolError, match=r"the fold column has 2 different values \(a, b\).*at least 3"):
        make_folds(["a", "b"])
    with pytest.raises(ProtocolError, match="the session column has 1 different values"):
        make_folds(["a", "a"], column="session")
    with pytest.raises(ProtocolError, match="1 of 4 utterances have no value in the fold column; fill it, or choose"):
        make_folds(["a", "b", "c", ""])


def test_labels_that_cannot_be_trained_are_named() -> None:
    message = r"label 'fear' occurs only in fold 'b' \(2 utterances\): .*drop it with --labels"
    with pytest.raises(ProtocolError, match=message):
        make_folds(["a", "b", "b", "b", "c"], labels=["sad", "fear", "fear", "sad", "sad"])
    message = r"fold 'a': label 'fear' is in dev \(1 utterances\) but not in train"
    with pytest.raises(ProtocolError, match=message):
        make_folds(["a", "a", "b", "b", "c"], labels=["fear", "sad", "fear", "sad", "sad"])


def test_a_given_split_in_any_spelling() -> None:
    (fold,) = folds_from_split(["Test", "Train", "validation", " training"], ["", "A", "B", "A"])
    assert rows_of(fold) == ([1, 3], [2], [0])
    assert (fold.name, fold.num_unchecked) == ("test", 1)


def test_one_of_several_test_parts() -> None:
    split = ["Train", "Development", "Test1", "Test2", "Test2"]
    (fold,) = folds_from_split(split, ["", "", "A", "A", ""], test="Test2")
    assert rows_of(fold) == ([0], [1], [3, 4])
    assert fold.num_unchecked == 3
    message = r"several test parts: test1 \(1\), test2 \(2\); choose one"
    with pytest.raises(ProtocolError, match=message):
        folds_from_split(split)
    with pytest.raises(ProtocolError, match="no utterance is in split 'test3'; test parts found: test1, test2"):
        folds_from_split(split, test="test3")


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (["train", "dev", "eval"], "the split column holds 'eval'; expected train, dev"),
        (["train", "test"], "fold 'test': no utterance is in dev"),
        (["train", "dev"], "fold 'test': no utterance is in test"),
        (["train", "dev", "test", ""], "1 of 4 utterances have no value in the split column"),
    ],
)
def test_splits_that_are_none(split: list[str], message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        folds_from_split(split)


def test_a_given_split_is_checked_like_any_other() -> None:
    with pytest.raises(ProtocolError, match=r"speaker 'A' is in train \(2 utterances\) and in test \(1\)"):
        folds_from_split(["train", "train", "dev", "test"], ["A", "A", "B", "A"])
    with pytest.raises(ProtocolError, match=r"speaker 'A' is in train \(2 utterances\) and in dev \(1\)"):
        folds_from_split(["train", "train", "dev", "test"], ["A", "A", "A", "B"])
    with pytest.raises(ProtocolError, match="label 'joy' is in test"):
        folds_from_split(["train", "dev", "test"], labels=["sad", "sad", "joy"])


# dev speakers

TEN = [f"spk{n}" for n in range(10) for _ in range(3)]
PAIRS = [f"Ses{n // 2}" for n in range(10) for _ in range(3)]


@pytest.mark.parametrize(("share", "num"), [(0.2, 2), (0.25, 2), (0.01, 1), (0.99, 7)])
def test_a_share_of_the_training_speakers_is_dev(share: float, num: int) -> None:
    for fold in make_folds(PAIRS, TEN, hold_out=HoldOut(share)):
        assert len(fold.test) == 6
        dev = {TEN[row] for row in fold.dev}
        assert len(dev) == num
        assert len(fold.dev) == 3 * num
        assert len(fold.train) == 24 - 3 * num
        assert not dev & {TEN[row] for row in fold.train}


def test_the_draw_is_the_seeds_and_each_folds_own() -> None:
    one, again, other = (make_folds(PAIRS, TEN, hold_out=HoldOut(0.2, seed)) for seed in (0, 0, 1))
    assert [rows_of(fold) for fold in one] == [rows_of(fold) for fold in again]
    assert [rows_of(fold) for fold in one] != [rows_of(fold) for fold in other]
    assert len({tuple(fold.dev) for fold in one}) > 1


def test_speakers_that_are_not_known_are_never_dev() -> None:
    speakers = [name if name != "spk4" else "" for name in TEN]
    for fold in make_folds(PAIRS, speakers, hold_out=HoldOut(0.5)):
        assert "" not in {speakers[row] for row in fold.dev}
        assert fold.num_unchecked == 3


def test_two_values_are_enough_where_dev_is_drawn() -> None:
    values, speakers = ["a"] * 4 + ["b"] * 4, ["1", "1", "2", "2", "3", "3", "4", "4"]
    assert [(len(f.train), len(f.dev)) for f in make_folds(values, speakers, hold_out=HoldOut())] == [(2, 2), (2, 2)]
    with pytest.raises(ProtocolError, match="training on another takes at least 2"):
        make_folds(values[:4], speakers[:4], hold_out=HoldOut())
    with pytest.raises(ProtocolError, match="the training part has 1 known speakers; holding some out for dev takes"):
        make_folds(values, ["1"] * 4 + ["2"] * 4, hold_out=HoldOut())
    with pytest.raises(ProtocolError, match="the training part has 0 known speakers"):
        make_folds(values, hold_out=HoldOut())


def test_a_split_without_dev_gets_one_and_one_with_dev_keeps_it() -> None:
    (fold,) = folds_from_split(["train"] * 6 + ["test"], ["1", "1", "2", "2", "3", "3", "9"], hold_out=HoldOut())
    assert (len(fold.train), len(fold.dev), fold.test.tolist()) == (4, 2, [6])
    with pytest.raises(ProtocolError, match=r"gives a dev part \(1 utterances\): dev speakers are not drawn"):
        folds_from_split(["train", "dev", "test"], ["1", "2", "3"], hold_out=HoldOut())


def test_utterances_without_a_label_are_no_label() -> None:
    folds = make_folds(["a", "b", "c"] * 2, labels=["x", "x", "x", "", "", ""])
    assert len(folds) == 3


def test_each_fold_draws_its_own_speakers() -> None:
    """Of ten speakers in pairs: one draw for all folds would give two, and two more where those are tested."""
    drawn = {TEN[row] for fold in make_folds(PAIRS, TEN, hold_out=HoldOut(0.2)) for row in fold.dev}
    assert len(drawn) > 4


def test_only_speakers_of_the_parts_that_are_used_count_as_unchecked() -> None:
    parts, speakers = ["train", "train", "dev", "test1", "test2"], ["a", "", "b", "c", ""]
    (fold,) = folds_from_split(parts, speakers, test="test1")
    assert fold.num_unchecked == 1
