"""The learning rate over a run's own steps, as a factor of the rate that was asked for."""

import math

import numpy as np
from numpy.typing import NDArray


def rate_factors(schedule: str, warmup: float, first: int, num: int, total: int) -> NDArray[np.float64]:
    """Factors (num,) of the steps ``first``, ``first + 1``, ..., counted from 0, of ``total``.

    The first ``warmup * total`` steps rise in a line to 1, beginning above 0. From there the rate stays (``constant``),
    falls to 0 in a line (``linear``) or as half a cosine (``cosine``; Loshchilov and Hutter 2017, one cycle). A run's
    ``total`` is that of all epochs it may take, so that when others stop, or it does, changes nothing before.

    >>> rate_factors("linear", 0.5, 0, 4, 4).tolist()
    [0.5, 1.0, 1.0, 0.5]
    """
    steps = np.arange(first, first + num, dtype=np.float64)
    rising = math.floor(warmup * total)
    past = np.clip((steps - rising) / max(1, total - rising), 0.0, 1.0)
    falling = {"constant": np.ones(num), "linear": 1 - past, "cosine": (1 + np.cos(math.pi * past)) / 2}[schedule]
    return np.where(steps < rising, (steps + 1) / max(1, rising), falling)
