"""Dropout whose mask is a function of key and place, not of a generator's state.

A generator's next number depends on everything drawn before it: on padding, on the size of the stack, on the device.
Here the mask of an utterance at (t, d) follows from its key in this step, the layer's salt and the numbers t, d alone,
as in the counter-based generators of Salmon et al. 2011 ("Parallel random numbers: as easy as 1, 2, 3"). So a run in a
stack of many draws what it would draw alone, on a CPU what it would draw on a GPU, padding draws nothing away from
others, and a batch may be computed in parts.
"""

import torch
from torch import Tensor, nn

from mmser.checks import check_number
from mmser.heads.batch import Flat

_MASK = 0xFFFF_FFFF


def mix(state: Tensor) -> Tensor:
    """A bijection of 32-bit words, held in int64, in which every input bit sways every output bit.

    Two rounds of xor-shift and multiply, as in MurmurHash3's finaliser. Both multipliers are odd and below 2^31, so no
    product leaves int64 and the result is the same on every device. ``state`` is overwritten.

    >>> mix(torch.tensor([0, 1])).tolist() == mix(torch.tensor([0, 1])).tolist()
    True
    """
    state ^= state >> 16
    state *= 0x21F0_AAAD
    state &= _MASK
    state ^= state >> 15
    state *= 0x735A_2D97
    state &= _MASK
    state ^= state >> 15
    return state


class KeyedDropout(nn.Module):
    """Zero a share ``rate`` of the elements and scale up the rest; the identity where ``key`` is None.

    The salt that sets one layer's masks apart from another's is given by :func:`number_dropouts`.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        check_number("dropout", rate, least=0, below=1)
        self.rate = rate
        self.salt: int | None = None

    def forward(self, values: Tensor, key: Tensor | None, flat: Flat | None = None) -> Tensor:
        """Drop elements of ``values`` (B, ..., D), or (S, D) if they are ``flat``, by ``key`` (B,), int64."""
        if key is None or self.rate == 0.0:
            return values
        keep = self.keep(values.shape, key, flat)
        return values * keep.to(values.dtype).mul_(1.0 / (1.0 - self.rate))

    def keep(self, shape: tuple[int, ...], key: Tensor, flat: Flat | None = None) -> Tensor:
        """Which elements of a tensor of ``shape`` (B, ..., D) stay, bool; of a ``flat`` one the same states' the same.

        The axes are mixed in one at a time, and a word of the last mixing decides over two elements, by 16 bits each:
        the rate is kept to 1/65536, and only half as many words are mixed as there are elements.
        """
        assert self.salt is not None, "the head has to call number_dropouts(self) at the end of its constructor"
        state = mix(key & _MASK)
        state = mix(state ^ (key >> 32))
        state = mix(state ^ self.salt)
        if flat is not None:
            state = mix(state[flat.utterance] ^ flat.step)
        for size in (*(shape[1:-1] if flat is None else ()), -(-shape[-1] // 2)):
            state = mix(state.unsqueeze(-1) ^ torch.arange(size, device=key.device))
        limit = round(self.rate * 2**16)
        return torch.cat([(state & 0xFFFF) >= limit, state >= limit << 16], -1)[..., : shape[-1]]


class KeyedUniform(nn.Module):
    """Numbers drawn evenly from (0, 1) by key and place, for heads that are random in more than dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.salt: int | None = None

    def forward(self, shape: tuple[int, ...], key: Tensor) -> Tensor:
        """Draw a tensor of ``shape`` (B, ...), float32, by ``key`` (B,). Every axis but the first may be padded."""
        assert self.salt is not None, "the head has to call number_dropouts(self) at the end of its constructor"
        state = mix(key & _MASK)
        state = mix(state ^ (key >> 32))
        state = mix(state ^ self.salt)
        for size in shape[1:]:
            state = mix(state.unsqueeze(-1) ^ torch.arange(size, device=key.device))
        # The middle of one of 2^23 equal parts: float32 holds each exactly, and none is 0 or 1.
        return ((state >> 9).float() + 0.5) * 2.0**-23


def number_dropouts(head: nn.Module) -> None:
    """Give all that is random in ``head`` its salt: its number in the order of the modules."""
    dropouts = [module for module in head.modules() if isinstance(module, KeyedDropout | KeyedUniform)]
    for number, dropout in enumerate(dropouts):
        dropout.salt = number
