"""Dropout as a function of key and place: its statistics, and what it must not depend on."""

import pytest
import torch
from torch import nn
from torch.func import vmap

from mmser.errors import ProtocolError
from mmser.heads.dropout import KeyedDropout, mix, number_dropouts

RATE = 0.3


def a_dropout(salt: int = 0, rate: float = RATE) -> KeyedDropout:
    dropout = KeyedDropout(rate)
    dropout.salt = salt
    return dropout


def keys(first: int, number: int) -> torch.Tensor:
    return first + torch.arange(number)


def keep(key: int, shape: tuple[int, ...] = (16, 25, 100), salt: int = 0) -> torch.Tensor:
    return a_dropout(salt).keep(shape, keys(key, shape[0])).double()


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def murmur_like(word: int) -> int:
    """The same mixing in Python's integers, which have no width."""
    for shift, multiplier in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
        word = ((word ^ (word >> shift)) * multiplier) % 2**32
    return word ^ (word >> 15)


def test_mixing_is_that_of_unbounded_integers() -> None:
    words = [0, 1, 2, 0xFFFF_FFFF, 0x8000_0000, 123_456_789]
    assert mix(torch.tensor(words)).tolist() == [murmur_like(word) for word in words]


def test_a_mask_is_what_its_definition_says() -> None:
    key, salt, shape = 2**40 + 17, 3, (2, 4, 5)
    found = a_dropout(salt).keep(shape, keys(key, 2))
    for b in range(2):
        for t in range(4):
            for d in range(5):
                state = murmur_like((key + b) % 2**32)
                for part in (key >> 32, salt, t, d % 3):
                    state = murmur_like(state ^ part)
                half = state % 2**16 if d < 3 else state >> 16
                assert bool(found[b, t, d]) == (half >= round(RATE * 2**16))


@pytest.mark.parametrize("key", [0, 1, 2**32, 2**62 + 5])
def test_rate(key: int) -> None:
    sample = keep(key)
    sigma = (RATE * (1 - RATE) / sample.numel()) ** 0.5
    assert abs(sample.mean().item() - (1 - RATE)) < 4.5 * sigma
    for axis in range(3):  # and on each row, plane and column
        means = sample.mean([other for other in range(3) if other != axis])
        sigma = (RATE * (1 - RATE) * len(means) / sample.numel()) ** 0.5
        assert (means - (1 - RATE)).abs().max() < 5 * sigma


def test_masks_of_other_keys_salts_and_places_are_unrelated() -> None:
    sample = keep(5)
    others = [keep(6 + 16), keep(5 + 2**32), keep(4 + 2**20), keep(5, salt=1), keep(7, salt=2)]
    others += [sample.roll(1, axis) for axis in range(3)]
    limit = 5 / sample.numel() ** 0.5
    for other in others:
        assert abs(correlation(sample, other)) < limit


def test_a_longer_padding_changes_no_mask() -> None:
    assert torch.equal(keep(9, (4, 10, 8)), keep(9, (7, 30, 8))[:4, :10])


def test_a_batch_in_parts_has_the_masks_of_the_whole() -> None:
    whole = keep(9, (7, 10, 8))
    assert torch.equal(whole[3:], keep(9 + 3, (4, 10, 8)))


def test_stacked_keys_give_what_each_gives_alone() -> None:
    each = torch.stack([keys(3, 5), keys(2**50, 5), keys(11, 5)])
    values = torch.ones(3, 5, 7)
    together = vmap(a_dropout())(values, each)
    for run in range(3):
        assert torch.equal(together[run], a_dropout()(values[run], each[run]))


def test_what_stays_is_scaled_up() -> None:
    out = a_dropout(rate=0.75)(torch.full((50, 40), 2.0), keys(1, 50))
    assert set(out.unique().tolist()) == {0.0, 8.0}


def test_no_key_is_the_identity() -> None:
    values = torch.randn(3, 4)
    assert a_dropout()(values, None) is values


def test_the_key_is_left_alone() -> None:
    key = keys(12345, 3)
    keep_twice = [a_dropout().keep((3, 3), key) for _ in range(2)]
    assert torch.equal(key, keys(12345, 3))
    assert torch.equal(*keep_twice)


def test_salts_follow_the_order_of_the_modules() -> None:
    head = nn.Sequential(KeyedDropout(0.1), nn.Sequential(nn.Linear(2, 2), KeyedDropout(0.2)), KeyedDropout(0.3))
    number_dropouts(head)
    assert [m.salt for m in head.modules() if isinstance(m, KeyedDropout)] == [0, 1, 2]
    with pytest.raises(AssertionError, match="number_dropouts"):
        KeyedDropout(0.1)(torch.ones(2, 2), keys(0, 2))


def test_rate_is_checked() -> None:
    with pytest.raises(ProtocolError, match=r"dropout is -0\.1; expected at least 0 and less than 1"):
        KeyedDropout(-0.1)
