"""Products by torch's own library and by oneDNN, as the layers of co-attention have them.

    python -m benchmarks.products
    python -m benchmarks.products --threads 2 --states 1024

Three products of each layer, of states (S, K) and a weight (N, K): forward, the gradient of the states, and that of the
weight. The two libraries take turns, and the best of each counts. Which of them mmser takes is said last.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from mmser import products

LAYERS = {"project": (768, 256), "query": (256, 256), "expand": (256, 1024), "contract": (1024, 256)}
"""Inputs and outputs of the layers of a head of width 256."""
REPEATS = 40


def by_torch(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right`` as ``torch.nn.Linear`` computes it."""
    return torch.mm(left, right)


def by_onednn(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right``."""
    return products.linear(left, right.mT)


def rates(left: Tensor, right: Tensor) -> tuple[float, float]:
    """GFLOP/s of both libraries."""
    best = {by_torch: float("inf"), by_onednn: float("inf")}
    for _ in range(REPEATS):
        for product in best:
            best[product] = min(best[product], seconds(product, left, right))
    work = 2e-9 * left.shape[0] * left.shape[1] * right.shape[1]
    return work / best[by_torch], work / best[by_onednn]


def seconds(product: Callable[[Tensor, Tensor], Tensor], left: Tensor, right: Tensor) -> float:
    """Of one product."""
    start = time.perf_counter()
    product(left, right)
    return time.perf_counter() - start


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--states", type=int, default=384)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(f"{'GFLOP/s':10}{'product':>22}{'torch':>8}{'oneDNN':>8}{'ratio':>7}")
    for name, (inputs, outputs) in LAYERS.items():
        states, weight = torch.randn(given.states, inputs), torch.randn(outputs, inputs)
        gradient = torch.randn(given.states, outputs)
        pairs = {
            "forward": (states, weight.mT),
            "gradient of states": (gradient, weight),
            "gradient of weight": (gradient.mT, states),
        }
        for what, pair in pairs.items():
            one, other = rates(*pair)
            print(f"{name:10}{what:>22}{one:8.0f}{other:8.0f}{other / one:7.2f}")
    print(f"mmser takes {'oneDNN' if products.by_onednn() else 'torch'} here")


if __name__ == "__main__":
    main()
