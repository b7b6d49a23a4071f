"""The late fusions of an experiment: fold by fold and seed by seed, from its members' answers or their features."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmser.heads import HEADS
from mmser.heads.batch import Inputs
from mmser.heads.speech_probe import SpeechProbeOptions
from mmser.train.evaluate import by_length, posteriors
from mmser.train.fusion import fit_fusion, save_fusion
from mmser.train.grid import trials_of
from mmser.train.options import Experiment
from mmser.train.part import Part, Tested
from mmser.train.plan import Run, Trained
from mmser.train.results import Outcome
from mmser.train.stack import restored_head
from mmser.train.table import Packed, Table


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
    """Combine the members' posteriors by a rule fitted on their dev posteriors, and keep it in ``folder/fusions``.

    Raises:
        ProtocolError: a dev part that the rule cannot be fitted on.
    """
    size, names = experiment.training.batch_size, [one.part.name for one in members]
    dev = [_dev_posteriors(one, size) for one in members]
    fused = []
    for place, own in enumerate(zip(*(one.outcomes for one in members), strict=True)):
        part, number = members[0].part, members[0].folds[place]
        truth = part.targets.classes.numpy()[part.folds[number].dev]
        told = truth >= 0
        of_dev = np.stack([answers[place][told] for answers in dev])
        where = f"fold {own[0].fold}, seed {own[0].seed}"
        fusion = fit_fusion(experiment.fusion, of_dev, truth[told], where)
        path = folder / "fusions" / f"fold{number}-seed{own[0].seed}.safetensors"
        save_fusion(path, fusion, names, part.about["labels"])
        fused.append(_fused(experiment.head, own, fusion(np.stack([one.posteriors for one in own])), None))
    return fused


def _dev_posteriors(member: Tested, batch_size: int) -> list[NDArray[np.float32]]:
    part = member.part
    rows = [part.folds[number].dev for number in member.folds]
    return posteriors(part.table, part.build, member.trained, rows, batch_size=batch_size)


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


def concatenated(experiment: Experiment, members: Sequence[Tested]) -> Part:
    """A linear layer on what the members' own last layers see, as a head of its own to train.

    Each fold and seed has features of its own, from the weights that its members were best with; they are the "layers"
    of one table, so that all runs still train together. Members saw the training part only and were selected on dev,
    and so is the layer.
    """
    first, size = members[0], experiment.training.batch_size
    features = torch.stack(
        [
            torch.cat([_features(one.part, one.trained[place], size) for one in members], -1)
            for place in range(len(first.folds))
        ]
    )
    _, num_rows, dim = features.shape
    offsets = torch.arange(num_rows + 1, device=features.device)
    table = Table(first.part.table.ids, {"utterance": Packed(features, offsets)})
    inputs = Inputs(speech_dim=dim, text_dim=0, granularities=("utterance",))
    trials = trials_of(experiment, hears=False)
    cells, runs = [], []
    for trial_number, trial in enumerate(trials):
        for place, (number, trained) in enumerate(zip(first.folds, first.trained, strict=True)):
            cells.append((number, trial_number))
            named = f"{experiment.head}-fold{number}-seed{trained.run.seed}"
            runs.append(
                Run(
                    name=named + (f"-trial{trial_number}" if len(trials) > 1 else ""),
                    train_rows=trained.run.train_rows,
                    dev_rows=trained.run.dev_rows,
                    seed=trained.run.seed,
                    layer=place,
                    learning_rate=trial.learning_rate,
                    weight_decay=trial.weight_decay,
                )
            )
    about = {name: first.part.about[name] for name in ("labels", "dimensions")}
    return Part(
        name=experiment.head,
        table=table,
        targets=first.part.targets,
        build=partial(
            HEADS["speech-probe"].build, inputs, first.part.targets.num_outputs, SpeechProbeOptions(hidden=0)
        ),
        about={**about, "features_of": [one.part.name for one in members]},
        folds=first.part.folds,
        trials=trials,
        cells=cells,
        runs=runs,
    )


@torch.no_grad()
def _features(part: Part, trained: Trained, batch_size: int) -> Tensor:
    """What the last layer of a trained head sees of every utterance of its table: (n, F) on the device."""
    head = restored_head(part.build, trained.state).to(part.table.device).eval()
    rows = torch.from_numpy(by_length(part.table, np.arange(len(part.table.ids))))
    layer = None if trained.run.layer is None else torch.tensor([trained.run.layer])
    found: list[Tensor] = []
    for some in rows.split(batch_size):
        found.append(head.features(part.table.batch(some, layer)))  # type: ignore[operator]
    return torch.cat(found)[torch.argsort(rows).to(part.table.device)]
