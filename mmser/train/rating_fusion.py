"""Late fusion of ratings, fitted on dev predictions alone, as that of classes is (:mod:`mmser.train.fusion`)."""

import numpy as np
import torch
from numpy.typing import NDArray

from mmser.train.evaluate import concordances
from mmser.train.fusion import Fusion, side_by_side, svm_arrays, svm_gamma, weightings


def fit_rating_fusion(rule: str, members: NDArray, truth: NDArray[np.floating]) -> Fusion:
    """Fit a rule to dev ratings, each dimension for itself.

    ``dev-weighted`` takes the weights with the highest CCC, found as those for classes are. ``svm`` is support vector
    regression with an RBF kernel on all dimensions of all members, in the manner of the two-stage fusion of arXiv
    2210.14495; inputs and ratings are standardised, C = 1, epsilon = 0.1 of a deviation and gamma = 1 / (features x
    variance), scikit-learn's defaults.

    Args:
        rule: ``dev-weighted`` or ``svm``.
        members: (M, n, K) the members' ratings of the dev utterances.
        truth: (n, K) theirs, NaN where not known; at least two known ones in each dimension.

    Returns:
        A fusion by ``weighted-ratings`` or ``svr``.
    """
    return Fusion("svr", _fit_svr(members, truth)) if rule == "svm" else _best_weights(members, truth)


def _best_weights(members: NDArray, truth: NDArray[np.floating]) -> Fusion:
    grid = weightings(len(members))
    wanted = torch.from_numpy(np.asarray(truth, dtype=np.float64))
    found = []
    for some in np.array_split(grid, -(-len(grid) // 128)):
        said = torch.from_numpy(np.tensordot(some, members.astype(np.float64), 1))
        found.append(concordances(wanted.expand_as(said), said).numpy())
    best = np.concatenate(found).round(12).argmax(0)
    return Fusion("weighted-ratings", {"weights": grid[best].T})


def _fit_svr(members: NDArray, truth: NDArray[np.floating]) -> dict[str, NDArray]:
    from sklearn.svm import SVR  # here, so that training without it starts at once

    inputs, known = side_by_side(members), ~np.isnan(truth)
    input_mean, input_deviation = inputs.mean(0), _deviation(inputs)
    inputs = (inputs - input_mean) / input_deviation
    gamma = svm_gamma(inputs)
    mean, deviation = np.nanmean(truth, 0), _deviation(truth)
    machines = [
        SVR(gamma=gamma).fit(inputs[own], (truth[own, number] - mean[number]) / deviation[number])
        for number, own in enumerate(known.T)
    ]
    return {
        **svm_arrays(machines, gamma),
        "input_mean": input_mean,
        "input_deviation": input_deviation,
        "mean": mean,
        "deviation": deviation,
    }


def _deviation(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Of each column, over what is known; 1 where it is constant, so that one can divide by it."""
    deviation = np.nanstd(values.astype(np.float64), 0)
    return np.where(deviation > 0, deviation, 1.0)
