"""Late fusion: one answer from those of several heads. What is fitted is fitted on dev predictions alone."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mmser.errors import MmserError, ProtocolError
from mmser.heads.store import check_readable, write_bytes

_GRID = 5000
"""Weightings tried at most by ``dev-weighted``."""

_FINEST = 20
"""Parts that the whole weight is cut into at most: steps of 0.05."""

_ABOUT = "fusion"
"""Key of the metadata."""

_ARRAYS = {
    "dev-weighted": ("weights",),
    "logistic": ("classes", "coefficients", "intercepts"),
    "svm": ("classes", "gamma", "intercepts", "offsets", "support", "dual"),
    "weighted-ratings": ("weights",),
    "svr": (
        *("gamma", "intercepts", "offsets", "support", "dual"),
        *("input_mean", "input_deviation", "mean", "deviation"),
    ),
}


@dataclass(frozen=True, eq=False)
class Fusion:
    """A fitted rule. What it needs is in ``arrays``, all numbers, so that it is stored without pickle.

    ``dev-weighted``: ``weights`` (M,) of the members' posteriors, not negative, of sum 1. ``logistic``:
    ``coefficients`` (K, M x C) and ``intercepts`` (K,) of the K ``classes`` that dev holds. ``svm``: for each of those,
    support vectors and dual coefficients ``offsets[k]`` to ``offsets[k + 1]``, an intercept, and the kernel's
    ``gamma``.

    Of ratings (:mod:`mmser.train.rating_fusion`): ``weighted-ratings``: ``weights`` (M, K) for the K dimensions.
    ``svr``: support vectors and the rest as above, a machine a dimension, and what standardises its inputs and turns
    its answers into ratings.
    """

    rule: str
    arrays: dict[str, NDArray]

    @property
    def gives_probabilities(self) -> bool:
        """False of ``svm``, whose shares have only the order of its machines' decision values."""
        return self.rule != "svm"

    def __call__(self, members: NDArray) -> NDArray[np.float32]:
        """Posteriors (n, C) from those of the members (M, n, C), or ratings (n, K) from theirs (M, n, K).

        Posteriors of ``svm`` are the softmax of its decision values: they are in the machine's order, but no
        probabilities.
        """
        if self.rule == "dev-weighted":
            return np.tensordot(self.arrays["weights"], members, 1).astype(np.float32)
        if self.rule == "weighted-ratings":
            return np.einsum("mk,mnk->nk", self.arrays["weights"], members).astype(np.float32)
        inputs = side_by_side(members)
        if self.rule == "svr":
            inputs = (inputs - self.arrays["input_mean"]) / self.arrays["input_deviation"]
            rated = _svm_values(self.arrays, inputs) * self.arrays["deviation"] + self.arrays["mean"]
            return rated.astype(np.float32)
        values = _svm_values(self.arrays, inputs) if self.rule == "svm" else _logits(self.arrays, inputs)
        scores = np.full((len(inputs), members.shape[2]), -np.inf)  # a class that dev lacks is never the answer
        scores[:, self.arrays["classes"]] = values
        shares = np.exp(scores - scores.max(1, keepdims=True))
        return (shares / shares.sum(1, keepdims=True)).astype(np.float32)


def fit_fusion(rule: str, members: NDArray, truth: NDArray[np.int64], where: str) -> Fusion:
    """Fit a rule to dev predictions.

    ``dev-weighted`` takes the weights with the highest UA on a grid over all weightings, equal weights among them; of
    equally good ones, those closest to equal. ``logistic`` is multinomial regression (C = 1), ``svm`` one support
    vector machine a class with an RBF kernel (C = 1, gamma = 1 / (features x variance), scikit-learn's defaults), in
    the manner of the two-stage fusion of arXiv 2210.14495; both weigh classes equally, as UA does.

    Args:
        rule: ``dev-weighted``, ``logistic`` or ``svm``.
        members: (M, n, C) the members' posteriors of the dev utterances.
        truth: (n,) their classes.
        where: for the message, e.g. ``"fold s1, seed 0"``.

    Raises:
        ProtocolError: the dev part holds one class only, which teaches nothing.
    """
    if rule == "dev-weighted":
        return Fusion(rule, {"weights": _best_weights(members, truth)})
    classes = np.unique(truth)
    if len(classes) < 2:
        raise ProtocolError(f"{where}: the dev part holds one class only; {rule} fusion cannot be fitted on it")
    inputs = side_by_side(members)
    return Fusion(rule, {"classes": classes, **(_fit_svm if rule == "svm" else _fit_logistic)(inputs, truth, classes)})


def side_by_side(members: NDArray) -> NDArray[np.float64]:
    """(M, n, C) to (n, M x C)."""
    return np.concatenate(list(members), axis=1).astype(np.float64)


