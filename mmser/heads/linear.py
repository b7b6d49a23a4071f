"""A linear layer whose products stay whole when many runs are stacked.

``torch.func.vmap`` takes ``torch.nn.Linear`` apart: the bias becomes a pass over the memory of its own, and the
gradient of the weight comes out transposed, so that the optimiser has to copy it. Here each product is one batched
call, in the layout that is wanted.
"""

from typing import Any

from torch import Tensor, nn

from mmser import products
from mmser.heads.function import Function


class _Affine(Function):
    """``values @ weight.T + bias`` of R runs: (R, S, K), (R, N, K) and (R, N) or None to (R, S, N)."""

    @staticmethod
    def forward(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return products.multiply(values, weight.mT, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, weight = ctx.saved_tensors
        of_values, _, of_bias = ctx.needs_input_grad
        return (
            products.multiply(gradient, weight) if of_values else None,
            products.multiply(gradient.mT, values),
            gradient.sum(1) if of_bias else None,
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor | None) -> tuple[Tensor, int]:
        """More runs: one longer list of them."""
        runs = (
            None if own is None else _in_front(own, dim, info.batch_size).flatten(0, 1)
            for own, dim in zip(inputs, in_dims, strict=True)
        )
        return _Affine.apply(*runs).unflatten(0, (info.batch_size, -1)), 0


def _in_front(own: Tensor, dim: int | None, size: int) -> Tensor:
    return own.expand(size, *own.shape) if dim is None else own.movedim(dim, 0)


class Linear(nn.Linear):
    """``torch.nn.Linear``; of states end to end, (S, K) to (S, N), in products that stack (:mod:`mmser.heads.flat`)."""

    stacked = False
    """Whether ``vmap`` is to come; alone torch's own is as good and quicker to call, but where oneDNN pays."""

    def forward(self, values: Tensor) -> Tensor:
        """Each state by itself."""
        if values.dim() != 2 or not (self.stacked or products.pays(len(values), self.weight)):
            return super().forward(values)
        bias = None if self.bias is None else self.bias.unsqueeze(0)
        return _Affine.apply(values.unsqueeze(0), self.weight.unsqueeze(0), bias).squeeze(0)
