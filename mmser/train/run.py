"""One experiment, from a cache to a run folder: choose utterances, make folds, train every fold and seed, test once."""

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from mmser.cache import Cache
from mmser.errors import ProtocolError
from mmser.heads import HEADS
from mmser.heads.batch import Inputs
from mmser.heads.store import load_head, save_head
from mmser.manifest import Manifest, read_manifest
from mmser.train.engine import train
from mmser.train.evaluate import posteriors
from mmser.train.features import MIX, Sources, load_table, open_sources, speech_layers
from mmser.train.members import FUSIONS, Member, head_options, members_of
from mmser.train.options import Experiment
from mmser.train.plan import Run, Trained
from mmser.train.protocol import Fold, folds_from_split, make_folds
from mmser.train.results import Line, Outcome, folds_table, predictions_table, summarise
from mmser.train.table import Table

Report = Callable[[str, int, int], Any]
"""Told after every epoch: the head, epochs finished and epochs to do over all its runs."""


@dataclass(frozen=True, eq=False)
class Result:
    """What an experiment came to."""

    folder: Path
    lines: list[Line]
    """One a head; of a late fusion, its members first."""
    labels: tuple[str, ...]
    num_utterances: int
    left_out: Mapping[str, int]
    """Utterances that could not be used, counted by reason."""
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Data:
    """The utterances of an experiment, a row each."""

    ids: list[str]
    labels: tuple[str, ...]
    truth: NDArray[np.int64]
    speakers: NDArray
    folds: list[Fold]
    left_out: dict[str, int]


def train_head(
    cache_path: Path | str, experiment: Experiment, folder: Path, *, report: Report = lambda *_: None
) -> Result:
    """Train a head (or a late fusion) over all folds and seeds, and write a run folder.

    Run again with the same arguments, only what is missing is trained.

    Args:
        cache_path: a cache of :func:`mmser.extract.run.extract`.
        experiment: what to train.
        folder: the run folder; made if it is not there.
        report: told how far it is.

    Raises:
        CacheError: the cache, or what the head reads, is not there.
        ProtocolError: folds, labels or options do not allow it; the folder holds another experiment.
    """
    cache = Cache(cache_path)
    parts = members_of(experiment)
    granularities = list(dict.fromkeys(p.granularity for p in parts if HEADS[p.head].needs_speech))
    sources = open_sources(
        cache,
        granularities,
        text=any(HEADS[p.head].needs_text for p in parts),
        speech_stream=experiment.speech_stream,
        text_stream=experiment.text_stream,
    )
    data = _choose(read_manifest(cache.manifest_path), sources, experiment)
    layers = speech_layers(sources, experiment.layer) if sources.speech else []
    _settle_folder(folder, experiment, cache, sources, layers)
    table = load_table(sources, data.ids, layers, experiment.text_layer, _device(experiment.device))
    if experiment.normalise == "speaker":
        table = table.normalised_per_speaker(data.speakers.tolist())
    outcomes: list[Outcome] = []
    for part in parts:
        outcomes += _train_part(part, experiment, table, data, layers, folder, report)
    if experiment.head in FUSIONS:
        outcomes += _fuse(experiment.head, outcomes)
    speakers = data.speakers.tolist()
    _write_csv(predictions_table(outcomes, data.ids, speakers, data.truth, data.labels), folder / "predictions.csv")
    _write_csv(folds_table(outcomes, data.truth), folder / "results.csv")
    lines = summarise(outcomes, data.truth, speakers, data.ids)
    _write_json(folder / "summary.json", {"lines": [asdict(line) for line in lines], "left_out": data.left_out})
    return Result(folder, lines, data.labels, len(data.ids), data.left_out, tuple(_notes(data)))


def _choose(manifest: Manifest, sources: Sources, experiment: Experiment) -> _Data:
    """Utterances that every head can see, with their classes, speakers and folds."""
    by_split = experiment.folds == "split"
    values = manifest.column(experiment.folds).astype(str)
    classes = manifest.column(experiment.label).astype(str)
    unknown = [label for label in experiment.labels if label not in set(classes)]
    if unknown:
        raise ProtocolError(
            f"--labels: no utterance is labelled {unknown[0]!r}; there are {', '.join(sorted(set(classes) - {''}))}"
        )
    reasons = sources.without(manifest.ids)
    wanted = set(experiment.labels) or set(classes) - {""}
    for uid, label in zip(manifest.ids, classes, strict=True):
        if label not in wanted:
            reasons[uid] = "no label" if not label else "label not asked for"
    keep = np.array([uid not in reasons for uid in manifest.ids])
    if not keep.any():
        raise ProtocolError(f"no utterance can be used: {_counted(Counter(reasons.values()))}")
    columns = manifest.table.columns
    speakers = manifest.column("speaker").astype(str) if "speaker" in columns else np.full(len(manifest), "")
    labels = experiment.labels or tuple(sorted(wanted))
    if len(labels) < 2:
        raise ProtocolError(f"one class only ({', '.join(labels)}): there is nothing to tell apart")
    values, classes, speakers = values[keep], classes[keep], speakers[keep]
    folds = (folds_from_split if by_split else make_folds)(values.tolist(), speakers.tolist(), classes.tolist())
    number = {label: i for i, label in enumerate(labels)}
    truth = np.array([number[label] for label in classes], dtype=np.int64)
    ids = [uid for uid, kept in zip(manifest.ids, keep, strict=True) if kept]
    return _Data(ids, labels, truth, speakers, folds, dict(Counter(reasons.values())))


