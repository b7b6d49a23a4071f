"""One experiment, from a cache to a run folder: choose utterances, make folds, train every fold and seed, test once."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

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
from mmser.train.grid import chosen_by_dev, described, dev_scores_of, trials_of
from mmser.train.late import averaged, concatenated, fitted
from mmser.train.members import FUSIONS, Member, head_options, members_of
from mmser.train.options import Experiment
from mmser.train.oracle import Oracle, load_outputs, save_outputs
from mmser.train.part import Part, Tested
from mmser.train.plan import Run, Trained
from mmser.train.results import Outcome
from mmser.train.table import Table
from mmser.train.targets import Targets

Report = Callable[[str, int, int], Any]
"""Told after every epoch: the head, epochs finished and epochs to do over all its runs."""


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
    sources = _sources(cache, members, options, experiment)
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
        tested = []
        for member, own in zip(members, options, strict=True):
            part = _prepare(member, own, experiment, table, chosen, layers)
            tested.append(_train_and_test(part, experiment, folder, report))
        if experiment.head in FUSIONS and experiment.fusion == "concat":
            tested.append(_train_and_test(concatenated(experiment, tested), experiment, folder, report))
        outcomes = [outcome for one in tested for outcome in one.outcomes]
        oracle = [outcome for one in tested for outcome in one.oracle]
        if experiment.head in FUSIONS and experiment.fusion == "mean":
            outcomes += averaged(experiment.head, [one.outcomes for one in tested])
            oracle += averaged(experiment.head, [one.oracle for one in tested])
        elif experiment.head in FUSIONS and experiment.fusion != "concat":
            outcomes += fitted(experiment, tested, folder)
        dev_scores = [line for one in tested for line in one.dev_scores]
        if dev_scores:
            write_csv(pd.DataFrame(dev_scores), folder / "trials.csv")
        notes = [*chosen.notes, *(one.note for one in tested if one.note)]
        return conclude(folder, outcomes, oracle, chosen, kept, notes)


def _sources(cache: Cache, members: Sequence[Member], options: Sequence[Any], experiment: Experiment) -> Sources:
    heard = [name for member in members if HEADS[member.head].needs_speech for name in member.granularities]
    return open_sources(
        cache,
        list(dict.fromkeys(heard)),
        text=any(HEADS[member.head].needs_text for member in members),
        mel=any(HEADS[member.head].needs_mel for member in members),
        speech_stream=experiment.speech_stream,
        text_stream=experiment.text_stream,
        linked=any(HEADS[member.head].links(own) for member, own in zip(members, options, strict=True)),
    )


def _layers(sources: Sources, experiment: Experiment) -> list[int]:
    """The encoder layers to read: those of ``layer``, or one for each that is to be tried."""
    if not experiment.try_layers:
        return speech_layers(sources, experiment.layer)
    if MIX in experiment.try_layers:
        raise ProtocolError(f"--try-layers takes numbers; {MIX} is a head of another shape: train it apart")
    layers = [layer for asked in experiment.try_layers for layer in speech_layers(sources, asked)]
    if len(set(layers)) < len(layers):
        raise ProtocolError(f"--try-layers {','.join(experiment.try_layers)}: a layer is named twice")
    return layers


def _prepare(
    member: Member, options: Any, experiment: Experiment, table: Table, chosen: Chosen, layers: Sequence[int]
) -> Part:
    kind = HEADS[member.head]
    heard = member.granularities if kind.needs_speech else ()
    own = table.only(heard, text=kind.needs_text, mel=kind.needs_mel, links=kind.links(options))
    inputs = Inputs(
        speech_dim=own.speech[heard[0]].values.shape[2] if heard else 0,
        text_dim=own.text.values.shape[2] if own.text is not None else 0,
        granularities=tuple(own.speech),
        speech_layers=len(layers) if heard and not experiment.try_layers else 1,
        mel_dim=own.mel.values.shape[2] if own.mel is not None else 0,
    )
    about: dict[str, Any] = {
        "labels": list(chosen.labels),
        "dimensions": list(chosen.dimensions),
        "granularity": "+".join(member.granularities),
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
    return Part(member.name, own, targets, build, about, chosen.folds, trials, cells, runs)


def _train(part: Part, experiment: Experiment, folder: Path, report: Report) -> list[Trained]:
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


def _facts(part: Part, place: int, trained: Trained) -> dict[str, Any]:
    """What is kept beside a head; ratings are its outputs after the classes', times deviation, plus mean."""
    fold, run = part.folds[part.cells[place][0]], trained.run
    facts = {**part.about, "fold": fold.name, "seed": run.seed, **facts_of(trained)}
    facts |= {"learning_rate": run.learning_rate, "weight_decay": run.weight_decay}
    if run.layer is not None and "speech_layers_of_encoder" in part.about:
        facts["speech_layers_of_encoder"] = [part.about["speech_layers_of_encoder"][run.layer]]
    mean, deviation = part.targets.scale_of(torch.from_numpy(run.train_rows))
    return {**facts, "rating_mean": mean.tolist(), "rating_deviation": deviation.tolist()}


def _train_and_test(part: Part, experiment: Experiment, folder: Path, report: Report) -> Tested:
    """Train all runs, let dev choose among settings, and open the test parts, once, for the runs that it chose."""
    trained = _train(part, experiment, folder, report)
    best = chosen_by_dev(part.cells, trained)
    tested = [i for i, (fold, trial) in enumerate(part.cells) if best[fold] == trial]
    numbers, of_tested = [part.cells[i][0] for i in tested], [trained[i] for i in tested]
    rows = [part.folds[number].test for number in numbers]
    said = outputs(part.table, part.build, of_tested, rows, batch_size=experiment.training.batch_size)
    oracle: list[Outcome] = []
    if experiment.report_oracle:
        would_say = [load_outputs(folder / "oracle", part.runs[i]) for i in tested]
        oracle = _outcomes(part, trained, tested, would_say)
    note, dev_scores = None, []
    if len(part.trials) > 1:
        note = described(part.name, part.trials, best)
        folds, trials = zip(*((part.folds[fold].name, part.trials[trial]) for fold, trial in part.cells), strict=True)
        dev_scores = dev_scores_of(part.name, folds, trials, trained, tested)
    return Tested(part, numbers, of_tested, _outcomes(part, trained, tested, said), oracle, note, dev_scores)


def _outcomes(part: Part, trained: Sequence[Trained], tested: Sequence[int], said: Sequence[Tensor]) -> list[Outcome]:
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


def _device(asked: str) -> torch.device:
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=torch.device(asked))
    except (RuntimeError, AssertionError) as error:  # torch raises either where a device is missing
        raise ProtocolError(f"device {asked!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return torch.device(asked)
