"""What our own autograd functions begin with."""

import inspect

import torch


class Function(torch.autograd.Function):
    """An autograd function that is quick to call.

    torch asks for the signature of ``forward`` at every call, and to find it out takes as long as a small operation.
    Here that is done once.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.forward.__signature__ = inspect.signature(cls.forward)  # type: ignore[attr-defined]
