"""One experiment, from a cache to a run folder: choose utterances, make folds, train every fold and seed, test once."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mmser.cache import Cache
from mmser.errors import ProtocolError
from mmser.heads import HEADS
from mmser.heads.batch import Inputs
from mmser.heads.store import save_head
from mmser.train.choose import Chosen, choose
from mmser.train.conclude import Result, conclude
from mmser.train.engine import train
from mmser.train.evaluate import outputs
from mmser.train.features import MIX, Sources, load_table, open_sources, speech_layers
from mmser.train.folder import facts_of, load_trained, locked, settle_folder, write_csv
from mmser.train.grid import Trial, chosen_by_dev, described, dev_scores_of, trials_of
from mmser.train.members import FUSIONS, Member, head_options, members_of
from mmser.train.options import Experiment
from mmser.train.oracle import Oracle, load_outputs, save_outputs
from mmser.train.plan import Run, Trained
from mmser.train.protocol import Fold
from mmser.train.results import Outcome
from mmser.train.table import Table
from mmser.train.targets import Targets

Report = Callable[[str, int, int], Any]
"""Told after every epoch: the head, epochs finished and epochs to do over all its runs."""


@dataclass(frozen=True, eq=False)
class _Part:
    """A head of the experiment, ready to train on its folds, seeds and settings."""

    name: str
    table: Table
    """The streams that it reads."""
    targets: Targets
    build: Callable[[], torch.nn.Module]
    about: dict[str, Any]
    """What a user of the saved head must know."""
    folds: list[Fold]
    trials: list[Trial]
    cells: list[tuple[int, int]]
    """Fold and trial of each run, by number."""
    runs: list[Run]


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
        ManifestError: the cache's manifest has no such column.
        ProtocolError: folds, labels or options do not allow it; the folder holds another experiment, or another
            process is at work in it.
    """
    cache = Cache(cache_path)
    members = members_of(experiment)
    options = [head_options(experiment, member.head) for member in members]
    sources = _sources(cache, members, experiment)
    manifest = cache.manifest
    lacking = sources.without(manifest.ids)
    blind = sources.blind(manifest.ids) if experiment.missing == "keep" else set(lacking)
    chosen = choose(manifest, {uid: reason for uid, reason in lacking.items() if uid in blind}, experiment)
    kept = dict(Counter(lacking[uid] for uid in chosen.ids if uid in lacking))
    layers = _layers(sources, experiment) if sources.speech else []
    device = _device(experiment.device)
    with locked(folder):
        settle_folder(folder, experiment, cache, sources, chosen)
        table = load_table(sources, chosen.ids, layers, experiment.text_layer, device)
        if experiment.normalise == "speaker":
            table = table.normalised_per_speaker(chosen.speakers)
        outcomes: list[Outcome] = []
        oracle: list[Outcome] = []
        notes: list[str] = []
        dev_scores: list[dict[str, Any]] = []
        for member, own in zip(members, options, strict=True):
            part = _prepare(member, own, experiment, table, chosen, layers)
            trained = _train(part, experiment, folder, report)
            best = chosen_by_dev(part.cells, trained)
            tested = [i for i, (fold, trial) in enumerate(part.cells) if best[fold] == trial]
            outcomes += _test(part, trained, tested, experiment)
            if experiment.report_oracle:
                said = [load_outputs(folder / "oracle", part.runs[i]) for i in tested]
                oracle += _outcomes(part, trained, tested, said)
            if len(part.trials) > 1:
                notes.append(described(part.name, part.trials, best))
                folds = [part.folds[fold].name for fold, _ in part.cells]
                of_runs = [part.trials[trial] for _, trial in part.cells]
                dev_scores += dev_scores_of(part.name, folds, of_runs, trained, tested)
        notes = [*chosen.notes, *notes]
        if experiment.head in FUSIONS:
            outcomes += _fuse(experiment.head, outcomes)
            oracle += _fuse(experiment.head, oracle)
        if dev_scores:
            write_csv(pd.DataFrame(dev_scores), folder / "trials.csv")
        return conclude(folder, outcomes, oracle, chosen, kept, notes)


