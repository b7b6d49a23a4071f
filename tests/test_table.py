"""Resident features against plain loops over numpy arrays."""

import numpy as np
import pytest
import torch

from mmser.errors import ProtocolError
from mmser.train import packed as packed_module
from mmser.train import table as table_module
from mmser.train.packed import Packed
from mmser.train.table import Table

LENGTHS = [3, 0, 1, 5, 2, 4, 0]
DIM, LAYERS = 4, 3


def a_stream(layers: int = LAYERS, seed: int = 0, dtype: torch.dtype = torch.float16) -> tuple[Packed, list]:
    """Packed states, and the same as one array (L, T, D) an utterance."""
    rng = np.random.default_rng(seed)
    own = [rng.normal(2.0, 3.0, (layers, length, DIM)).astype(np.float16) for length in LENGTHS]
    offsets = torch.tensor([0, *np.cumsum(LENGTHS)])
    return Packed(torch.from_numpy(np.concatenate(own, 1)).to(dtype), offsets), own


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("layer", [None, [2, 0]])
@pytest.mark.parametrize("rows", [[[3, 0, 1], [5, 5, 6]], [[1], [6]]])
def test_gather_is_a_padded_copy(rows: list, layer: list | None, dtype: torch.dtype) -> None:
    stream, own = a_stream(dtype=dtype)
    found = stream.gather(torch.tensor(rows), None if layer is None else torch.tensor(layer))
    width = max(1, max(LENGTHS[row] for run in rows for row in run))
    assert found.values.dtype == torch.float32
    for r, run in enumerate(rows):
        for b, row in enumerate(run):
            expected = np.zeros((LAYERS, width, DIM), np.float32)
            expected[:, : LENGTHS[row]] = own[row]
            if layer is not None:
                expected = expected[layer[r]]
            np.testing.assert_array_equal(found.values[r, b].numpy(), expected)
            assert found.mask[r, b].tolist() == [t < LENGTHS[row] for t in range(width)]


def test_gather_of_one_layer_has_no_layer_axis() -> None:
    stream, own = a_stream(layers=1)
    values = stream.gather(torch.tensor([[3]])).values
    np.testing.assert_array_equal(values[0, 0].numpy(), own[3][0].astype(np.float32))


def test_a_stream_without_any_state() -> None:
    stream = Packed(torch.zeros(1, 0, DIM), torch.zeros(3, dtype=torch.int64))
    values, mask, *_ = stream.gather(torch.tensor([[0, 1]]))
    assert values.shape == (1, 2, 1, DIM)
    assert not mask.any()
    with pytest.raises(ProtocolError, match="2 utterances have no states at all"):
        stream.moments(np.array([0, 1]))
    assert stream.means().offsets.tolist() == [0, 0, 0]


@pytest.mark.parametrize("layer", [None, 1])
def test_moments_are_numpys(layer: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_module, "CHUNK", 2)
    stream, own = a_stream()
    rows = np.array([5, 1, 3])
    states = np.concatenate([own[row] for row in rows], 1).astype(np.float64)
    if layer is not None:
        states = states[layer]
    mean, deviation = stream.moments(rows, layer)
    np.testing.assert_allclose(mean.numpy(), states.mean(-2), rtol=1e-6)
    np.testing.assert_allclose(deviation.numpy(), states.std(-2), rtol=1e-6)


def test_moments_survive_a_large_offset_and_a_constant() -> None:
    values = torch.tensor([[1e4, 0.1], [1e4 + 1, 0.1], [1e4 + 2, 0.1]])[None]
    mean, deviation = Packed(values, torch.tensor([0, 3])).moments(np.array([0]))
    np.testing.assert_allclose(mean.numpy(), [10001.0, 0.1], rtol=1e-6)
    np.testing.assert_allclose(deviation.numpy(), [np.sqrt(2 / 3), 1.0], rtol=1e-6)


def test_means_are_one_state_an_utterance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_module, "_MEANS", 2)
    stream, own = a_stream()
    means = stream.means()
    assert means.lengths.tolist() == [min(1, length) for length in LENGTHS]
    expected = np.stack([states.astype(np.float64).mean(1) for states in own if states.shape[1]], 1)
    np.testing.assert_allclose(means.values.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_means_are_standardised_and_ordered_by_what_they_are_the_means_of() -> None:
    speech, _ = a_stream()
    text, _ = a_stream(layers=1, seed=1)
    mel, _ = a_stream(layers=1, seed=2)
    table = Table(tuple("tuvwxyz"), {"word": speech}, text, mel)
    means, rows = table.means(), np.array([0, 3, 4])
    assert means.lengths.tolist() == [2 * min(1, length) + length for length in LENGTHS]
    assert means.read_lengths.tolist() == table.lengths.tolist() == table.read_lengths.tolist()
    for layer in (None, 1):
        for one, other in zip(speech.moments(rows, layer), means.speech["word"].moments(rows, layer), strict=True):
            assert torch.equal(one, other)
    assert means.mel is mel
    once = means.speech["word"]
    assert once.means() is once  # there is nothing left to average


def test_normalising_per_speaker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "CHUNK", 3)
    stream, own = a_stream(dtype=torch.float32)
    text, _ = a_stream(layers=1, seed=1)
    speakers = ["b", "a", "a", "b", "a", "b", "c"]
    table = Table(tuple("tuvwxyz"), {"word": stream}, text).normalised_per_speaker(speakers)
    for speaker in "ab":
        rows = [row for row, name in enumerate(speakers) if name == speaker]
        states = np.concatenate([own[row] for row in rows], 1).astype(np.float64)
        expected = (states - states.mean(1, keepdims=True)) / states.std(1, keepdims=True)
        found = table.speech["word"].values[:, table.speech["word"].states_of(np.array(rows))]
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert table.text is text
    message = r"1 utterances have no speaker \(first: 't'\): features cannot be normalised per speaker"
    with pytest.raises(ProtocolError, match=message):
        table.normalised_per_speaker(["", *speakers[1:]])


def test_a_table_gathers_all_streams_and_only_those_asked_for() -> None:
    speech, _ = a_stream()
    text, _ = a_stream(layers=1, seed=1)
    table = Table(tuple("tuvwxyz"), {"word": speech, "phone": speech}, text)
    key = torch.tensor([[7, 8]])
    batch = table.gather(torch.tensor([[0, 3]]), torch.tensor([1]), key)
    assert set(batch.speech) == {"word", "phone"}
    assert batch.text is not None
    assert batch.text.values.shape == (1, 2, 5, DIM)
    assert batch.key is key
    fewer = table.only(["phone"], text=False)
    assert (set(fewer.streams), fewer.ids) == ({"phone"}, table.ids)
    assert fewer.speech["phone"] is speech


def test_what_does_not_fit_is_refused() -> None:
    values = torch.zeros(1, 5, DIM)
    with pytest.raises(ProtocolError, match="offsets do not run from 0 to the 5 states"):
        Packed(values, torch.tensor([0, 4]))
    with pytest.raises(ProtocolError, match="offsets run backwards"):
        Packed(values, torch.tensor([0, 4, 3, 5]))
    with pytest.raises(ProtocolError, match=r"states have shape \(5, 4\) and type torch.float32"):
        Packed(values[0], torch.tensor([0, 5]))
    with pytest.raises(ProtocolError, match="word has states for 1 utterances, expected 2"):
        Table(("a", "b"), {"word": Packed(values, torch.tensor([0, 5]))})
