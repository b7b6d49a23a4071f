"""Pooling against a brute force over frames, and properties that must hold for any segmentation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmser.pooling import frame_ranges, num_without_centre, pool
from mmser.records import POOLINGS
from mmser.units import SAMPLE_RATE, FrameGrid

GRID = FrameGrid()


def brute_ranges(starts, ends, num_frames):
    """Every frame asked for every segment, in exact milliseconds."""
    rows = []
    centres = [(GRID.field / 2 + GRID.hop * i) / SAMPLE_RATE for i in range(num_frames)]
    for start, end in zip(starts, ends, strict=True):
        inside = [i for i, c in enumerate(centres) if start <= c < end]
        if not inside:
            middle = (start + end) / 2
            inside = [min(range(num_frames), key=lambda i: (abs(centres[i] - middle), i))]
        rows.append([inside[0], inside[-1] + 1])
    return rows


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=12), st.integers(1, 60))
def test_frame_ranges_equal_brute_force(lengths_ms, num_frames):
    bounds = np.concatenate([[0], np.cumsum(lengths_ms)]) * 1e-3 + 1e-4  # off the centres: ties have their own test
    ranges = frame_ranges(bounds[:-1], bounds[1:], num_frames, GRID)
    assert ranges.tolist() == brute_ranges(bounds[:-1], bounds[1:], num_frames)


def test_a_centre_on_a_border_belongs_to_the_segment_that_begins_there():
    assert frame_ranges([0.0, 0.0325], [0.0325, 0.08], 4, GRID).tolist() == [[0, 1], [1, 4]]


@pytest.mark.parametrize("off", [-5e-7, 5e-7])
def test_a_border_that_rounding_moved_off_a_centre_is_taken_for_the_centre(off):
    border = 0.0325 + off
    assert frame_ranges([0.0, border], [border, 0.08], 4, GRID).tolist() == [[0, 1], [1, 4]]
    assert num_without_centre([0.0325 + off], [0.034], 4, GRID) == 0


def test_of_two_frames_that_are_as_near_the_earlier_is_taken():
    """Centres at 4/64, 8/64, ... of a second, which floats hold exactly, and a middle at 6/64."""
    assert frame_ranges([5 / 64], [7 / 64], 4, FrameGrid(hop=1000, field=2000)).tolist() == [[0, 1]]


@pytest.mark.parametrize("how", ["mean", "mean+std"])
def test_states_of_half_precision_are_pooled_in_single(how):
    states = (torch.randn(1, 300, 8, generator=torch.Generator().manual_seed(2)) * 30 + 100).half()
    frames = states[0].double().numpy()
    expected = np.concatenate([frames.mean(0), frames.std(0)])[: 8 if how == "mean" else 16]
    np.testing.assert_allclose(pool(states, np.array([[0, 300]]), how).numpy()[0, 0], expected, rtol=1e-5)


def test_a_segment_without_a_centre_takes_the_nearest_frame():
    assert frame_ranges([0.014], [0.018], 4, GRID).tolist() == [[0, 1]]
    assert frame_ranges([0.028], [0.032], 4, GRID).tolist() == [[1, 2]]
    assert frame_ranges([5.0], [5.1], 4, GRID).tolist() == [[3, 4]]
    assert num_without_centre([0.0, 0.014, 0.03], [0.014, 0.018, 0.2], 4, GRID) == 1


@pytest.mark.parametrize("how", POOLINGS)
def test_pool_equals_numpy_segment_by_segment(how):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(3, 20, 5, generator=generator) + 100  # a large mean exposes a one-pass deviation
    ranges = np.array([[0, 4], [3, 4], [4, 20]])
    found = pool(states, ranges, how).numpy()
    for layer in range(3):
        for segment, (a, b) in enumerate(ranges):
            frames = states[layer, a:b].double().numpy()
            expected = {
                "mean": frames.mean(0),
                "max": frames.max(0),
                "mean+std": np.concatenate([frames.mean(0), frames.std(0)]),
            }[how]
            np.testing.assert_allclose(found[layer, segment], expected, rtol=1e-5, atol=2e-5)


def test_segments_that_tile_the_frames_weigh_back_to_the_mean():
    states = torch.randn(2, 49, 8, generator=torch.Generator().manual_seed(1))
    bounds = np.array([0.0, 0.2, 0.31, 0.7, 1.0])
    ranges = frame_ranges(bounds[:-1], bounds[1:], 49, GRID)
    weights = torch.from_numpy(np.diff(ranges, axis=1)).float()
    assert int(weights.sum()) == 49
    together = (pool(states, ranges) * weights).sum(1) / 49
    torch.testing.assert_close(together, states.mean(1), rtol=1e-5, atol=1e-6)


def test_no_segments_give_no_states():
    assert pool(torch.zeros(2, 5, 3), np.zeros((0, 2), int), "mean+std").shape == (2, 0, 6)


@given(st.integers(0, 200_000))
def test_frame_count_equals_the_convolutions_one_by_one(num_samples):
    length = num_samples
    for kernel, stride in zip((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2), strict=True):
        length = (length - kernel) // stride + 1 if length >= kernel else 0
    assert GRID.num_frames(num_samples) == max(0, length)