def _sources(cache: Cache, members: Sequence[Member], experiment: Experiment) -> Sources:
    heard = [member.granularity for member in members if HEADS[member.head].needs_speech]
    return open_sources(
        cache,
        list(dict.fromkeys(heard)),
        text=any(HEADS[member.head].needs_text for member in members),
        mel=any(HEADS[member.head].needs_mel for member in members),
        speech_stream=experiment.speech_stream,
        text_stream=experiment.text_stream,
    )


def _layers(sources: Sources, experiment: Experiment) -> list[int]:
    """The encoder layers to read: those of ``layer``, or one for each that is to be tried."""
    if not experiment.try_layers:
        return speech_layers(sources, experiment.layer)
    if MIX in experiment.try_layers:
        raise ProtocolError(f"--try-layers takes numbers; {MIX} is a head of another shape: train it apart")
    layers = [speech_layers(sources, asked)[0] for asked in experiment.try_layers]
    if len(set(layers)) < len(layers):
        raise ProtocolError(f"--try-layers {','.join(experiment.try_layers)}: a layer is named twice")
    return layers


def _prepare(
    member: Member, options: Any, experiment: Experiment, table: Table, chosen: Chosen, layers: Sequence[int]
) -> _Part:
    kind = HEADS[member.head]
    own = table.only([member.granularity] if kind.needs_speech else [], text=kind.needs_text, mel=kind.needs_mel)
    mixes = kind.needs_speech and not experiment.try_layers and experiment.layer == MIX
    inputs = Inputs(
        speech_dim=own.speech[member.granularity].values.shape[2] if kind.needs_speech else 0,
        text_dim=own.text.values.shape[2] if own.text is not None else 0,
        granularities=tuple(own.speech),
        speech_layers=len(layers) if mixes else 1,
        mel_dim=own.mel.values.shape[2] if own.mel is not None else 0,
    )
    about: dict[str, Any] = {
        "labels": list(chosen.labels),
        "dimensions": list(chosen.dimensions),
        "granularity": member.granularity,
        "text_layer": experiment.text_layer,
        "normalise": experiment.normalise,
    }
    if kind.needs_speech:
        about["speech_layers_of_encoder"] = list(layers)
    targets = Targets(
        torch.from_numpy(chosen.truth), torch.from_numpy(chosen.shares), torch.from_numpy(chosen.ratings).float()
    )
    trials = trials_of(experiment, hears=kind.needs_speech)
    numbered = [
        (fold, trial, seed)
        for fold in range(len(chosen.folds))
        for trial in range(len(trials))
        for seed in range(experiment.seeds)
    ]
    runs = [
        Run(
            # A folder's name, so from numbers: a fold's own name comes from the user's table.
            name=f"{member.name}-fold{fold}-seed{seed}" + (f"-trial{trial}" if len(trials) > 1 else ""),
            train_rows=chosen.folds[fold].train,
            dev_rows=chosen.folds[fold].dev,
            seed=seed,
            layer=trials[trial].layer,
            learning_rate=trials[trial].learning_rate,
            weight_decay=trials[trial].weight_decay,
        )
        for fold, trial, seed in numbered
    ]
    cells = [(fold, trial) for fold, trial, _ in numbered]
    build = partial(kind.build, inputs, targets.num_outputs, options)
    return _Part(member.name, own, targets, build, about, chosen.folds, trials, cells, runs)


def _train(part: _Part, experiment: Experiment, folder: Path, report: Report) -> list[Trained]:
    """Train the runs that are not finished yet, each kept in the folder as soon as it is done."""
    finished = {i: trained for i, run in enumerate(part.runs) if (trained := load_trained(folder, run)) is not None}
    missing = [i for i in range(len(part.runs)) if i not in finished]
    runs = [part.runs[i] for i in missing]
    oracle = None
    if experiment.report_oracle:
        oracle = Oracle(part.targets, runs, [part.folds[part.cells[i][0]].test for i in missing])

    def keep(place: int, trained: Trained) -> None:
        if oracle is not None:  # before the head: a finished head has what the oracle said
            save_outputs(folder / "oracle", trained.run, oracle.outputs.pop(place))
        head = part.build()
        head.load_state_dict(trained.state)
        save_head(head, folder / "heads" / trained.run.name, _facts(part, missing[place], trained))

    # What speakers' statistics leave to standardise (text, which they do not touch), the training part's do.
    normalise = "none" if experiment.normalise == "none" else "global"
    new = train(
        part.table,
        part.targets,
        part.build,
        runs,
        replace(experiment.training, normalise=normalise),
        progress=lambda done, total: report(part.name, done, total),
        finished=keep,
        watch=None if oracle is None else oracle.watch,
    )
    finished |= dict(zip(missing, new, strict=True))
    return [finished[i] for i in range(len(part.runs))]


