"""One experiment, from a cache to a run folder: choose utterances, make folds, train every fold and seed, test once."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmser.cache import Cache
from mmser.errors import ProtocolError
from mmser.heads import HEADS
from mmser.heads.batch import Inputs
from mmser.heads.store import save_head
from mmser.train.choose import Chosen, choose
from mmser.train.engine import train
from mmser.train.evaluate import posteriors
from mmser.train.features import MIX, Sources, load_table, open_sources, speech_layers
from mmser.train.folder import facts_of, load_trained, settle_folder, write_csv, write_json
from mmser.train.members import FUSIONS, Member, head_options, members_of
from mmser.train.options import Experiment
from mmser.train.plan import Run, Trained
from mmser.train.protocol import Fold
from mmser.train.results import Line, Outcome, folds_table, predictions_table, summarise
from mmser.train.table import Table
from mmser.train.targets import Targets

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
class _Part:
    """A head of the experiment, ready to train on its folds and seeds."""

    name: str
    table: Table
    """The streams that it reads."""
    build: Callable[[], torch.nn.Module]
    about: dict[str, Any]
    """What a user of the saved head must know."""
    cells: list[tuple[Fold, int]]
    """Fold and seed of each run."""
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
        ProtocolError: folds, labels or options do not allow it; the folder holds another experiment.
    """
    cache = Cache(cache_path)
    members = members_of(experiment)
    options = [head_options(experiment, member.head) for member in members]
    sources = _sources(cache, members, experiment)
    manifest = cache.manifest
    chosen = choose(manifest, sources.without(manifest.ids), experiment)
    layers = speech_layers(sources, experiment.layer) if sources.speech else []
    device = _device(experiment.device)
    settle_folder(folder, experiment, cache, sources, chosen)
    table = load_table(sources, chosen.ids, layers, experiment.text_layer, device)
    if experiment.normalise == "speaker":
        table = table.normalised_per_speaker(chosen.speakers)
    outcomes: list[Outcome] = []
    for member, own in zip(members, options, strict=True):
        part = _prepare(member, own, experiment, table, chosen, layers)
        outcomes += _test(part, _train(part, experiment, chosen, folder, report), experiment)
    notes = [*chosen.notes, *_diverged(outcomes)]
    if experiment.head in FUSIONS:
        outcomes += _fuse(experiment.head, outcomes)
    return _conclude(folder, outcomes, chosen, notes)


def _sources(cache: Cache, members: Sequence[Member], experiment: Experiment) -> Sources:
    heard = [member.granularity for member in members if HEADS[member.head].needs_speech]
    return open_sources(
        cache,
        list(dict.fromkeys(heard)),
        text=any(HEADS[member.head].needs_text for member in members),
        speech_stream=experiment.speech_stream,
        text_stream=experiment.text_stream,
    )


def _prepare(
    member: Member, options: Any, experiment: Experiment, table: Table, chosen: Chosen, layers: Sequence[int]
) -> _Part:
    kind = HEADS[member.head]
    own = table.only([member.granularity] if kind.needs_speech else [], text=kind.needs_text)
    inputs = Inputs(
        speech_dim=own.speech[member.granularity].values.shape[2] if kind.needs_speech else 0,
        text_dim=own.text.values.shape[2] if own.text is not None else 0,
        granularities=tuple(own.speech),
        speech_layers=len(layers) if experiment.layer == MIX and kind.needs_speech else 1,
    )
    about = {
        "labels": list(chosen.labels),
        "granularity": member.granularity,
        "speech_layers_of_encoder": list(layers) if kind.needs_speech else [],
        "text_layer": experiment.text_layer,
        "normalise": experiment.normalise,
    }
    numbered = [(number, seed) for number in range(len(chosen.folds)) for seed in range(experiment.seeds)]
    runs = [
        Run(
            # A folder's name, so from numbers: a fold's own name comes from the user's table.
            name=f"{member.name}-fold{number}-seed{seed}",
            train_rows=chosen.folds[number].train,
            dev_rows=chosen.folds[number].dev,
            seed=seed,
            learning_rate=experiment.learning_rate,
            weight_decay=experiment.weight_decay,
        )
        for number, seed in numbered
    ]
    cells = [(chosen.folds[number], seed) for number, seed in numbered]
    return _Part(member.name, own, lambda: kind.build(inputs, len(chosen.labels), options), about, cells, runs)


