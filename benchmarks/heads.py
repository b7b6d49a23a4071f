"""How fast heads train, beside the designs that are usual elsewhere.

    python -m benchmarks.heads
    python -m benchmarks.heads --parts coattention --utterances 5531 --threads 1
    python -m benchmarks.heads --parts coattention --same-products
    python -m benchmarks.heads --device cuda

Three parts, each on features of IEMOCAP's shape (5531 utterances as long as its own, 11.4 words in 4.5 s as Busso et
al. 2008 count them), random numbers in place of states. A fifth of the utterances is test, a fifth dev and three fifths
train, as in five folds.

``probe``: SUPERB's probe of one layer. EmoBox's design (one ``.npy`` of frames an utterance, read anew each epoch by a
torch ``DataLoader``) beside ours, alone and 25 at once. ``coattention``: word-level co-attention, 5 folds x 5 seeds.
The same design (a ``.npy`` of word states and one of token states an utterance), the same with the states resident as
items of its data set, our serial loop (:mod:`mmser.train.serial`) and ours, with the share of the machine's measured
matrix rate. Where ours takes oneDNN's products (:mod:`mmser.products`), the other designs have torch's, as such code
has; with ``--same-products`` they have ours: that tells what the library wins from what the design does. ``sweep``:
SUPERB's learned mix over 13 layers, 5 folds x 5 seeds x 6 learning rates.

What would take hours is measured on fewer utterances or epochs and scaled up in proportion, which every line says: time
a run and epoch is in proportion to utterances, but for batches that are fewer to choose the next one from, which only
costs ours. Repetitions are interleaved, and the fastest counts: it is the one that the machine's other work disturbed
least. Processor time is printed too; that of a loader's workers is not in it.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from mmser import products
from mmser.heads import HEADS
from mmser.heads import batch as heads
from mmser.heads.dropout import KeyedDropout
from mmser.heads.layers import Standardise
from mmser.heads.linear import Linear
from mmser.train.engine import Run, Targets, Training, train
from mmser.train.evaluate import unweighted_averages
from mmser.train.packed import Packed
from mmser.train.serial import train_serially
from mmser.train.table import Table

UTTERANCES, CLASSES, DIM, LAYERS, FOLDS, SEEDS = 5531, 4, 768, 13, 5, 5
QUANTILES = {
    0.000: 0.58,
    0.010: 1.09,
    0.050: 1.39,
    0.100: 1.68,
    0.200: 2.13,
    0.300: 2.55,
    0.400: 3.00,
    0.500: 3.58,
    0.600: 4.25,
    0.700: 5.18,
    0.800: 6.53,
    0.900: 8.69,
    0.950: 11.06,
    0.975: 13.23,
    0.990: 15.54,
    0.995: 17.97,
    0.999: 24.24,
    1.000: 34.14,
}
"""Seconds of IEMOCAP's utterances of four classes, by the share that are shorter: of the ``num_frame`` of all 5531 in
EmoBox's list (github.com/emo-box/EmoBox, data/iemocap/iemocap.jsonl at 08280f2)."""
WORDS_A_SECOND = 11.4 / 4.5
"""Busso et al. 2008, of all utterances; that each is spoken at this rate is our simplification."""
FRAMES_A_SECOND, TOKENS_A_WORD = 50, 1.2
RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
EPOCHS = 30
"""Of the whole sweep."""
BATCH = 32
PARTS = ("probe", "coattention", "sweep")


class Took(NamedTuple):
    """Seconds: of the wall clock and of this process's processors."""

    wall: float
    processor: float

    def scaled(self, factor: float) -> "Took":
        """Both times ``factor``."""
        return Took(self.wall * factor, self.processor * factor)


Contestant = Callable[[], Took]


def processor() -> float:
    """Seconds that processors worked for this process and those of its children that have ended."""
    return sum(os.times()[:4])


def took(work: Callable[[], Any], device: torch.device) -> Took:
    """How long ``work`` takes, what the device still has to do included."""
    wall, before = time.perf_counter(), processor()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return Took(time.perf_counter() - wall, processor() - before)


