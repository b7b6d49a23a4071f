"""An experiment opened on a cache, before any states are read: its heads, their streams, utterances and folds."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmser.cache import Cache
from mmser.errors import ProtocolError
from mmser.heads import HEADS
from mmser.train.choose import Chosen, choose
from mmser.train.features import Sources, open_sources
from mmser.train.layers import MIX, TEXT_OPTION, layers_of
from mmser.train.lexicon import Lexicon, read_lexicon, transcripts
from mmser.train.members import Member, check_words, head_options, members_of, settled
from mmser.train.options import Experiment
from mmser.train.required import without_required


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
    text_layers: list[int]
    """Likewise of text."""
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
    text_layers = [] if sources.text is None else layers_of(sources.text, first.text_layer, TEXT_OPTION)
    lexicon = _lexicon(first, members, options)
    texts = () if lexicon is None else transcripts(manifest, chosen.ids, sources)
    return [
        Prepared(one, members, options, sources, chosen, kept, own, text_layers, lexicon, texts)
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
        return layers_of(first, experiment.layer)
    if MIX in experiment.try_layers:
        raise ProtocolError(f"--try-layers takes numbers; {MIX} is a head of another shape: train it apart")
    several = [asked for asked in experiment.try_layers if "," in asked]
    if several:
        raise ProtocolError(f"--try-layers: {several[0]!r} are several layers; expected an entry for each")
    layers = [layer for asked in experiment.try_layers for layer in layers_of(first, asked)]
    if len(set(layers)) < len(layers):
        raise ProtocolError(f"--try-layers {','.join(experiment.try_layers)}: a layer is named twice")
    return layers


def means_held(one: Prepared) -> list[str]:
    """The granularities, ``token`` included, of which the members hold means: once for each that reads no more."""
    found: list[str] = []
    for member, options in zip(one.members, one.options, strict=True):
        kind = HEADS[member.head]
        if kind.reads_means(options):
            found += member.granularities if kind.needs_speech else ()
            found += ["token"] if kind.reads_text(options) else []
    return found
