"""Rules of late fusion against scikit-learn and brute force, and what comes back from disk."""

import errno
import json
import os
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file
from sklearn.compose import TransformedTargetRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR

from mmser.errors import MmserError, ProtocolError
from mmser.metrics import concordance_correlation
from mmser.train.fusion import fit_fusion, load_fusion, save_fusion
from mmser.train.rating_fusion import fit_rating_fusion

FITTED = ("dev-weighted", "logistic", "svm")


def answers(num_members: int, num_classes: int, n: int = 60, seed: int = 0) -> tuple[NDArray, NDArray]:
    """Posteriors of members of unlike quality, and the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, num_classes, n)
    scores = rng.normal(size=(num_members, n, num_classes))
    scores[:, np.arange(n), truth] += np.linspace(0.3, 1.5, num_members)[:, None]
    shares = np.exp(scores)
    return (shares / shares.sum(2, keepdims=True)).astype(np.float32), truth


def stacked(members: NDArray) -> NDArray:
    return np.hstack(list(members)).astype(np.float64)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_logistic_stacking_is_scikit_learns(num_classes: int) -> None:
    dev, truth = answers(3, num_classes)
    test, _ = answers(3, num_classes, seed=1)
    model = LogisticRegression(class_weight="balanced", max_iter=1000).fit(stacked(dev), truth)
    found = fit_fusion("logistic", dev, truth, "here")(test)
    np.testing.assert_allclose(found, model.predict_proba(stacked(test)), atol=1e-6)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_svm_stacking_is_scikit_learns(num_classes: int) -> None:
    dev, truth = answers(3, num_classes)
    test, _ = answers(3, num_classes, seed=1)
    found = fit_fusion("svm", dev, truth, "here")(test)
    model = OneVsRestClassifier(SVC(class_weight="balanced")).fit(stacked(dev), truth)
    values = model.decision_function(stacked(test))
    if num_classes == 2:
        values = np.stack([-values, values], 1)
    shares = np.exp(values) / np.exp(values).sum(1, keepdims=True)
    np.testing.assert_allclose(found, shares, atol=1e-6 if num_classes > 2 else 1e-2)  # two machines mirror each other
    np.testing.assert_array_equal(found.argmax(1), model.predict(stacked(test)))


def test_dev_weights_are_the_best_of_all_weightings() -> None:
    dev, truth = answers(3, 4, n=40)
    weights = fit_fusion("dev-weighted", dev, truth, "here").arrays["weights"]

    def ua(some: NDArray) -> float:
        return balanced_accuracy_score(truth, np.tensordot(some, dev, 1).argmax(1))

    grid = [np.array(w) / 20 for w in product(range(21), repeat=3) if sum(w) == 20]
    best = max([ua(some) for some in grid] + [ua(np.full(3, 1 / 3))])
    assert ua(weights) == pytest.approx(best)
    assert weights.sum() == pytest.approx(1)
    assert weights.min() >= 0
    as_good = [some for some in grid if ua(some) > best - 1e-9]
    assert np.square(weights - 1 / 3).sum() <= min(np.square(some - 1 / 3).sum() for some in as_good) + 1e-9


def test_dev_weights_are_the_best_by_ua_not_by_accuracy() -> None:
    """Eight of one class and two of the other: who always names the first is right more often, and has a UA of 0.5."""
    truth = np.array([0] * 8 + [1] * 2)
    always, finds_both = np.zeros(10, int), np.array([1] * 4 + [0] * 4 + [1] * 2)
    dev = np.stack([np.where(np.eye(2)[said] > 0, 0.8, 0.2) for said in (always, finds_both)])
    weights = fit_fusion("dev-weighted", dev, truth, "here").arrays["weights"]
    said = np.tensordot(weights, dev, 1).argmax(1)
    assert balanced_accuracy_score(truth, said) == 0.75
    assert (said == truth).mean() == 0.6 < (always == truth).mean()


def test_members_that_agree_weigh_the_same() -> None:
    dev, truth = answers(1, 3)
    weights = fit_fusion("dev-weighted", np.concatenate([dev] * 9), truth, "here").arrays["weights"]
    np.testing.assert_allclose(weights, 1 / 9)


@pytest.mark.parametrize("rule", FITTED)
def test_a_useful_member_among_useless_ones_is_heard(rule: str) -> None:
    dev, truth = answers(4, 3, n=200)
    dev[:3] = dev[:3, np.random.default_rng(2).permutation(200)]
    test, wanted = answers(4, 3, n=400, seed=5)
    test[:3] = test[:3, np.random.default_rng(3).permutation(400)]
    fused = balanced_accuracy_score(wanted, fit_fusion(rule, dev, truth, "here")(test).argmax(1))
    assert fused > balanced_accuracy_score(wanted, test.mean(0).argmax(1)) + 0.05


@pytest.mark.parametrize("rule", ["logistic", "svm"])
def test_a_class_that_dev_lacks_is_never_the_answer(rule: str) -> None:
    dev, truth = answers(2, 4)
    dev, truth = dev[:, truth != 2], truth[truth != 2]
    shares = fit_fusion(rule, dev, truth, "here")(answers(2, 4, seed=1)[0])
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)
    assert not shares[:, 2].any()
    with pytest.raises(ProtocolError, match="fold s1, seed 0: the dev part holds one class only"):
        fit_fusion(rule, dev[:, truth == 1], truth[truth == 1], "fold s1, seed 0")


@pytest.mark.parametrize("rule", FITTED)
def test_what_is_read_back_answers_the_same(rule: str, tmp_path: Path) -> None:
    dev, truth = answers(3, 3)
    test, _ = answers(3, 3, seed=1)
    fusion = fit_fusion(rule, dev, truth, "here")
    save_fusion(tmp_path / "fusions" / "one.safetensors", fusion, ["a", "b@word", "c"], ["x", "y", "z"])
    again, members, labels = load_fusion(tmp_path / "fusions" / "one.safetensors")
    np.testing.assert_array_equal(again(test), fusion(test))
    assert (again.rule, members, labels) == (rule, ["a", "b@word", "c"], ["x", "y", "z"])
    assert [path.name for path in (tmp_path / "fusions").iterdir()] == ["one.safetensors"]


def test_colleagues_may_read_a_fusion_where_the_umask_lets_them(tmp_path: Path) -> None:
    fusion = fit_fusion("dev-weighted", *answers(2, 3), "here")
    before = os.umask(0o002)
    try:
        save_fusion(tmp_path / "one.safetensors", fusion, ["a", "b"], ["x", "y", "z"])
    finally:
        os.umask(before)
    assert (tmp_path / "one.safetensors").stat().st_mode & 0o777 == 0o664


def test_a_fusion_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> int:
        path.open("wb").close()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    fusion = fit_fusion("dev-weighted", *answers(2, 3), "here")
    with pytest.raises(OSError, match="No space left on device"):
        save_fusion(tmp_path / "one.safetensors", fusion, ["a", "b"], ["x", "y", "z"])
    assert not list(tmp_path.iterdir())


def test_a_fusion_that_may_not_be_read_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretended, for root may read all."""
    save_fusion(tmp_path / "one.safetensors", fit_fusion("svm", *answers(2, 3), "here"), ["a", "b"], ["x", "y", "z"])

    def refuse(path: Path, *_args: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(MmserError, match=r"one\.safetensors: not readable as safetensors: .*Permission denied"):
        load_fusion(tmp_path / "one.safetensors")


def test_the_same_fusion_is_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    """safetensors orders several keys of metadata as a hash seed of its own says, drawn anew each time."""
    dev, truth = answers(3, 3)
    for number in range(8):
        fusion = fit_fusion("svm", dev, truth, "here")
        save_fusion(tmp_path / f"{number}.safetensors", fusion, ["a", "b@word", "c"], ["x", "y", "z"])
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_fusions_of_earlier_versions_are_read(tmp_path: Path) -> None:
    about = {"rule": "dev-weighted", "members": json.dumps(["a", "b"]), "labels": json.dumps(["x", "y"])}
    save_file({"weights": np.array([0.25, 0.75])}, tmp_path / "old.safetensors", about)
    fusion, members, labels = load_fusion(tmp_path / "old.safetensors")
    np.testing.assert_array_equal(fusion.arrays["weights"], [0.25, 0.75])
    assert (fusion.rule, members, labels) == ("dev-weighted", ["a", "b"], ["x", "y"])


def test_files_that_are_no_fusion_are_named(tmp_path: Path) -> None:
    with pytest.raises(MmserError, match=r"none\.safetensors: not readable as safetensors"):
        load_fusion(tmp_path / "none.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"\x10")
    with pytest.raises(MmserError, match=r"torn\.safetensors: not readable as safetensors"):
        load_fusion(tmp_path / "torn.safetensors")
    about = {"rule": "svm", "members": json.dumps([]), "labels": json.dumps([])}
    save_file({"weights": np.zeros(2)}, tmp_path / "other.safetensors", about)
    with pytest.raises(MmserError, match=r"other\.safetensors: no late fusion \(rule 'svm'\); expected one of dev-"):
        load_fusion(tmp_path / "other.safetensors")


def ratings(num_members: int, num_dimensions: int, n: int = 60, seed: int = 0) -> tuple[NDArray, NDArray]:
    """Ratings by members of unlike quality, and the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(1, 7, (n, num_dimensions))
    noise = rng.normal(size=(num_members, n, num_dimensions)) * np.linspace(3, 1, num_members)[:, None, None]
    return (truth + noise).astype(np.float32), truth


def test_svm_stacking_of_ratings_is_scikit_learns_regression_on_standardised_ratings() -> None:
    dev, truth = ratings(3, 2)
    test, _ = ratings(3, 2, seed=1)
    found = fit_rating_fusion("svm", dev, truth)(test)
    for number in range(2):
        regression = make_pipeline(StandardScaler(), SVR())
        model = TransformedTargetRegressor(regression, transformer=StandardScaler()).fit(stacked(dev), truth[:, number])
        np.testing.assert_allclose(found[:, number], model.predict(stacked(test)), atol=5e-3)  # SVR ends within 1e-3


def test_weights_of_each_dimension_are_the_best_of_all_weightings() -> None:
    dev, truth = ratings(3, 2, n=40)
    dev[:, :, 1] = dev[::-1, :, 1]  # whoever rates the one badly rates the other well
    weights = fit_rating_fusion("dev-weighted", dev, truth).arrays["weights"]
    grid = [np.array(w) / 20 for w in product(range(21), repeat=3) if sum(w) == 20] + [np.full(3, 1 / 3)]
    for number in range(2):
        scores = [concordance_correlation(truth[:, number], some @ dev[:, :, number]) for some in grid]
        np.testing.assert_allclose(weights[:, number], grid[int(np.argmax(scores))])
    assert np.argmax(weights, 0).tolist() == [2, 0]


@pytest.mark.parametrize("rule", ["dev-weighted", "svm"])
def test_ratings_that_are_not_known_fit_nothing(rule: str, tmp_path: Path) -> None:
    """A dimension is fitted as if the utterances without its rating were not there, and comes back from disk."""
    dev, truth = ratings(2, 2)
    dev[:, 30:] = dev[:, :30]  # so that what standardises the inputs is the same with half of them
    truth[30:] = np.nan
    fusion, (test, _) = fit_rating_fusion(rule, dev, truth), ratings(2, 2, seed=1)
    np.testing.assert_allclose(fusion(test), fit_rating_fusion(rule, dev[:, :30], truth[:30])(test), atol=1e-6)
    save_fusion(tmp_path / "one.safetensors", fusion, ["a", "b"], ["arousal", "valence"])
    again, members, dimensions = load_fusion(tmp_path / "one.safetensors")
    np.testing.assert_array_equal(again(test), fusion(test))
    assert (again.rule, members, dimensions) == (fusion.rule, ["a", "b"], ["arousal", "valence"])