def compete(contestants: dict[str, Contestant], repeats: int) -> dict[str, Took]:
    """The fastest of the interleaved repetitions of each."""
    found: dict[str, list[Took]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, contestant in contestants.items():
            found[name].append(contestant())
    return {name: min(times) for name, times in found.items()}


# ---------------------------------------------------------------------------------------------------------- features


def lengths_of(num: int, states_a_second: float) -> np.ndarray:
    """States of ``num`` utterances spread as IEMOCAP's are, in any order; the same ones long at every granularity."""
    shares = (np.random.default_rng(0).permutation(num) + 0.5) / num
    seconds = np.interp(shares, list(QUANTILES), list(QUANTILES.values()))
    return np.maximum(1, np.round(seconds * states_a_second)).astype(np.int64)


def packed(lengths: np.ndarray, layers: int, device: torch.device, dtype: torch.dtype = torch.float16) -> Packed:
    """Random states."""
    generator = torch.Generator().manual_seed(1)
    values = torch.empty(layers, int(lengths.sum()), DIM, dtype=dtype)
    for layer in values:
        layer.copy_(torch.randn(layer.shape, generator=generator))
    offsets = torch.from_numpy(np.concatenate([[0], lengths.cumsum()]))
    return Packed(values.to(device), offsets.to(device))


def targets_of(num: int) -> Targets:
    """Random classes."""
    return Targets.of_classes(torch.randint(CLASSES, (num,), generator=torch.Generator().manual_seed(2)), CLASSES)


def runs_of(num: int, *, layer: int | None, seeds: int = SEEDS, rates: Sequence[float] = (1e-3,)) -> list[Run]:
    """Folds x seeds x rates: a fold's test rows are left out, the next fold is dev."""
    folds = np.array_split(np.random.default_rng(3).permutation(num), FOLDS)
    runs = []
    for fold in range(FOLDS):
        train_rows = np.concatenate([folds[(fold + step) % FOLDS] for step in range(2, FOLDS)])
        for seed in range(seeds):
            for rate in rates:
                name = f"fold {fold} seed {seed} rate {rate:g}"
                runs.append(Run(name, train_rows, folds[(fold + 1) % FOLDS], seed, layer, learning_rate=rate))
    return runs


# --------------------------------------------------------------------------------------- the designs usual elsewhere


class FrameProbe(nn.Module):
    """SUPERB's probe as it is written there: project every frame, take the mean, classify."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.classify = nn.Linear(DIM, 256), nn.Linear(256, CLASSES)

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Outputs (B, CLASSES) of values (B, T, DIM) and mask (B, T)."""
        values, mask = batch
        frames = self.project(values) * mask.unsqueeze(-1)
        return self.classify(frames.sum(1) / mask.sum(1, keepdim=True))


class FromFiles(Dataset[tuple[Tensor, ...]]):
    """EmoBox's way: an utterance's states are a file, one in each of the folders."""

    def __init__(self, folders: Sequence[Path], rows: np.ndarray, classes: Tensor) -> None:
        self.folders, self.rows, self.classes = folders, rows, classes

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> tuple[Tensor, ...]:
        row = int(self.rows[place])
        return *(torch.from_numpy(np.load(folder / f"{row}.npy")) for folder in self.folders), self.classes[row]


class FromMemory(Dataset[tuple[Tensor, ...]]):
    """Utterances as items of a list: the states of each stream, and the class."""

    def __init__(self, streams: Sequence[Packed], rows: np.ndarray, classes: Tensor) -> None:
        self.items = [(*(states_of(stream, row) for stream in streams), classes[row]) for row in rows.tolist()]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: int) -> tuple[Tensor, ...]:
        return self.items[place]


def states_of(stream: Packed, row: int) -> Tensor:
    """One utterance's (T, DIM), float32."""
    return stream.values[0, stream.offsets[row] : stream.offsets[row + 1]].float()


def write_files(folder: Path, stream: Packed, num: int) -> Path:
    """The first ``num`` utterances, each in a file of ``folder``, which is made."""
    folder.mkdir()
    for row in range(num):
        np.save(folder / f"{row}.npy", states_of(stream, row).cpu().numpy())
    return folder


