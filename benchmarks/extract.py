"""How fast extraction is, against the loops it replaces and against the machine itself, in one run.

On the same recordings and the same random wav2vec2-base (read by transformers, as a user's would be):

- bare loop: one utterance after the other through the model, in float32, all layers given back; samples in memory.
- npy loop: the same with what feature scripts do around it: read each file, write each last layer as ``.npy``.
- mmser: a whole extraction but for the interpreter's imports: model loaded and tried, headers, decoding, batches,
  pooling of all layers, shards digested and flushed.

The repetitions take turns, and the best of each counts. CPU seconds are the process's own (all threads): they say what
was worked where other processes share the machine. The share is of the largest rate of a matrix product measured here.

    python benchmarks/extract.py                      # two CPU cores, about three minutes
    python benchmarks/extract.py --device cuda --utterances 2000 --compute bf16
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch
import transformers
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from mmser import products
from mmser.extract.loading import COMPUTE
from mmser.extract.options import Extraction
from mmser.extract.run import extract
from mmser.manifest import Manifest, read_manifest, write_manifest
from mmser.units import SAMPLE_RATE


def make_corpus(folder: Path, number: int) -> Path:
    """Noise of EmoDB-like lengths: log-normal, 1.2 to 9 s, 2.8 s in the mean."""
    rng = np.random.default_rng(0)
    seconds = np.clip(rng.lognormal(np.log(2.65), 0.33, number), 1.2, 9.0)
    for i, s in enumerate(seconds):
        soundfile.write(folder / f"u{i}.wav", 0.1 * rng.standard_normal(round(s * SAMPLE_RATE)), SAMPLE_RATE)
    rows = {"utterance_id": [f"u{i}" for i in range(number)], "audio": [f"u{i}.wav" for i in range(number)]}
    write_manifest(Manifest(pd.DataFrame(rows), folder), folder / "corpus.csv")
    return folder / "corpus.csv"


def make_model(folder: Path) -> Path:
    """A random wav2vec2-base."""
    torch.manual_seed(0)
    Wav2Vec2Model(Wav2Vec2Config()).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return folder


class Clock:
    """Best wall and CPU seconds of each thing timed."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.best: dict[str, tuple[float, float]] = {}

    def time(self, name: str, run: Callable[[], object]) -> None:
        """Time one repetition."""
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        took = time.perf_counter() - wall, time.process_time() - cpu
        self.best[name] = min(self.best.get(name, took), took)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Largest floating-point operations a second of a square matrix product, by the library that mmser takes."""
    best = 0.0
    for size in (1024, 2048) if device.type == "cpu" else (4096, 8192, 16384):
        a, b = torch.randn(2, 1, size, size, device=device, dtype=dtype)
        for _ in range(4):
            clock = Clock(device)
            clock.time("mm", lambda a=a, b=b: products.multiply(a, b))
            best = max(best, 2 * size**3 / clock.best["mm"][0])
    return best


def main() -> None:
    """Measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compute", default="float32", choices=sorted(COMPUTE))
    parser.add_argument("--utterances", type=int, default=40)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--batch-seconds", type=float, nargs="*", default=[0.0], help="0: what mmser chooses")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus, model_folder = make_corpus(folder, given.utterances), make_model(folder / "wav2vec2-base")
        manifest = read_manifest(corpus)
        model = Wav2Vec2Model.from_pretrained(model_folder).eval().to(device)
        processor = Wav2Vec2FeatureExtractor.from_pretrained(model_folder)
        audio = [soundfile.read(u.audio, dtype="float32")[0] for u in manifest.utterances()]
        seconds = sum(map(len, audio)) / SAMPLE_RATE

        @torch.inference_mode()
        def forward(samples: np.ndarray) -> torch.Tensor:
            values = processor(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_values.to(device)
            return model(values, output_hidden_states=True).last_hidden_state

        def npy_loop() -> None:
            for u in manifest.utterances():
                np.save(folder / "last.npy", forward(soundfile.read(u.audio, dtype="float32")[0]).cpu().numpy())

        def mmser(batch_seconds: float, run: list[int]) -> None:
            run[0] += 1
            options = Extraction(
                speech_model=str(model_folder), text_model="none", device=given.device, compute=given.compute,
                batch_seconds=batch_seconds or None,
            )  # fmt: skip
            assert not extract(manifest, folder / f"cache{run[0]}", options).failures

        counted = Wav2Vec2Model.from_pretrained(model_folder).eval()
        # The counter does not see through weight norm: that is left out, as mmser computes it once.
        parametrize.remove_parametrizations(counted.encoder.pos_conv_embed.conv, "weight")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            counted(torch.from_numpy(audio[0])[None])
        operations = counter.get_total_flops() * seconds / (len(audio[0]) / SAMPLE_RATE)
        clock, run = Clock(device), [0]
        for _ in range(given.repetitions):
            clock.time("bare loop", lambda: [forward(samples) for samples in audio])
            clock.time("npy loop", npy_loop)
            for budget in given.batch_seconds:
                label = f"mmser, batches of {budget:g} s" if budget else "mmser"
                clock.time(label, lambda budget=budget: mmser(budget, run))
        rate = matrix_rate(device, COMPUTE[given.compute])
    print(f"{given.utterances} utterances, {seconds:.0f} s, {device}, {given.threads} threads, {given.compute}")
    print(f"matrix product {rate / 1e9:.0f} GFLOP/s; model {operations / seconds / 1e9:.1f} GFLOP a second of audio")
    print(f"{'':28}{'wall s':>8}{'CPU s':>8}{'x real time':>13}{'x bare loop':>13}{'share of matrix rate':>22}")
    bare = clock.best["bare loop"][0]
    for name, (wall, cpu) in clock.best.items():
        print(
            f"{name:28}{wall:8.2f}{cpu:8.2f}{seconds / wall:13.1f}{bare / wall:13.2f}{operations / wall / rate:22.2f}"
        )
    print(json.dumps({"seconds": seconds, "matrix_gflops": rate / 1e9, "gflop": operations / 1e9, "best": clock.best}))


if __name__ == "__main__":
    main()
