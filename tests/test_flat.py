"""States end to end come to what padded states come to, in every head that takes them, and so do their gradients."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from mmser.heads import HEADS
from mmser.heads.batch import Batch, Inputs
from mmser.heads.dropout import KeyedDropout, number_dropouts
from mmser.heads.flat import joined, layout_of, masks_of, padded, parts_of, split
from mmser.heads.linear import Linear
from mmser.train.engine import Run, Targets, Training, train
from mmser.train.packed import PART, Packed
from mmser.train.serial import train_serially
from mmser.train.table import Table

D, E, LAYERS, NUM = 6, 5, 3, 30

VARIANTS = [
    ("coattention", {"width": 8, "heads": 2}),
    ("coattention", {"width": 8, "heads": 2, "blocks": 2, "self_attention": "before", "pooling": "mean+std"}),
    ("coattention", {"width": 8, "heads": 1, "self_attention": "after", "pooling": "attention", "feedforward": False}),
    ("coattention", {"width": 8, "heads": 2, "blocks": 2, "queries": "last", "positions": "word"}),
    ("cls-coattention", {"width": 8, "heads": 2}),
    ("cls-coattention", {"width": 8, "heads": 1, "summary": "attention"}),
    ("bayesian-coattention", {"width": 8, "heads": 2}),
    ("bayesian-coattention", {"width": 8, "heads": 2, "prior": "lexicon"}),
    ("crossmodal-transformer", {"width": 8, "heads": 2, "blocks": 2, "positions": "time"}),
    ("crossmodal-transformer", {"width": 8, "heads": 1, "blocks": 1, "self_attention": False, "pooling": "mean+std"}),
    ("mmer-cross", {"width": 8, "heads": 2}),
]


def a_table() -> Table:
    """Utterances of 0 to 8 words, the longest three times as long as most."""

    def stream(dim: int, layers: int, seed: int) -> Packed:
        rng = np.random.default_rng(seed)
        lengths = np.where(np.arange(NUM) % 7 == 0, rng.integers(0, 9, NUM), rng.integers(0, 4, NUM))
        values = torch.from_numpy(rng.normal(1, 2, (layers, lengths.sum(), dim))).float()
        words = torch.from_numpy(np.concatenate([np.arange(length) // 2 for length in lengths]))
        return Packed(values, torch.tensor([0, *np.cumsum(lengths)]), words, words / 3, words.float() * 0.1)

    streams = {"word": stream(D, LAYERS, 1), "phone": stream(D, LAYERS, 2)}
    return Table(tuple(f"u{n}" for n in range(NUM)), streams, stream(E, 2, 3))


def a_head(kind: str, options: dict, layers: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return HEADS[kind].build(Inputs(D, E, ("word", "phone"), layers, text_layers=2), 3, HEADS[kind].options(**options))


def one_of(batch: Batch, place: int) -> Batch:
    return torch.utils._pytree.tree_map(lambda leaf: leaf[place] if isinstance(leaf, Tensor) else leaf, batch)


def by_length(table: Table, rows: Tensor) -> Tensor:
    """As training has them: parts of a batch hold utterances of about one length."""
    return rows.gather(1, torch.from_numpy(table.lengths)[rows].argsort(dim=1, stable=True))


@pytest.fixture
def two_batches() -> Tensor:
    """Of more than two parts each, the second with far fewer states, so that it is filled up."""
    table = a_table()
    order = np.argsort(table.lengths, kind="stable")
    rows = np.stack([np.random.default_rng(5).permutation(NUM)[: 2 * PART + 3], np.tile(order[:5], 4)[: 2 * PART + 3]])
    return by_length(table, torch.from_numpy(rows))


def test_the_variants_are_of_every_head_that_takes_them() -> None:
    assert {kind for kind, _ in VARIANTS} == {kind for kind, one in HEADS.items() if getattr(one.module, "flat", False)}


@pytest.mark.parametrize("layers", [1, LAYERS])
@pytest.mark.parametrize("key", [None, 7])
@pytest.mark.parametrize(("kind", "options"), VARIANTS)
def test_outputs_and_gradients_are_those_of_padded_states(
    kind: str, options: dict, key: int | None, layers: int, two_batches: Tensor
) -> None:
    """Stacked, each of two heads has its own batch; padded, each is alone."""
    table, heads = a_table(), [a_head(kind, options, layers, seed) for seed in range(2)]
    layer = None if layers > 1 else torch.tensor([2, 0])
    keys = None if key is None else key + torch.arange(two_batches.numel()).view_as(two_batches)
    batch = table.gather(two_batches, layer, keys, flat=True)
    parameters, buffers = stack_module_state(heads)
    axes = torch.utils._pytree.tree_map(lambda leaf: 0 if isinstance(leaf, Tensor) else None, batch)
    said = vmap(lambda p, b, own: functional_call(heads[0], (p, b), (own,)), in_dims=(0, 0, axes))(
        parameters, buffers, batch
    )
    weights = torch.linspace(-1, 1, said[0].numel()).view_as(said[0])
    gradients = torch.autograd.grad((said * weights).sum(), list(parameters.values()))
    alone = table.gather(two_batches, layer, keys)
    for place, head in enumerate(heads):
        expected = head(one_of(alone, place))
        torch.testing.assert_close(said[place], expected, rtol=1e-5, atol=1e-6)
        (expected * weights).sum().backward()
        for (name, parameter), found in zip(head.named_parameters(), gradients, strict=True):
            torch.testing.assert_close(found[place], parameter.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_both_layouts_hold_the_same_states(two_batches: Tensor) -> None:
    table = a_table()
    for number in range(2):
        flat = one_of(table.gather(two_batches, torch.tensor([1, 1]), flat=True), number).speech["word"]
        plain = one_of(table.gather(two_batches, torch.tensor([1, 1])), number).speech["word"]
        assert torch.equal(flat.mask, plain.mask)
        back = padded(flat)
        assert back.flat is None
        assert torch.equal(back.values[plain.mask], plain.values[plain.mask])
        assert flat.flat is not None
        assert torch.equal(flat.values[flat.flat.held], plain.values[plain.mask])
        for name in ("word", "time", "lexicon"):
            assert torch.equal(getattr(flat, name)[flat.flat.held], getattr(plain, name)[plain.mask])


def test_heads_are_split_part_by_part_and_joined_again(two_batches: Tensor) -> None:
    table = a_table()
    flat = one_of(table.gather(two_batches, torch.tensor([1, 1]), flat=True), 0).speech["word"]
    plain = one_of(table.gather(two_batches, torch.tensor([1, 1])), 0).speech["word"]
    parts = parts_of(flat, plain)
    assert parts == [PART, PART, 3]
    layout = layout_of(flat, 2)
    found = split(flat.values, flat, layout, 2, parts)
    for own, mask, values in zip(found, masks_of(flat, parts), plain.values.split(parts), strict=True):
        assert own.shape == (*mask.shape[:1], 2, mask.shape[1], D // 2)
        seen = own.transpose(1, 2).flatten(2)
        assert torch.equal(seen[mask], values[:, : mask.shape[1]][mask])
    held = flat.flat.held  # type: ignore[union-attr]
    assert torch.equal(joined(found, layout)[held], flat.values[held])
    assert len(max((mask for mask in masks_of(flat, parts)), key=lambda mask: mask.shape[1])[0]) == plain.mask.shape[1]
    assert min(mask.shape[1] for mask in masks_of(flat, parts)) < plain.mask.shape[1]


def test_dropout_draws_for_a_state_what_it_draws_in_the_padded_layout(two_batches: Tensor) -> None:
    table = a_table()
    keys = torch.arange(two_batches.numel()).view_as(two_batches)
    flat = one_of(table.gather(two_batches, torch.tensor([0, 0]), keys, flat=True), 0)
    sequence = flat.speech["word"]
    dropout = nn.Sequential(KeyedDropout(0.4))
    number_dropouts(dropout)
    keep = dropout[0].keep((*sequence.mask.shape, 9), flat.key)
    found = dropout[0].keep((len(sequence.values), 9), flat.key, sequence.flat)
    assert torch.equal(found[sequence.flat.held], keep[sequence.mask])  # type: ignore[union-attr]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_stacked_linear_layers_are_torchs(bias: bool, shared: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = Linear(5, 3, bias=bias), nn.Linear(5, 3, bias=bias)
    parameters = {name: torch.randn(4, *p.shape, requires_grad=True) for name, p in ours.named_parameters()}
    values = torch.randn(*(() if shared else (4,)), 7, 5, requires_grad=True)
    found, expected = (
        vmap(lambda p, own, module=module: functional_call(module, p, (own,)), in_dims=(0, None if shared else 0))(
            parameters, values
        )
        for module in (ours, theirs)
    )
    torch.testing.assert_close(found, expected)
    inputs = [values, *parameters.values()]
    weights = torch.randn(found.shape)
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), inputs),
        torch.autograd.grad((expected * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("kind", "options"), [VARIANTS[0], VARIANTS[3], VARIANTS[6]])
def test_training_with_parts_is_the_plain_loops(kind: str, options: dict) -> None:
    """Batches of more than two parts, stacked with a run of fewer and other utterances; the loop knows only padding."""
    table = a_table().only(("word",), text=True, links=HEADS[kind].links(HEADS[kind].options(**options)))
    targets = Targets.of_classes(torch.from_numpy(np.random.default_rng(4).integers(0, 3, NUM)), 3)
    inputs = Inputs(D, E, ("word",), text_layers=2)
    order = np.random.default_rng(6).permutation(NUM)
    run = Run("one", order[:24], order[24:], 3, 1, learning_rate=3e-3)
    other = Run("other", order[3:22], order[:3], 4, 0, learning_rate=1e-2)
    training = Training(epochs=4, patience=4, batch_size=2 * PART + 3)

    def build() -> nn.Module:
        return HEADS[kind].build(inputs, 3, HEADS[kind].options(**options))

    ours = train(table, targets, build, [other, run], training)[1]
    plain = train_serially(table, targets, build, run, training)
    np.testing.assert_allclose(np.array(ours.history), np.array(plain.history), rtol=1e-4, atol=1e-6)
    for name, value in plain.state.items():
        torch.testing.assert_close(ours.state[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_a_batch_without_any_state_says_something_finite() -> None:
    table = a_table()
    empty = np.flatnonzero(table.lengths == table.lengths.min())[:1]
    assert table.lengths[empty] == 0
    batch = table.gather(torch.from_numpy(np.tile(empty, (1, 3))), torch.tensor([0]), flat=True)
    head = a_head("coattention", {"width": 8, "heads": 2}, 1)
    said = head(one_of(batch, 0))
    assert torch.isfinite(said).all()
    alone = head(one_of(table.gather(torch.from_numpy(np.tile(empty, (1, 3))), torch.tensor([0])), 0))
    torch.testing.assert_close(said, alone)