def padded(sequences: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Values (B, T, D) and mask (B, T)."""
    lengths = torch.tensor([len(one) for one in sequences])
    values = pad_sequence(list(sequences), batch_first=True)
    return values, torch.arange(values.shape[1]) < lengths[:, None]


def collate_frames(items: list[tuple[Tensor, Tensor]]) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """A batch for :class:`FrameProbe`, and its classes."""
    frames, classes = zip(*items, strict=True)
    return padded(frames), torch.stack(classes)


def collate_words(items: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[heads.Batch, Tensor]:
    """A batch for our heads, and its classes."""
    speech, text, classes = zip(*items, strict=True)
    batch = heads.Batch({"word": heads.Sequence(*padded(speech))}, heads.Sequence(*padded(text)), None)
    return batch, torch.stack(classes)


class TorchDropout(nn.Module):
    """torch's own dropout in the place of ours."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, values: Tensor, *_: object) -> Tensor:
        """Drop elements of ``values``, whatever the key."""
        return F.dropout(values, self.rate, self.training)


class Multiplied(Linear):
    """Our layer's products for padded states, which it leaves to torch."""

    def forward(self, values: Tensor) -> Tensor:
        """Outputs (B, T, N) of ``values`` (B, T, K)."""
        return super().forward(values.flatten(0, 1)).unflatten(0, values.shape[:2])


def plain(module: nn.Module, same_products: bool = False) -> nn.Module:
    """A head without what only ours needs: keyed dropout, and standardising, which others do once beforehand."""
    for name, child in module.named_children():
        if isinstance(child, KeyedDropout):
            setattr(module, name, TorchDropout(child.rate))
        elif isinstance(child, Standardise):
            setattr(module, name, nn.Identity())
        elif same_products and isinstance(child, Linear):
            child.__class__ = Multiplied
        else:
            plain(child, same_products)
    return module


def loader_epoch(
    head: nn.Module, loaders: tuple[DataLoader[Any], DataLoader[Any]], rate: float, device: torch.device
) -> None:
    """One epoch of a plain torch loop, its dev score included."""
    optimizer = torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=1e-2)

    def there(value: Any) -> Any:
        return torch.utils._pytree.tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, value)

    head.train()
    for batch, classes in map(there, loaders[0]):
        optimizer.zero_grad()
        F.cross_entropy(head(batch), classes).backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
    head.eval()
    with torch.no_grad():
        said = [(head(batch).argmax(-1).cpu(), classes.cpu()) for batch, classes in map(there, loaders[1])]
    prediction, truth = (torch.cat(part)[None] for part in zip(*said, strict=True))
    unweighted_averages(truth, prediction, torch.ones_like(truth, dtype=torch.bool), CLASSES)


def loaders_of(
    make: Callable[[np.ndarray], Dataset[Any]], collate: Callable[[list[Any]], Any], run: Run, workers: int
) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Of the training rows, shuffled, and of the dev rows. Workers live on from epoch to epoch."""
    options: dict[str, Any] = {"batch_size": BATCH, "collate_fn": collate, "num_workers": workers}
    options["persistent_workers"] = workers > 0
    return (
        DataLoader(make(run.train_rows), shuffle=True, **options),
        DataLoader(make(run.dev_rows), shuffle=False, **options),
    )


def loader_contestants(
    name: str,
    make: Callable[[np.ndarray], Dataset[Any]],
    collate: Callable[[list[Any]], Any],
    build: Callable[[], nn.Module],
    run: Run,
    device: torch.device,
    factor: float,
    same_products: bool = False,
) -> dict[str, Contestant]:
    """The loader design with and without workers; a first epoch, not counted, starts them and fills the page cache."""

    def contestant(workers: int) -> Contestant:
        head, loaders = plain(build(), same_products).to(device), loaders_of(make, collate, run, workers)
        loader_epoch(head, loaders, run.learning_rate, device)
        return lambda: took(lambda: loader_epoch(head, loaders, run.learning_rate, device), device).scaled(factor)

    return {f"{name}, {workers} workers": contestant(workers) for workers in (0, 2)}


def fastest(found: dict[str, Took], name: str) -> float:
    """Wall seconds of the loader design, with as many workers as did best."""
    return min(took.wall for contestant, took in found.items() if contestant.startswith(f"{name}, "))


# --------------------------------------------------------------------------------------------------------------- ours


def ours(
    table: Table, targets: Targets, build: Callable[[], nn.Module], runs: list[Run], epochs: int, factor: float
) -> Took:
    """A run's epoch in ours, scaled: what more epochs take than one, so that the setting up is not in it."""

    def of(count: int) -> Took:
        training = Training(epochs=count, patience=count, batch_size=BATCH)
        return took(lambda: train(table, targets, build, runs, training), table.device)

    more, one = of(1 + epochs), of(1)
    return Took(more.wall - one.wall, more.processor - one.processor).scaled(factor / (epochs * len(runs)))


def serially(table: Table, targets: Targets, build: Callable[[], nn.Module], run: Run, factor: float) -> Took:
    """The same for one run in the serial loop: from the end of the first epoch to that of the third."""
    marks: list[tuple[float, float]] = []

    def mark(*_: object) -> None:
        if table.device.type == "cuda":
            torch.cuda.synchronize()
        marks.append((time.perf_counter(), processor()))

    train_serially(table, targets, build, run, Training(epochs=3, patience=3, batch_size=BATCH), mark)
    return Took(marks[2][0] - marks[0][0], marks[2][1] - marks[0][1]).scaled(factor / 2)


