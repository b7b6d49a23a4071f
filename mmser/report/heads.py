"""What the stored heads of a row tell: the layers they learnt to listen to, and how their training went."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from mmser.errors import ProtocolError
from mmser.records import GRANULARITIES
from mmser.report.read import Row
from mmser.train.stored import HEAD_ANEW, read_head_config, rejected_heads

TEXT = "text"
"""How heads name what reads tokens: so, or ``text_input``."""

_LOGITS = "mix.logits"
"""Where :class:`~mmser.heads.layers.LayerMix` keeps its weights before their softmax."""


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """A learned mix of encoder layers, over all folds and seeds."""

    stream: str
    """Granularity of speech, or what names the text."""
    layers: tuple[int, ...]
    """As the encoder counts them."""
    mean: NDArray[np.float64]
    """(layers,), sums to 1."""
    deviation: NDArray[np.float64]
    """(layers,), over the heads."""


@dataclass(frozen=True, eq=False)
class Course:
    """How training went, an entry an epoch, of the runs that had not stopped by then."""

    num_runs: NDArray[np.int64]
    train_loss: NDArray[np.float64]
    """(epochs, 3): 10th percentile, mean, 90th percentile."""
    dev_score: NDArray[np.float64]
    """(epochs, 3), likewise."""
    best_epoch: float
    """Median over all runs."""


def head_folders(row: Row) -> list[Path]:
    """The folders of the heads that were tested, sorted; none for a fusion that has no weights of its own.

    Raises:
        ProtocolError: ``trials.csv`` is damaged, or missing where several settings were tried.
    """
    named = re.compile(re.escape(row.head) + r"-fold\d+-seed\d+(-trial\d+)?")
    found = [path.parent for path in row.folder.glob("heads/*/config.json") if named.fullmatch(path.parent.name)]
    rejected = rejected_heads(row.folder, row.head)
    return sorted(folder for folder in found if folder.name not in rejected)


def layer_weights(row: Row) -> list[LayerWeights]:
    """The learned mixes of a row's heads, one a sequence; empty where nothing was mixed.

    Raises:
        ProtocolError: a head's file is damaged.
    """
    found: dict[tuple[str, tuple[int, ...]], list[NDArray[np.float64]]] = {}
    for folder in head_folders(row):
        config = read_head_config(folder)
        for name, logits in _mixes(folder / "model.safetensors").items():
            stream = _stream(name)
            key = f"{'text' if stream.startswith(TEXT) else 'speech'}_layers_of_encoder"
            layers = tuple(config.get(key, ()))
            if logits.shape != (len(layers),):
                raise ProtocolError(
                    f"{folder / 'config.json'}: {len(layers)} {key}, and {name} in model.safetensors is of shape "
                    f"{logits.shape}; {HEAD_ANEW}"
                )
            shares = np.exp(logits - logits.max())
            found.setdefault((stream, layers), []).append(shares / shares.sum())
    return [
        LayerWeights(stream, layers, np.mean(own, axis=0), np.std(own, axis=0))
        for (stream, layers), own in found.items()
    ]


def _mixes(path: Path) -> dict[str, NDArray[np.float64]]:
    try:
        with safe_open(path, "numpy") as file:
            return {name: file.get_tensor(name).astype(float) for name in file.keys() if name.endswith(_LOGITS)}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise ProtocolError(f"{path}: not readable as safetensors ({error}); {HEAD_ANEW}") from error


def _stream(name: str) -> str:
    """The sequence that a tensor belongs to, by the names of heads' parts: a granularity, or text.

    >>> _stream("pairs.word.speech_input.input.mix.logits"), _stream("pairs.word.text_input.input.mix.logits")
    ('word', 'text for word')
    """
    parts = name.split(".")
    granularity = next((part for part in parts if part in GRANULARITIES), "")
    if any(part in (TEXT, f"{TEXT}_input") for part in parts):
        return f"{TEXT} for {granularity}" if granularity else TEXT
    return granularity or "speech"


def course(row: Row) -> Course | None:
    """How a row's heads trained; None where none is stored, or none has a history.

    Raises:
        ProtocolError: a head's config is damaged.
    """
    configs = [read_head_config(folder) for folder in head_folders(row)]
    histories = [config["history"] for config in configs if config["history"]]
    if not histories:
        return None
    losses = _padded([[epoch["train_loss"] for epoch in history] for history in histories])
    scores = _padded([[epoch["dev_score"] for epoch in history] for history in histories])
    best = [config["best_epoch"] for config in configs if config["best_epoch"]]
    lasted = np.array([len(history) for history in histories])
    return Course(
        num_runs=(lasted[:, None] > np.arange(lasted.max())).sum(0),
        train_loss=_band(losses),
        dev_score=_band(scores),
        best_epoch=float(np.median(best)) if best else np.nan,
    )


def _padded(values: Sequence[Sequence[float | None]]) -> NDArray[np.float64]:
    """(runs, epochs), NaN where a run had stopped or its figure was no number."""
    table = np.full((len(values), max(map(len, values))), np.nan)
    for run, own in zip(table, values, strict=True):
        run[: len(own)] = [np.nan if value is None else value for value in own]
    return table


def _band(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """10th percentile, mean and 90th percentile of each column (epochs, 3); NaN of a column without a number."""
    columns = [column[~np.isnan(column)] for column in values.T]
    return np.array(
        [
            [*np.quantile(own, [0.1]), own.mean(), *np.quantile(own, [0.9])] if len(own) else [np.nan] * 3
            for own in columns
        ]
    )
