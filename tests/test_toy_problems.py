"""Every head learns what it can, and co-attention learns what no linear probe can."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from mmser.heads import HEADS
from mmser.heads.batch import Inputs
from mmser.train.engine import Run, Targets, Training, posteriors, train
from mmser.train.packed import Packed
from mmser.train.table import Table

DIM, NUM, TRAIN, DEV = 4, 480, 320, 400
TRAINING = Training(epochs=25, batch_size=32, patience=25)
OPTIONS = {
    kind: {name: size for name, size in (("width", 16), ("heads", 2)) if hasattr(HEADS[kind].options(), name)}
    for kind in HEADS
} | {"crossmodal-transformer": {"width": 16, "heads": 2, "blocks": 1}}
"""Smaller than the defaults, for heads that would be slow."""


def a_stream(bits: np.ndarray, seed: int) -> Packed:
    """Two to five noisy states an utterance; the bit is the sign of the first feature of one of them."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 6, NUM)
    values = rng.normal(0, 0.3, (1, lengths.sum(), DIM))
    offsets = np.array([0, *np.cumsum(lengths)])
    values[0, offsets[:-1] + rng.integers(0, lengths), 0] += np.where(bits, 3.0, -3.0)
    words = torch.from_numpy(np.concatenate([np.arange(length) for length in lengths]))
    return Packed(torch.from_numpy(values).half(), torch.from_numpy(offsets), words)


def a_table(speech_bits: np.ndarray, text_bits: np.ndarray) -> Table:
    return Table(tuple(f"u{n}" for n in range(NUM)), {"word": a_stream(speech_bits, 1)}, a_stream(text_bits, 2))


def a_build(kind: str) -> Callable[[], nn.Module]:
    options = HEADS[kind].options(**OPTIONS.get(kind, {}))
    return lambda: HEADS[kind].build(Inputs(DIM, DIM, ("word",)), 2, options)


def accuracy(kind: str, table: Table, labels: np.ndarray, training: Training = TRAINING) -> float:
    """On the rows that neither trained nor selected."""
    run = Run("toy", np.arange(TRAIN), np.arange(TRAIN, DEV), seed=1, learning_rate=1e-2)
    hidden = Targets.of_classes(torch.from_numpy(np.where(np.arange(NUM) < DEV, labels, -1)), 2)
    trained = train(table, hidden, a_build(kind), [run], training)
    (answer,) = posteriors(table, a_build(kind), trained, [np.arange(DEV, NUM)])
    return float((answer.argmax(-1) == labels[DEV:]).mean())


def two_bits() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 2, NUM), rng.integers(0, 2, NUM)


@pytest.mark.parametrize("kind", [kind for kind in HEADS if not HEADS[kind].needs_mel])  # those: test_apart.py
def test_every_head_learns_a_toy_problem(kind: str) -> None:
    bits, _ = two_bits()
    found = accuracy(kind, a_table(bits, bits), bits, replace(TRAINING, epochs=6))
    assert found > 0.95


@pytest.mark.parametrize("kind", ["speech-probe", "text-probe"])
def test_one_modality_cannot_tell_what_is_in_both(kind: str) -> None:
    speech, text = two_bits()
    found = accuracy(kind, a_table(speech, text), speech ^ text)
    assert found < 0.65


def test_co_attention_can() -> None:
    speech, text = two_bits()
    found = accuracy("coattention", a_table(speech, text), speech ^ text)
    assert found > 0.9  # ten seeds gave 0.94 to 1.00


def spoken_how(rng: np.random.Generator) -> tuple[Table, np.ndarray]:
    """Four words, all marked in text or not, and in speech or not: is the marked word the one that is marked twice?

    Which words are marked says nothing, nor how many, but only whether the two marks are on the same word. Words come
    in the order in which they are written in text, and in any order in speech.
    """
    text, speech = rng.integers(0, 4, (2, NUM))
    labels = rng.integers(0, 2, NUM)
    speech = np.where(labels, text, np.where(speech == text, (text + 1) % 4, speech))

    def marked(places: np.ndarray, order: np.ndarray) -> Packed:
        values = rng.normal(0, 0.3, (NUM, 4, DIM))
        values[..., 0] += 3.0 * (order == places[:, None])
        offsets = torch.arange(0, 4 * NUM + 1, 4)
        words = torch.from_numpy(order.reshape(-1))
        return Packed(torch.from_numpy(values.reshape(1, -1, DIM)).half(), offsets, words, words.float() / 3)

    shuffled = rng.permuted(np.tile(np.arange(4), (NUM, 1)), axis=1)
    plain = np.tile(np.arange(4), (NUM, 1))
    return Table(tuple(f"u{n}" for n in range(NUM)), {"word": marked(speech, shuffled)}, marked(text, plain)), labels


def test_the_alignment_tells_which_word_was_spoken_how() -> None:
    table, labels = spoken_how(np.random.default_rng(0))
    training = replace(TRAINING, epochs=12)
    assert accuracy("aligned-words", table, labels, training) > 0.9
    assert accuracy("attention-pool", table, labels, training) < 0.7