def build_of(kind: str, layers: int = 1, granularity: str = "word", **options: int) -> Callable[[], nn.Module]:
    """Makes the head, by default but for its ``options``."""
    inputs = heads.Inputs(DIM, DIM, (granularity,), layers)
    return lambda: HEADS[kind].build(inputs, CLASSES, HEADS[kind].options(**options))


# -------------------------------------------------------------------------------------------------------------- parts


def probe(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """SUPERB's probe, one layer."""
    lengths = lengths_of(UTTERANCES, FRAMES_A_SECOND)
    sample = min(UTTERANCES, args.files)
    means = packed(np.ones(UTTERANCES, dtype=np.int64), 1, device, torch.float32)
    table = Table(tuple(map(str, range(UTTERANCES))), {"frame": means})
    targets, runs = targets_of(UTTERANCES), runs_of(UTTERANCES, layer=0)
    frames = packed(lengths[:sample], 1, torch.device("cpu"))
    pooling = took(frames.means, torch.device("cpu")).scaled(UTTERANCES / sample)
    some = runs_of(sample, layer=0)[0]
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        contestants = loader_contestants(
            "files",
            partial(FromFiles, [write_files(Path(name) / "frame", frames, sample)], classes=targets.classes),
            collate_frames,
            FrameProbe,
            some,
            device,
            len(runs[0].train_rows) / len(some.train_rows),
        )
        build = build_of("speech-probe", granularity="frame")
        contestants["ours, 1 run"] = lambda: ours(table, targets, build, runs[:1], args.epochs * 4, 1)
        contestants["ours, 25 runs"] = lambda: ours(table, targets, build, runs, args.epochs, 1)
        found = compete(contestants, args.repeats)
    note = f"files: {sample} of {UTTERANCES} utterances, scaled up; ours: all; pooling once: {pooling.wall:.2f} s"
    base = fastest(found, "files")
    show("SUPERB's probe, one layer; seconds a run and epoch", found, base, note)
    return {"seconds": asdict(found), "ratio": base / found["ours, 25 runs"].wall, "pooling_s": pooling.wall}


def coattention(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Word-level co-attention."""
    num = args.utterances
    words = lengths_of(num, WORDS_A_SECOND)
    tokens = np.ceil(TOKENS_A_WORD * words).astype(np.int64) + 2
    table = Table(tuple(map(str, range(num))), {"word": packed(words, 1, device)}, packed(tokens, 1, device))
    targets, runs, build = targets_of(num), runs_of(num, layer=0), build_of("coattention", width=args.width)
    factor = UTTERANCES / num
    streams = [table.speech["word"], table.text]
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folders = [write_files(Path(name) / str(place), stream, num) for place, stream in enumerate(streams)]
        contestants: dict[str, Contestant] = {}
        for kind, make in (
            ("files", partial(FromFiles, folders, classes=targets.classes)),
            ("items", partial(FromMemory, streams, classes=targets.classes)),
        ):
            contestants |= loader_contestants(
                kind, make, collate_words, build, runs[0], device, factor, args.same_products
            )
        contestants["serial"] = lambda: serially(table, targets, build, runs[0], factor)
        contestants["ours, 25 runs"] = lambda: ours(table, targets, build, runs, 1, factor)
        found = compete(contestants, args.repeats)
    torchs, rate = (matrix_rate(device, product) for product in (torch.bmm, products.multiply))
    work = arithmetic(table, build, runs[0]) * factor
    share = work / found["ours, 25 runs"].wall / rate
    base = fastest(found, "files")
    note = (
        f"{num} of {UTTERANCES} utterances, scaled up; {work / 1e9:.0f} GFLOP a run and epoch without padding at "
        f"{rate / 1e9:.0f} GFLOP/s measured (by torch's own products {torchs / 1e9:.0f}): {work / rate:.2f} s; ours "
        f"reaches {share:.0%} of the matrix rate"
    )
    show(f"word-level co-attention of width {args.width}; seconds a run and epoch", found, base, note)
    mine = found["ours, 25 runs"].wall
    return {
        "seconds": asdict(found),
        "ratio": base / mine,
        "ratio_items": fastest(found, "items") / mine,
        "ratio_serial": found["serial"].wall / mine,
        "gflop": work / 1e9,
        "gflop_per_s": rate / 1e9,
        "gflop_per_s_of_torch": torchs / 1e9,
        "same_products": args.same_products,
        "share": share,
    }


def sweep(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """SUPERB's learned mix and its six learning rates."""
    num, every = UTTERANCES, partial(runs_of, UTTERANCES, layer=None, rates=RATES)
    table = Table(
        tuple(map(str, range(num))), {"frame": packed(np.ones(num, dtype=np.int64), LAYERS, device, torch.float32)}
    )
    targets, runs = targets_of(num), every()
    build = build_of("speech-probe", LAYERS, "frame")
    seconds = {
        "serial": lambda: serially(table, targets, build, runs[0], 1),
        f"ours, {len(runs)} runs": lambda: ours(table, targets, build, runs, 1, 1),
    }
    found = compete(seconds, args.repeats)
    mine = found[f"ours, {len(runs)} runs"].wall
    whole = mine * len(runs) * EPOCHS
    note = f"measured: one epoch after the first; {len(runs)} runs of {EPOCHS} epochs would take {whole:.0f} s"
    show("learned mix over 13 layers; seconds a run and epoch", found, found["serial"].wall, note)
    return {"seconds": asdict(found), "whole_sweep_s": whole, "ratio_serial": found["serial"].wall / mine}


# ----------------------------------------------------------------------------------------------------------- measures


def matrix_rate(device: torch.device, product: Callable[[Tensor, Tensor], Tensor]) -> float:
    """Floating-point operations a second in products of square float32 matrices, the best of several."""
    size = 8192 if device.type == "cuda" else 1536
    a, b = torch.randn(2, 1, size, size, device=device)
    product(a, b)
    return 2 * size**3 / min(took(lambda: product(a, b), device).wall for _ in range(9))


def arithmetic(table: Table, build: Callable[[], nn.Module], run: Run, sample: int = 64) -> float:
    """Operations in the products of a run's epoch if nothing were padded: counted on single utterances.

    Those of the forward pass for dev rows; forward and backward for training rows.
    """
    head = build().to(table.device)
    lengths = torch.from_numpy(table.lengths)

    def count(rows: np.ndarray, *, backward: bool) -> float:
        chosen = torch.from_numpy(rows[np.linspace(0, len(rows) - 1, min(sample, len(rows))).astype(int)])
        with FlopCounterMode(display=False) as counter:
            for row in chosen:
                batch = table.gather(row.view(1, 1), torch.zeros(1, dtype=torch.int64))
                said = head(torch.utils._pytree.tree_map(lambda leaf: None if leaf is None else leaf[0], batch))
                if backward:
                    said.sum().backward()
        # Most of the arithmetic is in proportion to length: what the sample's states say for those of all rows.
        return counter.get_total_flops() * float(lengths[rows].sum() / lengths[chosen].sum())

    return count(run.train_rows, backward=True) + count(run.dev_rows, backward=False)


def asdict(found: dict[str, Took]) -> dict[str, dict[str, float]]:
    """For the JSON line."""
    return {name: one._asdict() for name, one in found.items()}


def show(title: str, found: dict[str, Took], base: float, note: str) -> None:
    """A table of the contestants."""
    print(f"\n{title}\n  {'':20} {'wall':>9} {'processor':>10} {'times faster':>13}")
    for name, one in found.items():
        print(f"  {name:20} {one.wall:9.4f} {one.processor:10.4f} {base / one.wall:13.1f}")
    print(f"  ({note})", flush=True)


def main() -> None:
    """Run the parts asked for, and print a JSON line after the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch, in this process")
    parser.add_argument("--repeats", type=int, default=2, help="interleaved repetitions")
    parser.add_argument("--utterances", type=int, default=600, help="of the co-attention; the rest is scaled up")
    parser.add_argument("--same-products", action="store_true", help="the other designs' layers multiply as ours do")
    width = HEADS["coattention"].options().width
    parser.add_argument("--width", type=int, default=width, help="of the co-attention; default: its own")
    parser.add_argument("--files", type=int, default=400, help=".npy files of frames; the rest is scaled up")
    parser.add_argument("--epochs", type=int, default=10, help="of the probe that are timed")
    parser.add_argument("--folder", type=Path, help="where the .npy files are written; default: the system's")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    parts = {"probe": probe, "coattention": coattention, "sweep": sweep}
    results: dict[str, Any] = {"torch": torch.__version__, "device": str(device), "threads": args.threads}
    results["machine"] = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    for name in args.parts:
        results[name] = parts[name](args, device)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
