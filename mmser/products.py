"""Products of matrices, by whichever of the two libraries that torch brings for processors is the faster on this one.

torch hands float32 products on a processor to MKL, whose AVX-512 kernels are for Intel's processors: on AMD's it keeps
to AVX2. oneDNN, which torch has for its convolutions, does not ask who made the processor. On a Zen 5 its products take
less than half the time of MKL's (docs/benchmarks.md). Elsewhere torch's own choice stays.
"""

import platform
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

_SCHEMA = (
    "mkldnn::_linear_pointwise(Tensor X, Tensor W, Tensor? B, str attr, Scalar?[] scalars, str? algorithm) -> Tensor Y"
)
"""oneDNN's linear layer as torch's compiler calls it. It is no public function, so what it takes is looked at first."""

_CPUINFO = Path("/proc/cpuinfo")
SMALLEST = 1 << 23
"""Multiplications of a product from which oneDNN gains; below, its calls take longer than they save. Measured, in
processor seconds a run and epoch, alone: width 64, 1.92 so, 2.00 with all products its, 1.90 with none; width 128,
2.53, 2.75 and 3.34."""


@cache
def by_onednn() -> bool:
    """Whether oneDNN is the faster library here: on AMD's processors with AVX-512, where torch would take MKL.

    It follows from the machine and from torch, not from a measurement: a run repeats to the bit.
    """
    operator = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    return (
        torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and operator is not None
        and str(operator.default._schema) == _SCHEMA
        and "AuthenticAMD" in _processor()
    )


def pays(rows: int, weight: Tensor) -> bool:
    """Whether to multiply so many rows and a ``weight`` (N, K), or its gradient, by oneDNN."""
    return by_onednn() and rows * weight.shape[-1] * weight.shape[-2] >= SMALLEST


def _processor() -> str:
    """What the system says of the first processor, its maker included."""
    if not _CPUINFO.exists():  # not Linux
        return platform.processor()
    with _CPUINFO.open(encoding="utf-8", errors="replace") as lines:
        return next((line for line in lines if line.startswith("vendor_id")), "")


def filled_up(rows: int) -> int:
    """To how many rows to fill up a matrix of so many, by which :func:`multiply` is to multiply.

    oneDNN prepares code for each size that it meets, and keeps half a megabyte with each of the last thousand. So there
    are eight sizes to an octave, 16 rows apart at least: few sizes, that come again, for 4 % more rows on average. MKL
    takes any size.
    """
    if not by_onednn():
        return rows
    step = max(16, 1 << max(0, (rows - 1).bit_length() - 4))
    return -(-rows // step) * step


def linear(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``values @ weight.T + bias`` by oneDNN, without a gradient: (..., K), (N, K) and (N,) to (..., N).

    For float32 on the CPU, where :func:`by_onednn`.
    """
    found: Tensor = torch.ops.mkldnn._linear_pointwise(values, weight, bias, "none", [], "")
    return found


def multiply(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """``left @ right`` of R pairs of matrices, (R, M, K) and (R, K, N) to (R, M, N), plus a ``bias`` (R, N).

    Without a gradient: for autograd functions.
    """
    if left.device.type != "cpu" or left.dtype != torch.float32 or not pays(left.shape[1], right):
        return torch.bmm(left, right) if bias is None else torch.baddbmm(bias.unsqueeze(1), left, right)
    biases = [None] * len(left) if bias is None else bias.unbind()
    found = [linear(*own) for own in zip(left.unbind(), right.mT.unbind(), biases, strict=True)]
    return found[0].unsqueeze(0) if len(found) == 1 else torch.stack(found)


class _Layer(nn.Linear):
    """A layer of a frozen model."""

    def forward(self, values: Tensor) -> Tensor:
        """As ``torch.nn.Linear``, but for the gradient."""
        rows = values.shape[:-1].numel()
        if values.device.type != "cpu" or values.dtype != torch.float32 or not pays(rows, self.weight):
            return super().forward(values)
        return linear(values, self.weight, self.bias)


def for_inference(model: nn.Module) -> None:
    """Let the linear layers of a frozen ``model`` multiply by oneDNN where it :func:`pays`; in place.

    Names and weights stay as they are. No gradient reaches anything before such a layer, or in it.
    """
    if not by_onednn():
        return
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = _Layer
