"""Batches of recordings, as large as the device takes them."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mmser.devices import is_out_of_memory
from mmser.extract.speech import SpeechEncoder
from mmser.extract.work import UnstorableError, Work
from mmser.extract.writing import check_storable, fetch, peaks_of
from mmser.units import SAMPLE_RATE

CPU_BATCH_SECONDS = 6.0
"""Of padded audio: larger batches leave a CPU's caches and pad more (benchmarks/extract.py)."""
GPU_BATCH_SECONDS = 256.0
"""Of padded audio at most: 12,800 frames fill any GPU's matrix units."""
_GPU_BYTES_PER_SECOND = 100e6
"""Of device memory that a second of padded audio may take, for a start; a batch too large is halved."""


def default_batch_seconds(device: torch.device) -> float:
    """Seconds of padded audio to begin with, a power of two on a GPU.

    It follows from the device's total memory, not from what happens to be free: an extraction that goes on makes the
    batches that it would have made undisturbed.
    """
    if device.type == "cpu":
        return CPU_BATCH_SECONDS
    if device.type != "cuda":
        return 64.0
    total = torch.cuda.get_device_properties(device).total_memory
    return min(GPU_BATCH_SECONDS, 2.0 ** math.floor(math.log2(total / _GPU_BYTES_PER_SECOND)))


Batch = tuple[list[str], torch.Tensor, list[int], Callable[[], None]]
"""Utterances; their states end to end (num_layers, frames of all, dim) on the device; frames of each; and a check to be
called later, which waits for the device and raises where states cannot be stored."""


@dataclass
class Batches:
    """An encoder and the size of its batches, which halves when the device's memory does not hold one."""

    work: Work
    encoder: SpeechEncoder
    layers: list[int]
    seconds: float
    """Of padded audio in a batch."""

    def encode(self, samples: Mapping[str, NDArray[np.float32]]) -> Iterator[Batch]:
        """Encode recordings, the longest first, in batches.

        Raises:
            UnstorableError: a recording that does not fit in the device's memory by itself.
        """
        ids, first = list(samples), 0
        while first < len(ids):
            # The plan has the longest first, so the first of a batch decides how wide it is.
            size = max(1, int(self.seconds * SAMPLE_RATE / len(samples[ids[first]]) + 1e-6))
            batch = ids[first : first + size]
            states = self._states([samples[uid] for uid in batch])
            if states is None:
                self._halve(batch, len(samples[batch[0]]) / SAMPLE_RATE)
                continue
            parts = [states[0][:, i, :length] for i, length in enumerate(states[1])]
            yield batch, torch.cat(parts, dim=1), states[1], self._check(batch, parts)
            first += len(batch)

    def _states(self, samples: Sequence[NDArray[np.float32]]) -> tuple[torch.Tensor, list[int]] | None:
        """None where the device's memory is too small; what the attempt held is free again on return."""
        try:
            return self.encoder.states(samples, self.layers)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _halve(self, batch: Sequence[str], longest_s: float) -> None:
        if self.encoder.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(batch) == 1:
            raise UnstorableError(
                batch[0],
                f"its {longest_s:.1f} s do not fit in the memory of {self.encoder.device} by themselves; cut the "
                "recording (start_s, end_s, text in the manifest), or encode on a device with more memory",
            )
        before, self.seconds = self.seconds, len(batch) // 2 * longest_s
        self.work.say(
            f"{self.encoder.device} has too little memory for batches of {before:g} s: going on with "
            f"{self.seconds:.3g} s (--batch-seconds sets it)"
        )

    def _check(self, batch: Sequence[str], parts: Sequence[torch.Tensor]) -> Callable[[], None]:
        options = self.work.options
        peaks = fetch(peaks_of(parts), "float32")
        return lambda: check_storable(batch, peaks(), options.dtype, options.compute, self.layers)