def _train(part: _Part, experiment: Experiment, chosen: Chosen, folder: Path, report: Report) -> list[Trained]:
    """Train the runs that are not finished yet, each kept in the folder as soon as it is done."""
    finished = {i: trained for i, run in enumerate(part.runs) if (trained := load_trained(folder, run)) is not None}
    missing = [i for i in range(len(part.runs)) if i not in finished]

    def keep(place: int, trained: Trained) -> None:
        fold, seed = part.cells[missing[place]]
        head = part.build()
        head.load_state_dict(trained.state)
        facts = {"fold": fold.name, "seed": seed, **facts_of(trained)}
        save_head(head, folder / "heads" / trained.run.name, {**part.about, **facts})

    # What speakers' statistics leave to standardise (text, which they do not touch), the training part's do.
    normalise = "none" if experiment.normalise == "none" else "global"
    new = train(
        part.table,
        Targets.of_classes(torch.from_numpy(chosen.truth), len(chosen.labels)),
        part.build,
        [part.runs[i] for i in missing],
        replace(experiment.training, normalise=normalise),
        progress=lambda done, total: report(part.name, done, total),
        finished=keep,
    )
    finished |= dict(zip(missing, new, strict=True))
    return [finished[i] for i in range(len(part.runs))]


def _test(part: _Part, trained: Sequence[Trained], experiment: Experiment) -> list[Outcome]:
    """Open the test parts, once."""
    size = experiment.training.batch_size
    answers = posteriors(part.table, part.build, trained, [fold.test for fold, _ in part.cells], batch_size=size)
    return [
        Outcome(
            head=part.name,
            fold=fold.name,
            seed=seed,
            rows=fold.test,
            posteriors=answer,
            num_train=len(fold.train),
            num_dev=len(fold.dev),
            best_epoch=one.best_epoch,
            dev_ua=one.dev_score,
            diverged=one.diverged,
        )
        for (fold, seed), one, answer in zip(part.cells, trained, answers, strict=True)
    ]


def _fuse(name: str, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Late fusion: the mean of the members' posteriors, fold by fold and seed by seed."""
    fused = []
    for fold, seed in dict.fromkeys((o.fold, o.seed) for o in outcomes):
        members = [o for o in outcomes if (o.fold, o.seed) == (fold, seed)]
        assert all(np.array_equal(m.rows, members[0].rows) for m in members)
        mean = np.mean([m.posteriors for m in members], axis=0)
        diverged = any(m.diverged for m in members)
        fused.append(replace(members[0], head=name, posteriors=mean, best_epoch=None, dev_ua=None, diverged=diverged))
    return fused


def _conclude(folder: Path, outcomes: Sequence[Outcome], chosen: Chosen, notes: Sequence[str]) -> Result:
    """Write the tables, and sum up."""
    predictions = predictions_table(outcomes, chosen.ids, chosen.speakers, chosen.truth, chosen.labels)
    write_csv(predictions, folder / "predictions.csv")
    write_csv(folds_table(outcomes, chosen.truth), folder / "results.csv")
    lines = summarise(outcomes, chosen.truth, chosen.speakers, chosen.ids)
    summary = {"lines": [asdict(line) for line in lines], "left_out": chosen.left_out, "notes": list(notes)}
    write_json(folder / "summary.json", summary)
    return Result(folder, lines, chosen.labels, len(chosen.ids), chosen.left_out, tuple(notes))


def _diverged(outcomes: Sequence[Outcome]) -> list[str]:
    runs, diverged = Counter(o.head for o in outcomes), Counter(o.head for o in outcomes if o.diverged)
    return [
        f"{count} of {runs[head]} runs of {head} diverged (a loss that is not finite) and count as they were at their "
        "best epoch before; try a lower --learning-rate"
        for head, count in diverged.items()
    ]


def _device(asked: str) -> torch.device:
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=torch.device(asked))
    except (RuntimeError, AssertionError) as error:  # torch raises either where a device is missing
        raise ProtocolError(f"device {asked!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return torch.device(asked)
