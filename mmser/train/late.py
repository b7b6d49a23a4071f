"""The late fusions of an experiment: fold by fold and seed by seed, from its members' answers or their features."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmser.errors import ProtocolError
from mmser.heads import HEADS
from mmser.heads.batch import Inputs
from mmser.heads.speech_probe import SpeechProbeOptions
from mmser.train.crops import whole_batches
from mmser.train.evaluate import by_length
from mmser.train.fusion import Fusion, fit_fusion, save_fusion
from mmser.train.grid import Trial, run_name, trials_of
from mmser.train.members import FUSIONS
from mmser.train.memory import check_room
from mmser.train.options import Experiment
from mmser.train.packed import Packed
from mmser.train.part import Part, Tested
from mmser.train.plan import Run
from mmser.train.rating_fusion import fit_rating_fusion
from mmser.train.results import Outcome
from mmser.train.stack import restored_head
from mmser.train.table import Table

_APART = "have fewer --seeds, or another --fusion, which holds answers alone"

_Answers = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Posteriors (n, C) and ratings (n, K) of a head's dev part."""


def averaged(name: str, members: Sequence[Sequence[Outcome]]) -> list[Outcome]:
    """The mean of the members' posteriors and of their ratings.

    Args:
        name: of the fusion.
        members: each one's answers, in the same order of folds and seeds.
    """
    fused = []
    for own in zip(*members, strict=True):
        rated = [one.ratings for one in own if one.ratings is not None]
        ratings = np.mean(rated, axis=0) if rated else None
        fused.append(_fused(name, own, np.mean([one.posteriors for one in own], axis=0), ratings))
    return fused


def fitted(experiment: Experiment, members: Sequence[Tested], folder: Path) -> list[Outcome]:
    """Combine the members' answers by a rule fitted on their dev answers, and keep it in ``folder/fusions``.

    Raises:
        ProtocolError: a dev part that the rule cannot be fitted on, or a member whose answers about it are no numbers.
    """
    dev = [_dev_answers(one, experiment) for one in members]
    part, kept, fused = members[0].part, folder / "fusions", []
    names, labels, dimensions = [one.part.name for one in members], part.about["labels"], part.about["dimensions"]
    for place, own in enumerate(zip(*(one.outcomes for one in members), strict=True)):
        first, number = own[0], members[0].folds[place]
        shares, ratings = first.posteriors, None
        of_classes, of_ratings = _fit(experiment, part, number, [answers[place] for answers in dev], first)
        if of_classes is not None:
            save_fusion(kept / f"fold{number}-seed{first.seed}.safetensors", of_classes, names, labels)
            shares = of_classes(np.stack([one.posteriors for one in own]))
        if of_ratings is not None:
            save_fusion(kept / f"fold{number}-seed{first.seed}-ratings.safetensors", of_ratings, names, dimensions)
            ratings = of_ratings(np.stack([one.ratings for one in own if one.ratings is not None]))
        one = _fused(experiment.head, own, shares, ratings)
        fused.append(replace(one, are_probabilities=of_classes is None or of_classes.gives_probabilities))
    return fused


def _fit(
    experiment: Experiment, part: Part, number: int, dev: Sequence[_Answers], first: Outcome
) -> tuple[Fusion | None, Fusion | None]:
    """The fusions of classes and of ratings of one fold and seed, where there are any."""
    rule, rows = experiment.fusion, part.folds[number].dev
    of_classes, of_ratings = None, None
    if experiment.has_classes:
        truth = part.targets.classes.numpy()[rows]
        told = truth >= 0
        shares = np.stack([posteriors[told] for posteriors, _ in dev])
        of_classes = fit_fusion(rule, shares, truth[told], f"fold {first.fold}, seed {first.seed}")
    if experiment.has_ratings:
        rated = np.stack([ratings for _, ratings in dev])
        of_ratings = fit_rating_fusion(rule, rated, part.targets.ratings.numpy()[rows])
    return of_classes, of_ratings


def _dev_answers(member: Tested, experiment: Experiment) -> list[_Answers]:
    part = member.part
    rows = [part.folds[number].dev for number in member.folds]
    said = part.ask(member.trained, rows, experiment.training)
    for place, own in enumerate(said):
        _check_numbers(member, place, own, experiment.fusion)
    return [part.answers(trained, own) for trained, own in zip(member.trained, said, strict=True)]


def _check_numbers(member: Tested, place: int, values: Tensor, rule: str) -> None:
    """Raise ProtocolError where what a fusion is to be fitted on holds no numbers.

    Training keeps no such head, but one of an earlier release may be there still, or a head whose very first weights
    are too large for the states.
    """
    wrong = int((~values.isfinite()).any(-1).sum())
    if wrong:
        outcome, run = member.outcomes[place], member.trained[place].run
        raise ProtocolError(
            f"{member.part.name}, fold {outcome.fold}, seed {outcome.seed}: what the head says of {wrong} of "
            f"{len(values)} utterances is no finite number; {rule} fusion cannot be fitted on that. Delete "
            f"heads/{run.name} in the run folder to train it again, or take a lower --learning-rate and another --out"
        )


