"""Products come to the same whichever library computes them, and so do layers, gradients and whole trainings."""

import platform
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from mmser import products
from mmser.extract.speech import SpeechEncoder, load_speech_encoder
from mmser.extract.text import TextEncoder, load_text_encoder
from mmser.heads import HEADS
from mmser.heads.batch import Inputs
from mmser.heads.linear import Linear
from mmser.train.engine import Run, Targets, Training, train
from mmser.train.packed import Packed
from mmser.train.serial import train_serially
from mmser.train.table import Table


@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("transposed", ["neither", "left", "right", "both"])
def test_products_are_those_of_float64(library: str, runs: int, biased: bool, transposed: str) -> None:
    rng = np.random.default_rng(0)
    left, right, bias = rng.normal(size=(runs, 37, 19)), rng.normal(size=(runs, 19, 23)), rng.normal(size=(runs, 23))

    def as_asked(own: np.ndarray, side: str) -> torch.Tensor:
        """The same numbers, one column after the other in memory where that is asked for."""
        other_way = transposed in (side, "both")
        return torch.from_numpy(own.swapaxes(1, 2).copy()).mT.float() if other_way else torch.from_numpy(own).float()

    found = products.multiply(
        as_asked(left, "left"), as_asked(right, "right"), torch.from_numpy(bias).float() if biased else None
    )
    expected = left @ right + (bias[:, None] if biased else 0)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=2e-5)


