"""Frame states and segments become segment states.

A frame belongs to the segment that contains its centre. A segment too short to hold a centre takes the frame whose
centre lies nearest to the segment's middle, so that no segment is ever without a state.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray

from mmser.records import POOLINGS
from mmser.units import FrameGrid


def frame_ranges(starts_s: ArrayLike, ends_s: ArrayLike, num_frames: int, grid: FrameGrid) -> NDArray:
    """Frames of each segment, as half-open ranges, shape (num_segments, 2).

    A centre on a border belongs to the segment that begins there.

    Args:
        starts_s: start of each segment, seconds from the start of the utterance.
        ends_s: end of each segment, seconds.
        num_frames: frames of the utterance, at least 1.
        grid: where the frames lie in time.

    >>> frame_ranges([0.0, 0.04, 0.045], [0.04, 0.045, 0.1], 4, FrameGrid()).tolist()  # centres at 12.5, 32.5, ... ms
    [[0, 2], [1, 2], [2, 4]]
    """
    assert num_frames >= 1
    starts, ends = np.asarray(starts_s, dtype=np.float64), np.asarray(ends_s, dtype=np.float64)
    centres = grid.centres_s(num_frames)
    # A microsecond of slack: 0.0325 s written by an aligner as 3.25e-2 must not fall on the wrong side of a centre.
    first = np.searchsorted(centres, starts - 1e-6)
    last = np.searchsorted(centres, ends - 1e-6)
    middle = (starts + ends) / 2
    right = (
        np.clip(np.searchsorted(centres, middle), 1, num_frames - 1) if num_frames > 1 else np.zeros(len(starts), int)
    )
    left = np.maximum(right - 1, 0)
    nearest = np.where(middle - centres[left] <= centres[right] - middle, left, right)
    empty = last <= first
    return np.stack([np.where(empty, nearest, first), np.where(empty, nearest + 1, last)], axis=1)


def num_without_centre(starts_s: ArrayLike, ends_s: ArrayLike, num_frames: int, grid: FrameGrid) -> int:
    """Segments too short to contain the centre of any frame: they share a frame with a neighbour."""
    centres = grid.centres_s(num_frames)
    held = np.searchsorted(centres, np.asarray(ends_s) - 1e-6) - np.searchsorted(centres, np.asarray(starts_s) - 1e-6)
    return int((held <= 0).sum())


def pooled_dim(dim: int, how: str) -> int:
    """Width of a pooled state."""
    return 2 * dim if how == "mean+std" else dim


def pool(states: torch.Tensor, ranges: NDArray, how: str = "mean") -> torch.Tensor:
    """One state a segment.

    Args:
        states: frame states (num_layers, num_frames, dim), float, on any device.
        ranges: half-open, non-empty frame ranges (num_segments, 2); they may overlap.
        how: one of :data:`~mmser.records.POOLINGS`; the deviation is the population's, 0 for one frame.

    Returns:
        (num_layers, num_segments, dim), or twice the dim for ``mean+std``; same device, float32.
    """
    assert how in POOLINGS, how
    num_layers, _, dim = states.shape
    if len(ranges) == 0:
        return states.new_zeros((num_layers, 0, pooled_dim(dim, how)), dtype=torch.float32)
    lengths = ranges[:, 1] - ranges[:, 0]
    assert (lengths > 0).all()
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    # frame numbers of all segments end to end: the j-th frame of segment s is ranges[s, 0] + j
    frames = np.arange(offsets[-1]) + np.repeat(ranges[:, 0] - offsets[:-1], lengths)
    index = torch.from_numpy(frames).to(states.device)
    bags = torch.from_numpy(offsets[:-1]).to(states.device)
    mode = "max" if how == "max" else "mean"
    pooled = torch.stack([F.embedding_bag(index, layer.float(), bags, mode=mode) for layer in states])
    if how != "mean+std":
        return pooled
    segment_of = torch.from_numpy(np.repeat(np.arange(len(ranges)), lengths)).to(states.device)
    every = torch.arange(len(frames), device=states.device)
    deviations = []
    for layer, mean in zip(states, pooled, strict=True):
        # Two passes: the mean of squares less the square of the mean loses every digit when the mean is large.
        squares = (layer.float()[index] - mean[segment_of]).square()
        deviations.append(F.embedding_bag(every, squares, bags, mode="mean").sqrt())
    return torch.cat([pooled, torch.stack(deviations)], dim=-1)
