"""Which log-mel frames of an utterance a head sees: a random stretch in training, all of them in evaluation."""

import numpy as np
from numpy.typing import NDArray

from mmser.train.options import Training
from mmser.train.plan import Run, derive
from mmser.train.table import Table
from mmser.units import MEL_HOP, SAMPLE_RATE

MOST_FRAMES = 16_000
"""Log-mel frames, padding included, in a batch of whole utterances: those of 32 crops of 5 s, so that evaluation takes
no more memory than training (but for one utterance longer than 160 s)."""


def crops_of(table: Table, run: Run, epoch: int, rows: NDArray[np.int64], training: Training) -> list[slice] | None:
    """The frames of each of ``rows`` to train on in an epoch; None where nothing is cropped.

    Every stretch of an utterance is as likely as every other, and which it is follows from the run's seed, the epoch
    and the row alone: not from the batch, nor from what was drawn before.
    """
    if table.mel is None or not training.crop_s:
        return None
    size = max(1, round(training.crop_s * SAMPLE_RATE / MEL_HOP))
    lengths = table.mel.lengths.numpy()[rows]
    spare = [max(0, int(length) - size) for length in lengths]
    starts = [derive(run.seed, "crop", epoch, int(row)) % (most + 1) for row, most in zip(rows, spare, strict=True)]
    return [slice(start, start + size) for start in starts]


def whole_batches(table: Table, rows: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """Places in ``rows``, batch after batch, of utterances that are not cropped.

    In their own order and ``batch_size`` at a time; of log-mel frames from the shortest to the longest, and fewer at a
    time where they are long.
    """
    places = np.arange(len(rows))
    if table.mel is None:
        return np.split(places, range(batch_size, len(rows), batch_size))
    lengths = table.mel.lengths.numpy()[rows]
    batches: list[list[int]] = [[]]
    for place in np.argsort(lengths, kind="stable").tolist():
        full = len(batches[-1]) == batch_size or (len(batches[-1]) + 1) * lengths[place] > MOST_FRAMES
        if full and batches[-1]:
            batches.append([])
        batches[-1].append(place)
    return [np.array(batch) for batch in batches]
