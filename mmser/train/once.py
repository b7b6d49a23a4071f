"""Every run once: one that is finished is read, one that another folder holds is copied, and two alike train as one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmser.heads.store import save_head
from mmser.train.engine import outputs, train
from mmser.train.folder import facts_of, load_trained, trained_of
from mmser.train.options import Experiment
from mmser.train.oracle import Oracle, save_outputs
from mmser.train.part import Part
from mmser.train.plan import Epoch, Run, Trained
from mmser.train.tensorboard import EventLog

Report = Callable[[str, int, int], Any]
"""Told after every epoch: the head, epochs finished and epochs to do over all its runs."""


def train_once(
    parts: Sequence[Part],
    folders: Sequence[Path],
    experiment: Experiment,
    report: Report,
    lent: Mapping[str, Path],
    *,
    tensorboard: bool = False,
) -> list[list[Trained]]:
    """Train the runs of parts of one shape that are not finished yet, each kept in its folder as soon as it is done.

    Args:
        parts: heads of one shape, on the same states.
        folders: the run folder of each part.
        experiment: how they train; of several, any.
        report: told how far it is.
        lent: folders of trained heads by what their weights follow from (``made_of`` in their ``config.json``).
        tensorboard: whether to write event files into each folder (:mod:`mmser.train.tensorboard`).

    Returns:
        What the runs came to, part by part.
    """
    done, owners = _sorted_out(parts, folders, {} if experiment.report_oracle else lent)
    logs = [EventLog(folder) for folder in folders] if tensorboard else []
    for log, part, own in zip(logs, parts, done, strict=False):
        log.restore(part.runs[place].name for place in own)
    runs = [parts[number].runs[place] for (number, place), *_ in owners]
    oracle = _oracle(parts, owners, runs) if experiment.report_oracle else None

    def keep(which: int, trained: Trained) -> None:
        said = None if oracle is None else _would_say(oracle, which, trained, parts[0], experiment)
        for number, place in owners[which]:
            own = replace(trained, run=parts[number].runs[place])
            if said is not None:  # before the head: a finished head has what the oracle said
                save_outputs(folders[number] / "oracle", own.run, said)
            _save(parts[number], place, own, folders[number], logs[number] if logs else None)
            done[number][place] = own

    def note(which: int, epoch: Epoch) -> None:
        for number, place in owners[which]:
            logs[number].epoch(parts[number].runs[place].name, epoch)

    # What speakers' statistics leave to standardise (text, which they do not touch), the training part's do.
    normalise = "none" if experiment.normalise == "none" else "global"
    train(
        parts[0].table,
        parts[0].targets.only(_seen_by(runs)),  # a test part that no run learns from or is chosen by is not there
        parts[0].build,
        runs,
        replace(experiment.training, normalise=normalise),
        progress=lambda finished, total: report(parts[0].name, finished, total),
        finished=keep,
        watch=None if oracle is None else oracle.watch,
        log=note if logs else None,
    )
    return [[own[place] for place in range(len(part.runs))] for part, own in zip(parts, done, strict=True)]


def _sorted_out(
    parts: Sequence[Part], folders: Sequence[Path], lent: Mapping[str, Path]
) -> tuple[list[dict[int, Trained]], list[list[tuple[int, int]]]]:
    """What each part has already, by place, and the parts and places of each run that is to be trained once.

    What another folder has is copied.
    """
    done: list[dict[int, Trained]] = [{} for _ in parts]
    waiting: dict[str, list[tuple[int, int]]] = {}
    for number, (part, folder) in enumerate(zip(parts, folders, strict=True)):
        for place, (run, digest) in enumerate(zip(part.runs, part.digests, strict=True)):
            trained = load_trained(folder, run, digest)
            if trained is None and digest in lent:
                trained = trained_of(lent[digest], run, digest)
                _save(part, place, trained, folder)
            if trained is None:
                waiting.setdefault(digest, []).append((number, place))
            else:
                done[number][place] = trained
    return done, list(waiting.values())


def _oracle(parts: Sequence[Part], owners: Sequence[Sequence[tuple[int, int]]], runs: Sequence[Run]) -> Oracle:
    tests = [parts[number].folds[parts[number].cells[place][0]].test for (number, place), *_ in owners]
    return Oracle(parts[0].targets, runs, tests)


def _would_say(oracle: Oracle, which: int, trained: Trained, part: Part, experiment: Experiment) -> Tensor:
    """What a run says in the epoch that its test rows would choose; where they cannot choose, in the one of dev."""
    if which in oracle.outputs:
        return oracle.outputs.pop(which)
    rows, size = [oracle.test_rows[which]], experiment.training.batch_size
    (said,) = outputs(part.table, part.build, [trained], rows, batch_size=size)
    return said


def _seen_by(runs: Sequence[Run]) -> Tensor:
    """The rows that some run learns from, or is chosen by."""
    rows = [rows for run in runs for rows in (run.train_rows, run.dev_rows)]
    return torch.from_numpy(np.unique(np.concatenate([np.empty(0, dtype=np.int64), *rows])))


def _save(part: Part, place: int, trained: Trained, folder: Path, log: EventLog | None = None) -> None:
    head, facts = part.build(), _facts(part, place, trained)
    head.load_state_dict(trained.state)
    if log is not None:  # before the head: a finished head has told all
        log.finish(trained.run.name, facts)
    save_head(head, folder / "heads" / trained.run.name, facts)


def _facts(part: Part, place: int, trained: Trained) -> dict[str, Any]:
    """What is kept beside a head; ratings are its outputs after the classes', times deviation, plus mean."""
    fold, run = part.folds[part.cells[place][0]], trained.run
    facts = {**part.about, "fold": fold.name, "seed": run.seed, **facts_of(trained), "made_of": part.digests[place]}
    facts |= {"learning_rate": run.learning_rate, "weight_decay": run.weight_decay}
    layers, tried = part.about.get("speech_layers_of_encoder"), part.trials[part.cells[place][1]].layer
    if layers is not None and tried is not None:
        facts["speech_layers_of_encoder"] = [layers[tried]]
    mean, deviation = part.targets.scale_of(torch.from_numpy(run.train_rows))
    return {**facts, "rating_mean": mean.tolist(), "rating_deviation": deviation.tolist()}