def _best_weights(members: NDArray, truth: NDArray[np.int64]) -> NDArray[np.float64]:
    grid = weightings(len(members))
    of_class = truth[:, None] == np.unique(truth)
    of_class = of_class / of_class.sum(0)
    uas = []
    for some in np.array_split(grid, -(-len(grid) // 128)):
        answers = np.tensordot(some, members, 1).argmax(2)
        uas.append(((answers == truth) @ of_class).mean(1))
    return grid[np.concatenate(uas).round(12).argmax()]


def weightings(number: int) -> NDArray[np.float64]:
    """Weights (G, number) to try, of sum 1, the most equal first: a grid over all, and equal ones."""
    grid = np.array([np.full(number, 1 / number), *_shared_out(number)])
    return grid[np.argsort(np.square(grid - 1 / number).sum(1).round(12), kind="stable")]


def _shared_out(number: int) -> Iterator[NDArray[np.float64]]:
    """All ways to share 1 among ``number`` members in equal parts, as small as the size of the grid allows."""
    parts = next((p for p in range(_FINEST, 1, -1) if math.comb(p + number - 1, number - 1) <= _GRID), 1)
    for bars in combinations(range(parts + number - 1), number - 1):
        edges = np.array([-1, *bars, parts + number - 1])
        yield (np.diff(edges) - 1) / parts


def _fit_logistic(
    inputs: NDArray[np.float64], truth: NDArray[np.int64], classes: NDArray[np.int64]
) -> dict[str, NDArray]:
    from sklearn.linear_model import LogisticRegression  # here, so that training without it starts at once

    model = LogisticRegression(class_weight="balanced", max_iter=1000).fit(inputs, truth)
    if len(classes) == 2:  # one logit, that of the second class against the first
        zero = np.zeros_like(model.coef_)
        return {
            "coefficients": np.concatenate([zero, model.coef_]),
            "intercepts": np.array([0.0, model.intercept_[0]]),
        }
    return {"coefficients": model.coef_, "intercepts": model.intercept_}


def _logits(arrays: dict[str, NDArray], inputs: NDArray[np.float64]) -> NDArray[np.float64]:
    return inputs @ arrays["coefficients"].T + arrays["intercepts"]


def _fit_svm(inputs: NDArray[np.float64], truth: NDArray[np.int64], classes: NDArray[np.int64]) -> dict[str, NDArray]:
    from sklearn.svm import SVC  # here, so that training without it starts at once

    gamma = svm_gamma(inputs)
    machines = [SVC(gamma=gamma, class_weight="balanced").fit(inputs, truth == name) for name in classes]
    return svm_arrays(machines, gamma)


def svm_arrays(machines: Sequence[Any], gamma: float) -> dict[str, NDArray]:
    """What is kept of scikit-learn's fitted ``machines``, one a class or dimension, to ask them without it."""
    return {
        "gamma": np.array(gamma),
        "intercepts": np.array([machine.intercept_[0] for machine in machines]),
        "offsets": np.cumsum([0, *(len(machine.support_) for machine in machines)]),
        "support": np.concatenate([machine.support_vectors_ for machine in machines]),
        "dual": np.concatenate([machine.dual_coef_[0] for machine in machines]),
    }


def svm_gamma(inputs: NDArray[np.float64]) -> float:
    """Of the RBF kernel: 1 / (features x variance), as scikit-learn's ``scale``; 1 where nothing varies."""
    spread = inputs.shape[1] * inputs.var()
    return 1 / spread if spread > 0 else 1.0


def _svm_values(arrays: dict[str, NDArray], inputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Value of each class's or dimension's machine: sum_i dual_i exp(-gamma |x - support_i|^2) + intercept."""
    support, offsets = arrays["support"], arrays["offsets"]
    square = np.square(inputs).sum(1)[:, None] - 2 * inputs @ support.T + np.square(support).sum(1)
    kernel = np.exp(-arrays["gamma"] * square.clip(min=0)) * arrays["dual"]
    values = [kernel[:, a:b].sum(1) for a, b in pairwise(offsets)]
    return np.stack(values, 1) + arrays["intercepts"]


def save_fusion(path: Path, fusion: Fusion, members: Sequence[str], labels: Sequence[str]) -> None:
    """Write a fusion as safetensors, with its rule, members and classes (or dimensions) as metadata."""
    # under one key: safetensors writes several in an order that changes from process to process, and so do the bytes
    about = {_ABOUT: json.dumps({"rule": fusion.rule, "members": list(members), "labels": list(labels)})}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, save({name: np.ascontiguousarray(array) for name, array in fusion.arrays.items()}, about))


def load_fusion(path: Path) -> tuple[Fusion, list[str], list[str]]:
    """Read what :func:`save_fusion` wrote: the fusion, its members and its classes (or dimensions).

    Raises:
        MmserError: not there, damaged, or not such a file.
    """
    try:
        check_readable(path)
        with safe_open(path, "numpy") as file:
            about = _about(file.metadata() or {})
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, ValueError, SafetensorError) as error:
        raise MmserError(f"{path}: not readable as safetensors: {error}") from None
    rule = about.get("rule")
    if set(arrays) != set(_ARRAYS.get(str(rule), ())) or not {"members", "labels"} <= set(about):
        raise MmserError(f"{path}: no late fusion (rule {rule!r}); expected one of {', '.join(_ARRAYS)}")
    return Fusion(str(rule), arrays), about["members"], about["labels"]


def _about(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What :func:`save_fusion` says of a fusion; earlier versions said it key by key."""
    if _ABOUT in metadata:
        about: dict[str, Any] = json.loads(metadata[_ABOUT])
        return about
    listed = {name: json.loads(metadata[name]) for name in ("members", "labels") if name in metadata}
    return {**metadata, **listed}
