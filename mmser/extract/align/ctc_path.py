"""The best path of a text through the output of a CTC model: which frames each of its tokens takes.

A path names a token or the blank in every frame; joined runs of one name, blanks taken out, give the text (Graves et
al., "Connectionist temporal classification", ICML 2006, section 3). The best one is found as Viterbi finds it.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TokenSpan:
    """The frames of one token of the text."""

    first: int
    end: int
    """One past the last frame."""
    score: float
    """Mean log probability in these frames."""


def fewest_frames(tokens: list[int]) -> int:
    """Frames that a text needs at least: one a token, and a blank between two that are alike.

    >>> fewest_frames([3, 3, 4])
    4
    """
    return len(tokens) + sum(a == b for a, b in pairwise(tokens))


def best_path(log_probs: NDArray[np.float32], tokens: list[int], blank: int) -> list[TokenSpan]:
    """The frames of each token on the most probable path that spells the tokens.

    Memory is one byte for each frame and state (twice the tokens and one): 1 MB for 30 s of fast speech.

    Args:
        log_probs: (num_frames, num_symbols), natural logarithms.
        tokens: columns of ``log_probs``, none of them the blank, at least one.
        blank: column of the blank.

    Returns:
        One span a token, in order, none empty, none overlapping.
    """
    num_frames, num_states = len(log_probs), 2 * len(tokens) + 1
    assert tokens
    assert blank not in tokens
    assert num_frames >= fewest_frames(tokens), "the caller checks that the text fits"
    symbols = np.full(num_states, blank)
    symbols[1::2] = tokens
    # from one token straight to the next, over the blank between them, unless they are alike
    may_skip = np.zeros(num_states, bool)
    may_skip[3::2] = symbols[3::2] != symbols[1:-2:2]
    came_by = np.zeros((num_frames, num_states), np.uint8)  # states gone forward: 0, 1 or 2
    score = np.full(num_states, -np.inf)
    score[:2] = log_probs[0, symbols[:2]]
    for frame in range(1, num_frames):
        best, by = score.copy(), came_by[frame]
        step = np.concatenate([[-np.inf], score[:-1]])
        better = step > best
        best[better], by[better] = step[better], 1
        skip = np.where(may_skip, np.concatenate([[-np.inf, -np.inf], score[:-2]]), -np.inf)
        better = skip > best
        best[better], by[better] = skip[better], 2
        score = best + log_probs[frame, symbols]
    path = np.empty(num_frames, np.int64)
    path[-1] = num_states - 1 if score[-1] >= score[-2] else num_states - 2
    for frame in range(num_frames - 1, 0, -1):
        path[frame - 1] = path[frame] - came_by[frame, path[frame]]
    spans = []
    for i, token in enumerate(tokens):
        first, end = np.searchsorted(path, [2 * i + 1, 2 * i + 2])
        spans.append(TokenSpan(int(first), int(end), float(log_probs[first:end, token].mean())))
    return spans