def _train_part(
    part: Member,
    experiment: Experiment,
    table: Table,
    data: _Data,
    layers: Sequence[int],
    folder: Path,
    report: Report,
) -> list[Outcome]:
    """Train one head over all folds and seeds, keep the heads, and open the test parts once."""
    kind = HEADS[part.head]
    own = table.only([part.granularity] if kind.needs_speech else [], text=kind.needs_text)
    mixed = experiment.layer == MIX and kind.needs_speech
    inputs = Inputs(
        speech_dim=own.speech[part.granularity].values.shape[2] if kind.needs_speech else 0,
        text_dim=own.text.values.shape[2] if own.text is not None else 0,
        granularities=tuple(own.speech),
        speech_layers=len(layers) if mixed else 1,
    )
    options = head_options(experiment, part.head)

    def build() -> torch.nn.Module:
        return kind.build(inputs, len(data.labels), options)

    about = _about(part, experiment, data, layers if kind.needs_speech else [])
    training = replace(experiment.training, normalise="global" if experiment.normalise == "global" else "none")
    cells = [(fold, seed) for fold in data.folds for seed in range(experiment.seeds)]
    runs = [
        Run(
            name=_run_name(part, number, seed),
            train_rows=fold.train,
            dev_rows=fold.dev,
            seed=seed,
            layer=None,
            learning_rate=experiment.learning_rate,
            weight_decay=experiment.weight_decay,
        )
        for number, fold in enumerate(data.folds)
        for seed in range(experiment.seeds)
    ]
    finished: dict[int, Trained | None] = {i: _load_trained(folder, run) for i, run in enumerate(runs)}
    missing = [i for i in range(len(runs)) if finished[i] is None]

    def keep(place: int, trained: Trained) -> None:
        i = missing[place]
        fold, seed = cells[i]
        head = build()
        head.load_state_dict(trained.state)
        history = [list(epoch) for epoch in trained.history]
        facts = {"fold": fold.name, "seed": seed, "best_epoch": trained.best_epoch, "dev_ua": trained.dev_score}
        save_head(head, folder / "heads" / trained.run.name, {**about, **facts, "history": history})

    labels = torch.from_numpy(data.truth)
    new = train(
        own,
        labels,
        build,
        [runs[i] for i in missing],
        training,
        progress=lambda done, total: report(part.name, done, total),
        finished=keep,
    )
    finished |= dict(zip(missing, new, strict=True))
    trained = [t for t in finished.values() if t is not None]
    answers = posteriors(own, build, trained, [fold.test for fold, _ in cells], batch_size=training.batch_size)
    return [
        Outcome(
            part.name, fold.name, seed, fold.test, answer, len(fold.train), len(fold.dev), t.best_epoch, t.dev_score
        )
        for (fold, seed), t, answer in zip(cells, trained, answers, strict=True)
    ]


def _run_name(part: Member, fold_number: int, seed: int) -> str:
    """A folder name from numbers: a fold's own name comes from the user's table, so it never becomes a path."""
    return f"{part.name}-fold{fold_number}-seed{seed}"


def _about(part: Member, experiment: Experiment, data: _Data, layers: Sequence[int]) -> dict[str, Any]:
    return {
        "labels": list(data.labels),
        "granularity": part.granularity,
        "speech_layers_of_encoder": list(layers),
        "text_layer": experiment.text_layer,
        "normalise": experiment.normalise,
    }


def _load_trained(folder: Path, run: Run) -> Trained | None:
    """A run finished earlier, from its folder; None if it is not there."""
    path = folder / "heads" / run.name
    if not (path / "config.json").exists():
        return None
    head, config = load_head(path)
    return Trained(run, head.state_dict(), config["best_epoch"], config["dev_ua"], history=())


def _fuse(name: str, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Late fusion: the mean of the members' posteriors, fold by fold and seed by seed."""
    fused = []
    for fold, seed in dict.fromkeys((o.fold, o.seed) for o in outcomes):
        members = [o for o in outcomes if (o.fold, o.seed) == (fold, seed)]
        assert all(np.array_equal(m.rows, members[0].rows) for m in members)
        mean = np.mean([m.posteriors for m in members], axis=0)
        fused.append(replace(members[0], head=name, posteriors=mean, best_epoch=None, dev_ua=None))
    return fused


def _settle_folder(folder: Path, experiment: Experiment, cache: Cache, sources: Sources, layers: Sequence[int]) -> None:
    """Make the run folder, or make sure that it holds this very experiment on these very streams."""
    streams = [*sources.speech.values(), *([sources.text] if sources.text else [])]
    shards = {stream.name: [shard.path.name for shard in stream.shards] for stream in streams}
    config = {
        "experiment": asdict(experiment),
        "cache": cache.path.name,
        "layers": list(layers),
        # a shard's name holds the digest of its content
        "shards": shards,
    }
    config = json.loads(json.dumps(config))
    path = folder / "config.json"
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        changed = [key for key in config if stored.get(key) != config[key]]
        if changed:
            raise ProtocolError(
                f"{folder} holds another experiment ({', '.join(changed)} differ); give another --out, or delete it"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(path, config)


def _device(asked: str) -> torch.device:
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=torch.device(asked))
    except (RuntimeError, AssertionError) as error:  # torch raises either where a device is missing
        raise ProtocolError(f"device {asked!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return torch.device(asked)


def _notes(data: _Data) -> list[str]:
    unchecked = max(fold.num_unchecked for fold in data.folds)
    if unchecked:
        return [f"the speaker of {unchecked} utterances is not known: nothing can check that folds share no speaker"]
    return []


def _counted(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))


def _write_csv(table: pd.DataFrame, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    table.to_csv(temporary, index=False, float_format="%.6g")
    temporary.replace(path)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)