def _facts(part: _Part, place: int, trained: Trained) -> dict[str, Any]:
    """What is kept beside a head; ratings are its outputs after the classes', times deviation, plus mean."""
    fold, run = part.folds[part.cells[place][0]], trained.run
    facts = {**part.about, "fold": fold.name, "seed": run.seed, **facts_of(trained)}
    facts |= {"learning_rate": run.learning_rate, "weight_decay": run.weight_decay}
    if run.layer is not None:
        facts["speech_layers_of_encoder"] = [part.about["speech_layers_of_encoder"][run.layer]]
    mean, deviation = part.targets.scale_of(torch.from_numpy(run.train_rows))
    return {**facts, "rating_mean": mean.tolist(), "rating_deviation": deviation.tolist()}


def _test(part: _Part, trained: Sequence[Trained], tested: Sequence[int], experiment: Experiment) -> list[Outcome]:
    """Open the test parts, once, for the runs that dev chose."""
    size = experiment.training.batch_size
    rows = [part.folds[part.cells[i][0]].test for i in tested]
    said = outputs(part.table, part.build, [trained[i] for i in tested], rows, batch_size=size)
    return _outcomes(part, trained, tested, said)


def _outcomes(part: _Part, trained: Sequence[Trained], tested: Sequence[int], said: Sequence[Tensor]) -> list[Outcome]:
    """What heads said of their folds' test parts, as probabilities and as ratings on the corpus's own scale."""
    num_classes, made = part.targets.num_classes, []
    for i, own in zip(tested, said, strict=True):
        (fold_number, trial), one = part.cells[i], trained[i]
        fold = part.folds[fold_number]
        mean, deviation = part.targets.scale_of(torch.from_numpy(one.run.train_rows))
        ratings = (own[:, num_classes:] * deviation + mean).numpy()
        made.append(
            Outcome(
                head=part.name,
                fold=fold.name,
                seed=one.run.seed,
                rows=fold.test,
                posteriors=own[:, :num_classes].softmax(-1).numpy(),
                num_train=len(fold.train),
                num_dev=len(fold.dev),
                best_epoch=one.best_epoch,
                dev_score=one.dev_score,
                diverged=one.diverged,
                ratings=ratings if part.targets.num_ratings else None,
                learning_rate=one.run.learning_rate,
                weight_decay=one.run.weight_decay,
                layer=part.trials[trial].layer_name,
            )
        )
    return made


def _fuse(name: str, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Late fusion: the mean of the members' posteriors and of their ratings, fold by fold and seed by seed."""
    fused = []
    for fold, seed in dict.fromkeys((o.fold, o.seed) for o in outcomes):
        members = [o for o in outcomes if (o.fold, o.seed) == (fold, seed)]
        assert all(np.array_equal(m.rows, members[0].rows) for m in members)
        rated = [m.ratings for m in members if m.ratings is not None]
        fused.append(
            Outcome(
                head=name,
                fold=fold,
                seed=seed,
                rows=members[0].rows,
                posteriors=np.mean([m.posteriors for m in members], axis=0),
                num_train=members[0].num_train,
                num_dev=members[0].num_dev,
                diverged=any(m.diverged for m in members),
                ratings=np.mean(rated, axis=0) if rated else None,
            )
        )
    return fused


def _device(asked: str) -> torch.device:
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=torch.device(asked))
    except (RuntimeError, AssertionError) as error:  # torch raises either where a device is missing
        raise ProtocolError(f"device {asked!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return torch.device(asked)
