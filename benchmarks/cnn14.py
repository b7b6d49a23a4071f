"""A training step of CNN14 on utterances of unlike lengths, by how its batch norms leave out the padding.

    python -m benchmarks.cnn14
    python -m benchmarks.cnn14 --width 1.0 --threads 2 --steps 2

Contestants take turns, and the best of each counts: ``mmser`` (:mod:`mmser.heads.batch_norm`); ``written out``, the
same statistics by products with the mask, which torch differentiates; ``padding counted``, torch's batch norm over the
zeros too, which is another function, and bounds what the statistics may cost.
"""

import argparse
import time

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.heads import BATCH, CLASSES, lengths_of
from mmser.heads.batch import Batch, Inputs, Sequence
from mmser.heads.batch_norm import MaskedBatchNorm
from mmser.heads.cnn14 import Cnn14, Cnn14Options

BINS, FRAMES_A_SECOND, CROP_S = 64, 100, 5.0


class WrittenOut(MaskedBatchNorm):
    """By products with the mask."""

    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
        """As :meth:`MaskedBatchNorm.forward`, in training."""
        assert mask is not None
        valid = mask[:, None, :, None].to(input.dtype)
        count = valid.sum() * input.shape[3]
        mean = (input * valid).sum((0, 2, 3)) / count
        centred = (input - mean[:, None, None]) * valid
        variance = centred.square().sum((0, 2, 3)) / count
        self._note(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight * (variance + self.eps).rsqrt()
        values = centred * scale[:, None, None] + self.bias[:, None, None]
        return (values.relu_() if self.relu else values) * valid


class PaddingCounted(MaskedBatchNorm):
    """torch's own, over all steps."""

    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
        """As :meth:`MaskedBatchNorm.forward`, with other statistics."""
        assert mask is not None
        values = nn.BatchNorm2d.forward(self, input)
        return (values.relu_() if self.relu else values) * mask[:, None, :, None]


NORMS = {"mmser": MaskedBatchNorm, "written out": WrittenOut, "padding counted": PaddingCounted}


def a_head(norm: type[MaskedBatchNorm], width: float) -> Cnn14:
    """CNN14 whose batch norms are of this kind, from the same random weights whatever the kind."""
    torch.manual_seed(0)
    head = Cnn14(Inputs(0, 0, (), mel_dim=BINS), CLASSES, Cnn14Options(width_multiplier=width))
    for module in head.modules():
        if isinstance(module, MaskedBatchNorm):
            module.__class__ = norm
    return head.train()


def a_batch() -> tuple[Batch, Tensor]:
    """Crops of utterances as long as IEMOCAP's, and their classes."""
    rng = np.random.default_rng(0)
    seconds = np.minimum(lengths_of(BATCH, 1.0 * FRAMES_A_SECOND), round(CROP_S * FRAMES_A_SECOND))
    mask = torch.arange(int(seconds.max())) < torch.from_numpy(seconds)[:, None]
    values = torch.from_numpy(rng.normal(-40, 15, (*mask.shape, BINS)).astype(np.float32)) * mask.unsqueeze(-1)
    return Batch({}, None, torch.arange(BATCH), Sequence(values, mask)), torch.from_numpy(
        rng.integers(CLASSES, size=BATCH)
    )


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    batch, truth = a_batch()
    heads = {name: a_head(norm, given.width) for name, norm in NORMS.items()}
    best, losses = dict.fromkeys(heads, float("inf")), {}
    for _ in range(1 + given.steps):  # the first, in which torch warms up, is seldom the best
        for name, head in heads.items():
            start = time.perf_counter()
            loss = F.cross_entropy(head(batch), truth)
            loss.backward()
            best[name] = min(best[name], time.perf_counter() - start)
            losses.setdefault(name, loss.item())
            head.zero_grad()
    assert abs(losses["mmser"] - losses["written out"]) < 1e-3, losses
    assert batch.mel is not None
    valid = float(batch.mel.mask.float().mean())
    print(f"width {given.width:g}, {given.threads} threads; {valid:.0%} of the frames are valid")
    for name, seconds in best.items():
        print(f"{name:16}{seconds:8.3f} s a step{best['mmser'] / seconds:8.2f}")


if __name__ == "__main__":
    main()
