"""The parts of prepared experiments: the states they read, and for each member its runs and what they follow from."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch

from mmser.heads import HEADS
from mmser.heads.batch import Inputs
from mmser.train.features import load_table, resident_bytes
from mmser.train.folder import streams_of
from mmser.train.grid import run_name, trials_of
from mmser.train.lexicon import weighed
from mmser.train.memory import check_room
from mmser.train.part import Part
from mmser.train.plan import Run
from mmser.train.prepare import Prepared, means_held
from mmser.train.table import Table
from mmser.train.targets import Targets

_LESS = "read one --layer (and --text-layer), or a granularity with fewer states, or take a --device with more memory"


def read_states(
    prepared: Sequence[Prepared], device: torch.device, rows: Sequence[int] | None = None
) -> tuple[Table, list[int]]:
    """The states that experiments of one shape read, once for all of them, and the speech layers among them.

    Args:
        prepared: the experiments.
        device: where the states are to lie.
        rows: of the chosen utterances, these alone; None: all.

    Raises:
        ProtocolError: the device's memory cannot hold them.
    """
    first = prepared[0]
    layers = list(dict.fromkeys(layer for one in prepared for layer in one.layers))
    chosen = range(len(first.chosen.ids)) if rows is None else rows
    ids = [first.chosen.ids[row] for row in chosen]
    per_speaker = first.experiment.normalise == "speaker"
    held = resident_bytes(first.sources, ids, len(layers), len(first.text_layers), means_held(first), twice=per_speaker)
    check_room(held, device, f"states of {len(ids)} utterances to hold in memory", _LESS)
    table = load_table(first.sources, ids, layers, first.text_layers, device)
    if first.lexicon is not None:
        table = weighed(table, [first.texts[row] for row in chosen], first.lexicon)
    if per_speaker:
        table = table.normalised_per_speaker([first.chosen.speakers[row] for row in chosen])
    return table, layers


def part_of(one: Prepared, number: int, table: Table, inputs: Inputs, layers: Sequence[int]) -> Part:
    """A member of an experiment, ready to train.

    Args:
        one: the experiment.
        number: the member's.
        table: what it reads of the states of :func:`read_states`, of all chosen utterances.
        inputs: the sizes of that (:func:`inputs_of`): the same for all experiments of one shape, as the table.
        layers: the speech layers in the states.
    """
    member, experiment, chosen = one.members[number], one.experiment, one.chosen
    about: dict[str, Any] = {
        "labels": list(chosen.labels),
        "dimensions": list(chosen.dimensions),
        "granularity": "+".join(member.granularities),
        "normalise": experiment.normalise,
        "streams": streams_of(one.sources),
    }
    hears = HEADS[member.head].needs_speech
    if hears:
        about["speech_layers_of_encoder"] = list(one.layers)
    if HEADS[member.head].reads_text(one.options[number]):
        about["text_layers_of_encoder"] = list(one.text_layers)
    targets = Targets(
        torch.from_numpy(chosen.truth), torch.from_numpy(chosen.shares), torch.from_numpy(chosen.ratings).float()
    )
    trials = trials_of(experiment, hears=hears)
    cells, runs = runs_of(one, number, layers)
    build = partial(HEADS[member.head].build, inputs, targets.num_outputs, one.options[number])
    digests = digests_of(one, number, cells, runs)
    return Part(member.name, table, targets, build, about, chosen.folds, trials, cells, runs, digests)


def inputs_of(one: Prepared, number: int, table: Table) -> tuple[Table, Inputs]:
    """What a member reads of a table, and the sizes of that."""
    member, options, kind = one.members[number], one.options[number], HEADS[one.members[number].head]
    heard = member.granularities if kind.needs_speech else ()
    own = table.only(heard, text=kind.reads_text(options), mel=kind.reads_mel(options), links=kind.links(options))
    if kind.reads_means(options):
        own = own.means()
    return own, Inputs(
        speech_dim=own.speech[heard[0]].values.shape[2] if heard else 0,
        text_dim=own.text.values.shape[2] if own.text is not None else 0,
        granularities=tuple(own.speech),
        speech_layers=len(one.layers) if heard and not one.experiment.try_layers else 1,
        mel_dim=own.mel.values.shape[2] if own.mel is not None else 0,
        text_layers=len(one.text_layers) if own.text is not None else 1,
    )


def runs_of(one: Prepared, number: int, layers: Sequence[int]) -> tuple[list[tuple[int, int]], list[Run]]:
    """Fold and trial of each run of a member, and the run; ``layers`` are those of the table."""
    member, experiment, chosen = one.members[number], one.experiment, one.chosen
    hears = HEADS[member.head].needs_speech
    trials = trials_of(experiment, hears=hears)
    # The only layer of this experiment, where others beside it read other ones.
    only = layers.index(one.layers[0]) if hears and len(one.layers) == 1 < len(layers) else None
    numbered = [
        (fold, trial, seed)
        for fold in range(len(chosen.folds))
        for trial in range(len(trials))
        for seed in range(experiment.seeds)
    ]
    runs = [
        Run(
            name=run_name(member.name, fold, seed, trial, len(trials)),
            train_rows=chosen.folds[fold].train,
            dev_rows=chosen.folds[fold].dev,
            seed=seed,
            layer=only if trials[trial].layer is None else trials[trial].layer,
            learning_rate=trials[trial].learning_rate,
            weight_decay=trials[trial].weight_decay,
        )
        for fold, trial, seed in numbered
    ]
    return [(fold, trial) for fold, trial, _ in numbered], runs


def digests_of(one: Prepared, number: int, cells: Sequence[tuple[int, int]], runs: Sequence[Run]) -> list[str]:
    """For each run of a member, a digest of all that its weights follow from: equal where they would be the same.

    What a run never sees (other utterances' targets, the test part) is not in it.
    """
    hears = HEADS[one.members[number].head].needs_speech
    trials = trials_of(one.experiment, hears=hears)
    of_all, chosen, found = _of_all_runs(one, number), one.chosen, []
    for (_, trial), run in zip(cells, runs, strict=True):
        tried = trials[trial].layer
        layers = (one.layers if tried is None else [one.layers[tried]]) if hears else []
        digest = hashlib.sha256(json.dumps([of_all, layers, run.seed, run.learning_rate, run.weight_decay]).encode())
        for rows in (run.train_rows, run.dev_rows):
            for array in (rows, chosen.truth[rows], chosen.shares[rows], chosen.ratings[rows]):
                digest.update(hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest())
        found.append(digest.hexdigest()[:32])
    return found


def _of_all_runs(one: Prepared, number: int) -> dict[str, Any]:
    """What the weights of all runs of a member follow from, whatever else the experiment holds."""
    member, experiment, kind = one.members[number], one.experiment, HEADS[one.members[number].head]
    sources, options = one.sources, one.options[number]
    read = {name: sources.speech[name] for name in member.granularities} if kind.needs_speech else {}
    beside = {
        "text": sources.text if kind.reads_text(options) else None,
        "mel": sources.mel if kind.reads_mel(options) else None,
        "align": sources.align if kind.links(options) else None,
    }
    read |= {name: stream for name, stream in beside.items() if stream is not None}
    training, rows = asdict(experiment.training), one.chosen.digests()
    del training["memory_gb"]  # how many train at once changes nothing
    return {
        "head": member.head,
        "options": asdict(options),
        "training": training,
        "normalise": experiment.normalise,
        "text_layer": one.text_layers if kind.reads_text(options) else None,
        "states": {name: [stream.name, [shard.name for shard in stream.shards]] for name, stream in read.items()},
        "lexicon": one.lexicon.digest if one.lexicon is not None and "lexicon" in kind.links(options) else None,
        "utterances": rows["utterances"],
        "speakers": rows["speakers"] if experiment.normalise == "speaker" else None,
    }
