"""No option of a head is dead: whatever it may be, the head is another one, and all of it takes part.

What the options do is checked by hand in ``test_head_mechanisms.py`` and ``test_system_b.py``.
"""

from dataclasses import fields, replace
from itertools import combinations
from typing import Any

import pytest
import torch
from test_heads import INPUTS, a_batch, a_head
from test_system_b import BINS, mel_of
from torch import Tensor, nn

from mmser.errors import ProtocolError
from mmser.heads import HEADS
from mmser.heads.batch import Batch
from mmser.heads.dropout import KeyedDropout

LAYERS = 3
FRAMES = [64, 40, 33, 70]

SMALL = {"width": 8, "heads": 2, "blocks": 2, "hidden": 8, "width_multiplier": 1 / 16}
"""What a head is built with, where it has the option and another one is looked at."""

NUMBERS: dict[str, tuple[float, ...]] = {
    "width": (8, 12),
    "heads": (2, 4),
    "blocks": (1, 2),
    "hidden": (8, 12),
    "hidden_layers": (1, 2, 3),
    "gate_hidden": (0, 4, 6),
    "kernel": (1, 3, 5),
    "pool": (1, 2, 3),
    "focus": (1.0, 3.0),
    "shape": (2.0, 10.0),
    "width_multiplier": (1 / 32, 1 / 16),
    "dropout": (0.0, 0.2, 0.5),
    "block_dropout": (0.0, 0.2, 0.5),
}
"""Values that are tried of an option that is a number; words are asked of the head."""

ZERO = {("speech-probe", "hidden"), ("text-probe", "hidden"), ("aligned-words", "blocks")}
"""Where 0 has a meaning of its own, too: none."""

TOGETHER = {
    ("conditioned-cnn14", "condition_at"): {"conditioning": "single"},
    ("conditioned-states", "condition_at"): {"conditioning": "single"},
}
"""Options that mean something only beside another one's value."""

ALIKE = [("conditioned-states", "condition_at", {"last", "2"})]
"""Two names of one thing: the last of two blocks is the second."""

OPTIONS = [(kind, field.name) for kind in HEADS for field in fields(HEADS[kind].options)]


def values_of(kind: str, name: str) -> tuple[Any, ...]:
    """Words are those that the head names when it refuses another."""
    options = HEADS[kind].options
    (declared,) = [field.type for field in fields(options) if field.name == name]
    if declared is bool:
        return (False, True)
    if declared is str:
        with pytest.raises(ProtocolError, match=f"^{name} is '[?]'") as refusal:
            options(**asked(kind), **{name: "?"})
        return tuple(str(refusal.value).split("expected one of: ")[1].split(", "))
    return NUMBERS[name] + ((0,) if (kind, name) in ZERO else ())


def asked(kind: str, *but: str) -> dict[str, Any]:
    known = {field.name for field in fields(HEADS[kind].options)}
    return {name: value for name, value in SMALL.items() if name in known and name not in but}


def a_batch_for_all(key: int | None) -> Batch:
    """Speech of several layers, text, links, and as many frames of as many bins as CNN14 needs."""
    return a_batch(layers=LAYERS, key=key)._replace(mel=mel_of(FRAMES))


def built(kind: str, **options: Any) -> nn.Module:
    return a_head(kind, options, LAYERS, inputs=replace(INPUTS, mel_dim=BINS)).eval()


def said(head: nn.Module, key: int | None = None) -> Tensor:
    return head(a_batch_for_all(key))


def assert_all_takes_part(head: nn.Module) -> None:
    """A parameter that an option adds sways the outputs. Some of CNN14's few channels may be dead behind their ReLU."""
    said(head, key=1).square().sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, f"{name} takes no part"
        assert parameter.grad.any(), name


def shapes(head: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in head.state_dict().items()}


@pytest.mark.parametrize(("kind", "name"), OPTIONS)
def test_no_two_values_of_an_option_are_one_head(kind: str, name: str) -> None:
    """They differ in parameters, of which none is idle, or in what they say with the same ones."""
    values = values_of(kind, name)
    assert len(values) > 1
    rest = {**asked(kind, name), **TOGETHER.get((kind, name), {})}
    heads = {value: built(kind, **rest, **{name: value}) for value in values}
    for head in heads.values():
        assert_all_takes_part(head)
    for one, other in combinations(values, 2):
        if shapes(heads[one]) == shapes(heads[other]):
            heads[other].load_state_dict(heads[one].state_dict())
            same = torch.equal(said(heads[one], key=1), said(heads[other], key=1))
            assert same == ((kind, name, {one, other}) in ALIKE), f"{name}={one} and {name}={other}"


def test_what_is_excepted_is_there() -> None:
    """An exception that nothing needs would hide an option."""
    assert {(kind, name) for kind, name, *_ in (*TOGETHER, *ZERO, *ALIKE)} <= set(OPTIONS)
    assert set(NUMBERS) == {name for kind, name in OPTIONS if not isinstance(values_of(kind, name)[0], bool | str)}


@pytest.mark.parametrize("kind", HEADS)
def test_every_dropout_has_the_rate_of_an_option_and_drops(kind: str) -> None:
    """One at a time: with a rate of its own alone it changes what the head says."""
    rates = {name: rate for name, rate in (("dropout", 0.25), ("block_dropout", 0.125)) if (kind, name) in OPTIONS}
    head = built(kind, **asked(kind), **rates)
    dropouts = {name: module for name, module in head.named_modules() if isinstance(module, KeyedDropout)}
    assert {module.rate for module in dropouts.values()} == set(rates.values())
    for module in dropouts.values():
        module.rate = 0.0
    plain = said(head, key=1)
    for name, module in dropouts.items():
        module.rate = 0.5
        assert not torch.equal(said(head, key=1), plain), f"{name} drops nothing"
        module.rate = 0.0
