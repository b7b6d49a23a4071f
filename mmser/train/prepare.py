"""An experiment opened on a cache: its heads, their streams, utterances and folds; then, with states, its parts."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmser.cache import Cache
from mmser.errors import ProtocolError
from mmser.heads import HEADS
from mmser.heads.batch import Inputs
from mmser.train.choose import Chosen, choose
from mmser.train.features import Sources, load_table, open_sources
from mmser.train.folder import streams_of
from mmser.train.grid import run_name, trials_of
from mmser.train.layers import MIX, speech_layers, text_layer_of
from mmser.train.lexicon import Lexicon, read_lexicon, transcripts, weighed
from mmser.train.members import Member, check_words, head_options, members_of, settled
from mmser.train.options import Experiment
from mmser.train.part import Part
from mmser.train.plan import Run
from mmser.train.required import without_required
from mmser.train.table import Table
from mmser.train.targets import Targets


@dataclass(frozen=True, eq=False)
class Prepared:
    """An experiment that a cache can serve; no states are read yet."""

    experiment: Experiment
    members: list[Member]
    options: list[Any]
    """Of each member."""
    sources: Sources
    chosen: Chosen
    kept: dict[str, int]
    """Utterances that lack some states and are kept all the same, counted by reason."""
    layers: list[int]
    """Speech layers that it reads, as the encoder numbers them; empty where no head hears."""
    lexicon: Lexicon | None = None
    """Where a member takes one as its prior over words."""
    texts: tuple[str, ...] = ()
    """Transcripts of the chosen utterances, where there is a lexicon."""


def shape_of(experiment: Experiment) -> Experiment:
    """What experiments that train as one have in common: all but layer, learning rate, weight decay and seeds.

    A mix of layers is a head of another shape, and a choice among layers is not a layer.

    >>> shape_of(Experiment(layer="9", seeds=5)) == shape_of(Experiment(layer="-1", learning_rate=0.1))
    True
    >>> shape_of(Experiment(layer="9")) == shape_of(Experiment(layer="mix"))
    False
    """
    default = Experiment()
    single = "," not in experiment.layer and experiment.layer != MIX
    return replace(
        experiment,
        layer="one" if single and not experiment.try_layers else experiment.layer,
        seeds=default.seeds,
        learning_rate=default.learning_rate,
        weight_decay=default.weight_decay,
    )


def prepare(cache: Cache, experiments: Sequence[Experiment]) -> list[Prepared]:
    """Open what experiments of one shape read, and choose and divide the utterances, once for all of them.

    Raises:
        CacheError: the cache, or what a head reads, is not there.
        ManifestError: the cache's manifest has no such column.
        ProtocolError: folds, labels, layers or options do not allow it.
    """
    experiments = [settled(one) for one in experiments]
    first = experiments[0]
    assert all(shape_of(one) == shape_of(first) for one in experiments), "train experiments of other shapes apart"
    members = members_of(first)
    options = [head_options(first, member) for member in members]
    sources = _sources(cache, members, options, first)
    check_words(members, options)
    manifest = cache.manifest
    lacking = sources.without(manifest.ids)
    blind = sources.blind(manifest.ids) if first.missing == "keep" else set(lacking)
    unseen = {uid: reason for uid, reason in lacking.items() if uid in blind}
    chosen = choose(manifest, {**unseen, **without_required(cache, first, manifest.ids)}, first)
    _check_known(chosen)
    kept = dict(Counter(lacking[uid] for uid in chosen.ids if uid in lacking))
    layers = [_layers(sources, one) if sources.speech else [] for one in experiments]
    _check_widths(sources, members)
    if sources.text is not None:
        text_layer_of(sources.text, first.text_layer)
    lexicon = _lexicon(first, members, options)
    texts = () if lexicon is None else transcripts(manifest, chosen.ids, sources)
    return [
        Prepared(one, members, options, sources, chosen, kept, own, lexicon, texts)
        for one, own in zip(experiments, layers, strict=True)
    ]


def _check_widths(sources: Sources, members: Sequence[Member]) -> None:
    """A head has one projection for speech, so what it hears must be of one width."""
    for member in members:
        heard = member.granularities if HEADS[member.head].needs_speech else ()
        widths = {name: sources.speech[name].columns(name)["states"].dim for name in heard}
        if len(set(widths.values())) > 1:
            told = ", ".join(f"{name} {width}" for name, width in widths.items())
            raise ProtocolError(
                f"{member.head}: its granularities are of unequal width ({told}), as where some were pooled to means "
                "and deviations; expected one: extract with --pooling mean, or name granularities that are alike"
            )


def _check_known(chosen: Chosen) -> None:
    """Every part that is learnt from, or chosen by, must know enough ratings of every dimension; so must all tests."""
    tested = np.concatenate([fold.test for fold in chosen.folds])
    if chosen.labels and not (chosen.truth[tested] >= 0).any():
        raise ProtocolError(
            f"none of the {len(tested)} test utterances has a class; expected some, to test by: choose other folds, or "
            "--task dimensional"
        )
    for dimension, count in zip(chosen.dimensions, (~np.isnan(chosen.ratings[tested])).sum(0).tolist(), strict=True):
        if count < 2:
            raise ProtocolError(
                f"column {dimension!r} rates {count} of the {len(tested)} test utterances; expected 2 or more, for its "
                "CCC: leave it out of --dimensions, or choose other folds"
            )
    for fold in chosen.folds:
        for part, rows in {"train": fold.train, "dev": fold.dev}.items():
            counts = (~np.isnan(chosen.ratings[rows])).sum(0)
            for dimension, count in zip(chosen.dimensions, counts.tolist(), strict=True):
                if count < 2:
                    raise ProtocolError(
                        f"column {dimension!r} rates {count} of the {len(rows)} {part} utterances of fold "
                        f"{fold.name!r}; expected 2 or more, for its CCC: leave it out of --dimensions, or take other "
                        "folds"
                    )


def _lexicon(experiment: Experiment, members: Sequence[Member], options: Sequence[Any]) -> Lexicon | None:
    asked = any("lexicon" in HEADS[one.head].links(own) for one, own in zip(members, options, strict=True))
    if asked and not experiment.lexicon:
        raise ProtocolError("prior=lexicon: no lexicon is named; give --lexicon FILE, a table of word and weight")
    if experiment.lexicon and not asked:
        raise ProtocolError(
            f"--lexicon {experiment.lexicon}: no head here reads one; bayesian-coattention does, with prior=lexicon"
        )
    return read_lexicon(Path(experiment.lexicon)) if asked else None


def _sources(cache: Cache, members: Sequence[Member], options: Sequence[Any], experiment: Experiment) -> Sources:
    heard = [name for member in members if HEADS[member.head].needs_speech for name in member.granularities]
    return open_sources(
        cache,
        list(dict.fromkeys(heard)),
        text=any(HEADS[member.head].reads_text(own) for member, own in zip(members, options, strict=True)),
        mel=any(HEADS[member.head].reads_mel(own) for member, own in zip(members, options, strict=True)),
        speech_stream=experiment.speech_stream,
        text_stream=experiment.text_stream,
        mel_stream=experiment.mel_stream,
        linked=any(HEADS[member.head].links(own) for member, own in zip(members, options, strict=True)),
    )


def _layers(sources: Sources, experiment: Experiment) -> list[int]:
    """The encoder layers to read: those of ``layer``, or one for each that is to be tried."""
    first = next(iter(sources.speech.values()))
    if not experiment.try_layers:
        return speech_layers(first, experiment.layer)
    if MIX in experiment.try_layers:
        raise ProtocolError(f"--try-layers takes numbers; {MIX} is a head of another shape: train it apart")
    several = [asked for asked in experiment.try_layers if "," in asked]
    if several:
        raise ProtocolError(f"--try-layers: {several[0]!r} are several layers; expected an entry for each")
    layers = [layer for asked in experiment.try_layers for layer in speech_layers(first, asked)]
    if len(set(layers)) < len(layers):
        raise ProtocolError(f"--try-layers {','.join(experiment.try_layers)}: a layer is named twice")
    return layers


def read_states(
    prepared: Sequence[Prepared], device: torch.device, rows: Sequence[int] | None = None
) -> tuple[Table, list[int]]:
    """The states that experiments of one shape read, once for all of them, and the speech layers among them.

    Args:
        prepared: the experiments.
        device: where the states are to lie.
        rows: of the chosen utterances, these alone; None: all.
    """
    first = prepared[0]
    layers = list(dict.fromkeys(layer for one in prepared for layer in one.layers))
    chosen = range(len(first.chosen.ids)) if rows is None else rows
    ids = [first.chosen.ids[row] for row in chosen]
    table = load_table(first.sources, ids, layers, first.experiment.text_layer, device)
    if first.lexicon is not None:
        table = weighed(table, [first.texts[row] for row in chosen], first.lexicon)
    if first.experiment.normalise == "speaker":
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
        "text_layer": experiment.text_layer,
        "normalise": experiment.normalise,
        "streams": streams_of(one.sources),
    }
    hears = HEADS[member.head].needs_speech
    if hears:
        about["speech_layers_of_encoder"] = list(one.layers)
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
        "text_layer": experiment.text_layer if kind.reads_text(options) else None,
        "states": {name: [stream.name, [shard.name for shard in stream.shards]] for name, stream in read.items()},
        "lexicon": one.lexicon.digest if one.lexicon is not None and "lexicon" in kind.links(options) else None,
        "utterances": rows["utterances"],
        "speakers": rows["speakers"] if experiment.normalise == "speaker" else None,
    }


def means_held(one: Prepared) -> list[str]:
    """The granularities, ``token`` included, of which the members hold means: once for each that reads no more."""
    found: list[str] = []
    for member, options in zip(one.members, one.options, strict=True):
        kind = HEADS[member.head]
        if kind.reads_means(options):
            found += member.granularities if kind.needs_speech else ()
            found += ["token"] if kind.reads_text(options) else []
    return found


def device_of(asked: str) -> torch.device:
    """The device that is meant by its name or ``auto``.

    Raises:
        ProtocolError: it is not there.
    """
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=torch.device(asked))
    except (RuntimeError, AssertionError) as error:  # torch raises either where a device is missing
        raise ProtocolError(f"device {asked!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return torch.device(asked)