def _fused(name: str, members: Sequence[Outcome], shares: NDArray, ratings: NDArray | None) -> Outcome:
    first = members[0]
    for one in members:
        assert (one.fold, one.seed) == (first.fold, first.seed)
        assert np.array_equal(one.rows, first.rows)
    return Outcome(
        head=name,
        fold=first.fold,
        seed=first.seed,
        rows=first.rows,
        posteriors=shares,
        num_train=first.num_train,
        num_dev=first.num_dev,
        diverged=any(one.diverged for one in members),
        ratings=ratings,
    )


def without_oracle(experiment: Experiment) -> list[str]:
    """Why a fusion has no oracle figure, where one was asked for and its members alone have one."""
    if not experiment.report_oracle or experiment.head not in FUSIONS or experiment.fusion == "mean":
        return []
    return [
        f"no oracle figure of {experiment.head}: {experiment.fusion} is fitted on what its members say after the epoch "
        "that dev chose, not after the one that the test part would choose; each member has its own"
    ]


def concatenated(experiment: Experiment, members: Sequence[Tested]) -> Part:
    """A linear layer on what the members' own last layers see, as a head of its own to train.

    Each fold and seed has features of its own, from the weights that its members were best with; they are the "layers"
    of one table, so that all runs still train together. Members saw the training part only and were selected on dev,
    and so is the layer.

    Raises:
        ProtocolError: a member whose features are no numbers.
    """
    first = members[0].part
    table = _features_table(members, experiment.training.batch_size)
    inputs = Inputs(speech_dim=table.speech["utterance"].values.shape[2], text_dim=0, granularities=("utterance",))
    options = SpeechProbeOptions(hidden=0)
    trials = trials_of(experiment, hears=False)
    cells, runs, digests = _layer_runs(experiment.head, members, trials)
    about = {name: first.about[name] for name in ("labels", "dimensions")}
    return Part(
        name=experiment.head,
        table=table,
        targets=first.targets,
        build=partial(HEADS["speech-probe"].build, inputs, first.targets.num_outputs, options),
        about={**about, "features_of": [one.part.name for one in members]},
        folds=first.folds,
        trials=trials,
        cells=cells,
        runs=runs,
        digests=digests,
    )


def names_of_own_layers(experiment: Experiment, num_folds: int) -> list[str]:
    """The runs that an experiment trains on what its members see: none but where it is a ``concat`` fusion."""
    if experiment.head not in FUSIONS or experiment.fusion != "concat":
        return []
    num_trials = len(trials_of(experiment, hears=False))
    numbered = product(range(num_folds), range(experiment.seeds), range(num_trials))
    return [run_name(experiment.head, fold, seed, trial, num_trials) for fold, seed, trial in numbered]


def _features_table(members: Sequence[Tested], batch_size: int) -> Table:
    """What the members' last layers see of every utterance: a "layer" for each fold and seed."""
    first = members[0]
    features = torch.empty(0)
    for place in range(len(first.folds)):
        own = torch.cat([_features(one, place, batch_size) for one in members], -1)
        if not place:
            check_room(len(first.folds) * own.nbytes, own.device, f"features of {len(first.folds)} runs", _APART)
            features = own.new_empty(len(first.folds), *own.shape)
        features[place] = own
    offsets = torch.arange(features.shape[1] + 1, device=features.device)
    return Table(first.part.table.ids, {"utterance": Packed(features, offsets)})


def _layer_runs(
    name: str, members: Sequence[Tested], trials: Sequence[Trial]
) -> tuple[list[tuple[int, int]], list[Run], list[str]]:
    """Fold and trial of each run of the fusion's own layer; the run, of its members' rows and seeds; and its digest."""
    first, made_of = members[0], [member.digests for member in members]
    cells, runs, digests = [], [], []
    for trial_number, trial in enumerate(trials):
        for place, (number, trained) in enumerate(zip(first.folds, first.trained, strict=True)):
            cells.append((number, trial_number))
            runs.append(
                replace(
                    trained.run,
                    name=run_name(name, number, trained.run.seed, trial_number, len(trials)),
                    layer=place,
                    learning_rate=trial.learning_rate,
                    weight_decay=trial.weight_decay,
                )
            )
            digests.append(_layer_digest([own[place] for own in made_of], trial))
    return cells, runs, digests


def _layer_digest(made_of: Sequence[str], trial: Trial) -> str:
    """Of all that the layer's weights follow from: the members, which name rows, targets and seed, and its setting."""
    told = json.dumps(["concat", list(made_of), trial.learning_rate, trial.weight_decay])
    return hashlib.sha256(told.encode()).hexdigest()[:32]


@torch.no_grad()
def _features(member: Tested, place: int, batch_size: int) -> Tensor:
    """What the last layer of a trained head sees of every utterance of its table: (n, F) on the device."""
    part, trained = member.part, member.trained[place]
    head = restored_head(part.build, trained.state).to(part.table.device).eval()
    order = by_length(part.table, np.arange(len(part.table.ids)))
    layer = None if trained.run.layer is None else torch.tensor([trained.run.layer])
    found: list[Tensor] = []
    batches = [order[some] for some in whole_batches(part.table, order, batch_size)]
    for rows in batches:
        found.append(head.features(part.table.batch(torch.from_numpy(rows), layer)))  # type: ignore[operator]
    places = torch.from_numpy(np.argsort(np.concatenate(batches)))
    features = torch.cat(found)[places.to(part.table.device)]
    _check_numbers(member, place, features, "concat")
    return features