def test_each_library_is_asked(library: str) -> None:
    """The fixture does what it says: otherwise both halves of these tests would try the same."""
    with torch.profiler.profile() as seen:
        products.multiply(torch.randn(2, 4, 3), torch.randn(2, 3, 5))
    names = {event.key for event in seen.key_averages()}
    assert ("mkldnn::_linear_pointwise" in names) == (library == "onednn")
    assert ("aten::bmm" in names) == (library == "torch")


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_alone_is_torchs_own(library: str, bias: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = Linear(6, 5, bias=bias), nn.Linear(6, 5, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    values = torch.randn(11, 6)
    seen = []
    for layer in (ours, theirs):
        own = values.clone().requires_grad_()
        said = layer(own)
        seen.append([said, *torch.autograd.grad((said * torch.arange(5)).sum(), [own, *layer.parameters()])])
    for one, other in zip(*seen, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_stacked_layers_are_torchs_own(library: str) -> None:
    torch.manual_seed(1)
    layers = [Linear(6, 5) for _ in range(3)]
    layers[0].stacked = True
    parameters, _ = stack_module_state(layers)
    values = torch.randn(3, 11, 6)

    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    said = vmap(lambda own, states: functional_call(layers[0], own, (states,)))(leaves, values)
    gradients = torch.autograd.grad((said * torch.arange(5)).sum(), list(leaves.values()))
    found = dict(zip(leaves, gradients, strict=True))
    for place, layer in enumerate(layers):
        plain = nn.Linear(6, 5)
        plain.load_state_dict(layer.state_dict())
        (plain(values[place]) * torch.arange(5)).sum().backward()
        for name, parameter in plain.named_parameters():
            torch.testing.assert_close(found[name][place], parameter.grad, rtol=1e-5, atol=1e-5)


def test_a_frozen_models_layers_are_torchs_own(library: str) -> None:
    """Whatever they are given; and what the model says of itself stays."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 4, bias=False)).eval()
    before, states = {name: value.clone() for name, value in model.state_dict().items()}, torch.randn(2, 7, 6)
    with torch.inference_mode():
        expected = [model(own) for own in (states, states[0], states[:0])]
        products.for_inference(model)
        assert (type(model[0]) is nn.Linear) == (library == "torch")
        for own, wanted in zip((states, states[0], states[:0]), expected, strict=True):
            torch.testing.assert_close(model(own), wanted, rtol=1e-5, atol=1e-6)
        assert {name: value.tolist() for name, value in model.state_dict().items()} == {
            name: value.tolist() for name, value in before.items()
        }
        assert model.to(torch.bfloat16)(states.bfloat16()).dtype == torch.bfloat16


def test_small_products_are_left_to_torch(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 7 rows and a weight of 30 numbers: in a stack, alone and in a frozen model; 6 rows are too few."""
    monkeypatch.setattr(products, "SMALLEST", 7 * 30)
    frozen = nn.Sequential(nn.Linear(6, 5))
    products.for_inference(frozen)
    layer, weight = Linear(6, 5), torch.randn(2, 6, 5)
    for rows, expected in ((7, library == "onednn"), (6, False)):
        values = torch.randn(2, rows, 6)
        for ask in (
            lambda own=values: products.multiply(own, weight),
            lambda own=values: layer(own[0]),
            lambda own=values: frozen(own[0]),
        ):
            with torch.no_grad(), torch.profiler.profile() as seen:
                ask()
            names = {event.key for event in seen.key_averages()}
            assert ("mkldnn::_linear_pointwise" in names) == expected


@pytest.mark.parametrize("load", [load_speech_encoder, load_text_encoder])
def test_encoders_have_such_layers(load: Callable[[str], SpeechEncoder | TextEncoder], library: str) -> None:
    model = load("builtin:tiny").model
    plain = [type(layer) is nn.Linear for layer in model.modules() if isinstance(layer, nn.Linear)]
    assert plain
    assert set(plain) == {library == "torch"}


def a_table() -> Table:
    """Thirty utterances of one to eight words: their states end to end are seldom a multiple of what they fill up."""
    rng = np.random.default_rng(2)

    def stream(dim: int) -> Packed:
        lengths = rng.integers(1, 9, 30)
        values = torch.from_numpy(rng.normal(1, 2, (1, int(lengths.sum()), dim))).half()
        return Packed(values, torch.tensor([0, *np.cumsum(lengths)]))

    return Table(tuple(map(str, range(30))), {"word": stream(6)}, stream(5))


@pytest.mark.parametrize("together", [1, 3])
def test_training_comes_to_what_the_serial_loop_comes_to(library: str, together: int) -> None:
    """Which pads, and whose products are always torch's."""
    table, targets = a_table(), Targets.of_classes(torch.arange(30) % 3, 3)
    inputs, kind = Inputs(6, 5, ("word",)), HEADS["coattention"]
    build: Callable[[], nn.Module] = lambda: kind.build(inputs, 3, kind.options(width=8, heads=2))  # noqa: E731
    runs = [Run(f"seed {seed}", np.arange(20), np.arange(20, 30), seed) for seed in range(together)]
    training = Training(epochs=3, patience=3, batch_size=8)
    for run, found in zip(runs, train(table, targets, build, runs, training), strict=True):
        expected = train_serially(table, targets, build, run, training)
        assert [epoch.dev_score for epoch in found.history] == [epoch.dev_score for epoch in expected.history]
        for name, weights in expected.state.items():
            torch.testing.assert_close(found.state[name], weights, rtol=1e-5, atol=1e-5)


def test_states_end_to_end_are_filled_up_to_sizes_that_come_again(library: str) -> None:
    table = a_table()
    lengths = table.text.lengths
    for start in range(20):
        rows = torch.arange(start, start + 8)
        size = table.gather(rows[None], flat=True).text.values.shape[1]
        states = int(lengths[rows].sum())
        assert size == (states if library == "torch" else -(-states // 16) * 16)


def test_there_are_eight_sizes_to_an_octave_at_most_an_eighth_apart(library: str) -> None:
    sizes = [products.filled_up(rows) for rows in range(1, 4097)]
    assert all(size >= rows for rows, size in enumerate(sizes, 1))
    if library == "torch":
        assert sizes == list(range(1, 4097))
    else:
        assert len(set(sizes)) == 8 + 8 * 5  # up to 128, and in each of the five octaves after it
        assert all(size <= 1.125 * rows for rows, size in enumerate(sizes, 1) if rows > 128)


@pytest.fixture
def asked_anew() -> Iterator[None]:
    products.by_onednn.cache_clear()
    yield
    products.by_onednn.cache_clear()


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="this torch has no MKL, which is what oneDNN outdoes")
@pytest.mark.parametrize(
    ("processor", "capability", "expected"),
    [
        ("vendor_id\t: AuthenticAMD\n", "AVX512", True),
        ("AMD64 Family 26 Model 2 Stepping 1, AuthenticAMD", "AVX512", True),
        ("vendor_id\t: AuthenticAMD\n", "AVX2", False),
        ("vendor_id\t: GenuineIntel\n", "AVX512", False),
        ("", "AVX512", False),
    ],
)
def test_onednn_is_for_amds_processors_with_avx512(
    processor: str, capability: str, expected: bool, monkeypatch: pytest.MonkeyPatch, asked_anew: None
) -> None:
    monkeypatch.setattr(products, "_processor", lambda: processor)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert products.by_onednn() is expected


def test_the_maker_is_read_where_the_system_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "processor", lambda: "AMD64 Family 26 Model 2 Stepping 1, AuthenticAMD")
    monkeypatch.setattr(products, "_CPUINFO", tmp_path / "cpuinfo")
    assert products._processor().endswith("AuthenticAMD")
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nvendor_id\t: GenuineIntel\nmodel\t: 85\n")
    assert products._processor() == "vendor_id\t: GenuineIntel\n"
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nBogoMIPS\t: 50.00\nCPU implementer\t: 0x41\n")
    assert products._processor() == ""


def test_a_function_that_takes_something_else_is_not_called(monkeypatch: pytest.MonkeyPatch, asked_anew: None) -> None:
    monkeypatch.setattr(products, "_processor", lambda: "AuthenticAMD")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(products, "_SCHEMA", "mkldnn::_linear_pointwise(Tensor X, Tensor W) -> Tensor")
    assert not products.by_onednn()
