"""Experiments, from a cache to run folders: choose utterances, make folds, train every fold and seed, test once."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pandas as pd
from torch import Tensor

from mmser.cache import Cache
from mmser.devices import pick_device
from mmser.train.assemble import inputs_of, part_of, read_states
from mmser.train.conclude import Result, conclude
from mmser.train.folder import check_run_folder, is_settled, locked, settle_folder, write_csv
from mmser.train.grid import chosen_by_dev, described, dev_scores_of
from mmser.train.late import averaged, concatenated, fitted, without_oracle
from mmser.train.lexicon import keep_lexicon
from mmser.train.members import FUSIONS
from mmser.train.once import Report, train_once
from mmser.train.options import Experiment
from mmser.train.oracle import load_outputs
from mmser.train.part import Part, Tested
from mmser.train.plan import Trained
from mmser.train.prepare import Prepared, prepare
from mmser.train.results import Outcome
from mmser.train.speakers import speaker_notes
from mmser.train.unread import unread_notes


def train_head(
    cache_path: Path | str,
    experiment: Experiment,
    folder: Path,
    *,
    report: Report = lambda *_: None,
    tensorboard: bool = False,
) -> Result:
    """Train a head (or a late fusion) over all folds and seeds, and write a run folder.

    Run again with the same arguments, only what is missing is trained.

    Args:
        cache_path: a cache of :func:`mmser.extract.run.extract`.
        experiment: what to train.
        folder: the run folder; made if it is not there.
        report: told how far it is.
        tensorboard: whether to write event files as the runs train (:mod:`mmser.train.tensorboard`).

    Raises:
        CacheError: the cache, or what the head reads, is not there.
        ManifestError: the cache's manifest has no such column.
        ProtocolError: folds, labels or options do not allow it; the memory cannot hold the states; the folder holds
            another experiment, or another process is at work in it.
        MmserError: the device is not there.
    """
    return train_heads(cache_path, [experiment], [folder], report=report, tensorboard=tensorboard)[0]


def train_heads(
    cache_path: Path | str,
    experiments: Sequence[Experiment],
    folders: Sequence[Path],
    *,
    report: Report = lambda *_: None,
    lent: Mapping[str, Path] | None = None,
    tensorboard: bool = False,
) -> list[Result]:
    """Train experiments of one shape (:func:`mmser.train.prepare.shape_of`) as one, each into a run folder of its own.

    Each comes to what :func:`train_head` makes of it alone.

    Args:
        cache_path: a cache.
        experiments: what to train; they may differ in layer, learning rate, weight decay and seeds.
        folders: the run folder of each.
        report: told how far it is.
        lent: heads that are trained already, by what their weights follow from (``made_of`` in their ``config.json``);
            a run that would come to the same is copied.
        tensorboard: whether to write event files into each folder, as the runs train.

    Raises:
        MmserError: as :func:`train_head`, if one of them would.
    """
    cache = Cache(cache_path)
    asked = prepare(cache, experiments)
    device = pick_device(experiments[0].device)
    for folder in folders:  # before anything is written, a lock included
        check_run_folder(folder)
    with ExitStack() as locks:
        for one, folder in zip(asked, folders, strict=True):
            locks.enter_context(locked(folder))
            is_settled(folder, one.experiment, cache, one.sources, one.chosen)  # all, before one loses its tables
        for one, folder in zip(asked, folders, strict=True):
            settle_folder(folder, one.experiment, cache, one.sources, one.chosen)
            if one.lexicon is not None:
                keep_lexicon(one.lexicon, folder)
        table, layers = read_states(asked, device)
        tested: list[list[Tested]] = [[] for _ in asked]
        for number in range(len(asked[0].members)):
            own_table, inputs = inputs_of(asked[0], number, table)  # once: means are a table of their own
            parts = [part_of(one, number, own_table, inputs, layers) for one in asked]
            trained = train_once(parts, folders, experiments[0], report, lent or {}, tensorboard=tensorboard)
            for own, part, experiment, folder, runs in zip(tested, parts, experiments, folders, trained, strict=True):
                own.append(_test(part, runs, experiment, folder))
        return [
            _finish(one, own, folder, report, tensorboard)
            for one, own, folder in zip(asked, tested, folders, strict=True)
        ]


def _finish(one: Prepared, tested: list[Tested], folder: Path, report: Report, tensorboard: bool) -> Result:
    """Fuse the members of a late fusion, and write the tables."""
    experiment = one.experiment
    if experiment.head in FUSIONS and experiment.fusion == "concat":
        part, blind = concatenated(experiment, tested), replace(experiment, report_oracle=False)
        (trained,) = train_once([part], [folder], blind, report, {}, tensorboard=tensorboard)
        tested = [*tested, _test(part, trained, blind, folder)]
    outcomes = [outcome for own in tested for outcome in own.outcomes]
    oracle = [outcome for own in tested for outcome in own.oracle]
    if experiment.head in FUSIONS and experiment.fusion == "mean":
        outcomes += averaged(experiment.head, [own.outcomes for own in tested])
        oracle += averaged(experiment.head, [own.oracle for own in tested])
    elif experiment.head in FUSIONS and experiment.fusion != "concat":
        outcomes += fitted(experiment, tested, folder)
    dev_scores = [line for own in tested for line in own.dev_scores]
    if dev_scores:
        write_csv(pd.DataFrame(dev_scores), folder / "trials.csv")
    fused = [own.note for own in tested if own.note]
    told = [*one.chosen.notes, *speaker_notes(one), *unread_notes(experiment)]
    notes = [*told, *fused, *without_oracle(experiment)]
    return conclude(folder, outcomes, oracle, one.chosen, one.kept, notes)


def _test(part: Part, trained: Sequence[Trained], experiment: Experiment, folder: Path) -> Tested:
    """Let dev choose among settings, and open the test parts, once, for the runs that it chose."""
    best = chosen_by_dev(part.cells, trained)
    tested = [i for i, (fold, trial) in enumerate(part.cells) if best[fold] == trial]
    numbers, of_tested = [part.cells[i][0] for i in tested], [trained[i] for i in tested]
    rows = [part.folds[number].test for number in numbers]
    said = part.ask(of_tested, rows, experiment.training)
    oracle: list[Outcome] = []
    if experiment.report_oracle:
        num = part.targets.num_outputs
        kept = zip(tested, rows, strict=True)
        would_say = [load_outputs(folder / "oracle", part.runs[i], (len(own), num)) for i, own in kept]
        oracle = _outcomes(part, trained, tested, would_say)
    note, dev_scores = None, []
    if len(part.trials) > 1:
        note = described(part.name, part.trials, best)
        folds, trials = zip(*((part.folds[fold].name, part.trials[trial]) for fold, trial in part.cells), strict=True)
        dev_scores = dev_scores_of(part.name, folds, trials, trained, tested)
    return Tested(part, numbers, of_tested, _outcomes(part, trained, tested, said), oracle, note, dev_scores)


def _outcomes(part: Part, trained: Sequence[Trained], tested: Sequence[int], said: Sequence[Tensor]) -> list[Outcome]:
    """What heads said of their folds' test parts, as probabilities and as ratings on the corpus's own scale."""
    made = []
    for i, own in zip(tested, said, strict=True):
        (fold_number, trial), one = part.cells[i], trained[i]
        fold = part.folds[fold_number]
        posteriors, ratings = part.answers(one, own)
        made.append(
            Outcome(
                head=part.name,
                fold=fold.name,
                seed=one.run.seed,
                rows=fold.test,
                posteriors=posteriors,
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
