"""A stored head of a run, asked about utterances of a cache: classes, ratings, and where it looked."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmser.cache import Cache, Stream
from mmser.errors import ProtocolError
from mmser.heads import Head
from mmser.heads.batch import Batch
from mmser.train.about import About, load_about
from mmser.train.crops import whole_batches
from mmser.train.evaluate import by_length
from mmser.train.features import Sources, load_table, open_sources
from mmser.train.lexicon import LEXICON_FILE, read_lexicon, transcripts, weighed
from mmser.train.links import alignments
from mmser.train.speakers import lone_utterances
from mmser.train.table import Table

_BATCH = 32
"""Utterances at a time."""


@dataclass(frozen=True, eq=False)
class Applied:
    """What a head says of some utterances."""

    ids: list[str]
    """The n utterances, a row each."""
    labels: tuple[str, ...]
    """The C classes; none where the head only rates."""
    posteriors: NDArray[np.float32]
    """(n, C)"""
    dimensions: tuple[str, ...]
    """The K dimensions."""
    ratings: NDArray[np.float32] | None
    """(n, K) on the scale of the corpus that the head was trained on; None where it rates nothing."""
    attention: list[dict[str, NDArray[np.float32]]] | None
    """For each utterance, where the head looked, cut to the utterance's own lengths: ``"word.0.speech_to_text"``
    (heads, T, N) for T words and N tokens, ... (:meth:`mmser.heads.Head.forward_with_attention`). None where it
    was not asked for, or the head has none to show."""
    left_out: dict[str, str]
    """Utterances of the manifest that the head cannot see whole, with the reason; empty where they were named."""


@torch.inference_mode()
def apply(head_folder: Path, cache: Cache, ids: Sequence[str] | None = None, *, attention: bool = False) -> Applied:
    """Ask a stored head about utterances of a cache, on the CPU.

    Of a head that was trained on speech normalised per speaker, speech is normalised by what the utterances asked about
    hold of each speaker: ask about all that there is of a speaker at once.

    Args:
        head_folder: ``heads/<run>`` of a run folder.
        cache: the cache that it was trained on, or one that was made by the same recipes.
        ids: the utterances; None: those of the manifest of which all that the head reads is there. One that is named
            and lacks some of it is answered by the rest.
        attention: also where the head looked.

    Raises:
        MmserError: the head is missing or damaged.
        CacheError: the cache lacks a layer.
        ProtocolError: it lacks a stream, was made by another recipe (says what differs), or knows nothing at all of an
            utterance; a speaker is not known where speech is normalised per speaker.
    """
    head, about = load_about(Path(head_folder))
    sources = sources_of(head, about, cache)
    for stream in sources.streams:
        about.check(stream)
    left_out = sources.without(cache.manifest.ids) if ids is None else {}
    ids = [uid for uid in cache.manifest.ids if uid not in left_out] if ids is None else list(ids)
    blind = sources.blind(ids)
    if blind:
        reasons = sources.without(ids)
        uid = next(uid for uid in ids if uid in blind)
        raise ProtocolError(f"{cache.path}: nothing is known of {len(blind)} utterances: {uid!r} is {reasons[uid]}")
    table = _table(head, about, sources, cache, ids)
    outputs, weights = _answers(head, table, attention=attention)
    num_classes = len(about.labels)
    deviation, mean = (torch.tensor(values) for values in (about.rating_deviation, about.rating_mean))
    return Applied(
        ids=ids,
        labels=about.labels,
        posteriors=outputs[:, :num_classes].softmax(-1).numpy(),
        dimensions=about.dimensions,
        ratings=(outputs[:, num_classes:] * deviation + mean).numpy() if about.dimensions else None,
        attention=weights,
        left_out=left_out,
    )


def unseen_by(head_folder: Path, cache: Cache, ids: Sequence[str]) -> dict[str, str]:
    """Which utterances of a cache a stored head cannot see whole, with the reason.

    Raises:
        MmserError: as :func:`apply`.
    """
    return sources_of(*load_about(Path(head_folder)), cache).without(ids)


def alone_in(head_folder: Path, cache: Cache, ids: Sequence[str]) -> dict[str, str]:
    """Which of some utterances a stored head could only compare with themselves, with the reason.

    A head that was trained on speech normalised per speaker gives all of them the same answer.

    Raises:
        MmserError: as :func:`apply`.
    """
    head, about = load_about(Path(head_folder))
    if not about.by_speaker or not ids:
        return {}
    speakers = cache.manifest.select(ids).column("speaker").tolist()
    lone = lone_utterances(sources_of(head, about, cache), ids, speakers, pooled=about.kind.pools_first)
    return {
        uid: f"no other recording of speaker {speaker!r} has {granularity} states to standardise it by, as the head "
        "needs; give several recordings of a speaker together"
        for uid, speaker in zip(ids, speakers, strict=True)
        if (granularity := lone.get(uid))
    }


def sources_of(head: Head, about: About, cache: Cache) -> Sources:
    """The streams of a cache that a head reads: those that it was trained on, by name, else the only ones there are.

    Raises:
        ProtocolError: there is none, or several would do.
    """
    kind, there = about.kind, cache.stream_names

    def named(*kinds: str) -> str | None:
        return next((name for name in map(about.stream, kinds) if name in there), None)

    speech: dict[str, Stream] = {}
    for granularity in about.granularities:
        name = named("speech" if granularity == "frame" else "pooled", "opensmile")
        speech |= open_sources(cache, [granularity], text=False, speech_stream=name, text_stream=None).speech
    others = open_sources(
        cache,
        [],
        text=kind.reads_text(head.options),
        mel=kind.reads_mel(head.options),
        speech_stream=None,
        text_stream=named("text"),
        mel_stream=named("mel"),
    )
    if not kind.links(head.options):
        return Sources(speech, others.text, others.mel)
    name = named("align")
    return Sources(speech, others.text, others.mel, alignments(cache, speech) if name is None else cache.stream(name))


def _table(head: Head, about: About, sources: Sources, cache: Cache, ids: Sequence[str]) -> Table:
    """What the head reads of the utterances, normalised as it was in training."""
    table = load_table(sources, ids, about.speech_layers, about.text_layers, torch.device("cpu"))
    _check_widths(head, table, cache)
    if about.by_speaker:
        manifest = cache.manifest.select(ids)
        known = "speaker" in manifest.table.columns
        table = table.normalised_per_speaker(manifest.column("speaker").tolist() if known else [""] * len(ids))
    kind, links = about.kind, about.kind.links(head.options)
    if "lexicon" in links:
        # heads/<run> of a run folder, which keeps the weights that its heads were trained with
        path = about.path.parent.parent / LEXICON_FILE
        if not path.exists():
            raise ProtocolError(
                f"{path}: no such file; {about.path} weighs words by an emotion lexicon, which lies in its run folder "
                "and is not published with it: name the head in the run folder, or put the lexicon there"
            )
        table = weighed(table, transcripts(cache.manifest, ids, sources), read_lexicon(path))
    return table.only(
        about.granularities, text=kind.reads_text(head.options), mel=kind.reads_mel(head.options), links=links
    )


def _check_widths(head: Head, table: Table, cache: Cache) -> None:
    """Where recipes are not known, widths still tell that states are of another encoder."""
    inputs = head.inputs
    expected = {"text": inputs.text_dim, "mel": inputs.mel_dim}
    for name, stream in table.streams.items():
        width = stream.values.shape[2]
        if width != expected.get(name, inputs.speech_dim):
            raise ProtocolError(
                f"{cache.path}: {name} states are {width} numbers wide; the head was trained on states of "
                f"{expected.get(name, inputs.speech_dim)}: extract with the encoder that it was trained on"
            )


def _answers(
    head: Head, table: Table, *, attention: bool
) -> tuple[Tensor, list[dict[str, NDArray[np.float32]]] | None]:
    """Outputs (n, C + K), and the weights of each utterance where they are asked for and the head has some."""
    order = by_length(table, np.arange(len(table.ids)))
    places = [order[some] for some in whole_batches(table, order, _BATCH)]
    asked = head if attention and head.attentions() else None
    outputs = torch.empty(len(order), head.num_outputs)
    weights: list[dict[str, NDArray[np.float32]]] = [{} for _ in order]
    for rows in places:
        batch = table.batch(torch.from_numpy(rows))
        if asked is None:
            outputs[rows] = head(batch)
            continue
        outputs[rows], found = asked.forward_with_attention(batch)
        for i, row in enumerate(rows.tolist()):
            weights[row] = {name: _cut(name, value[i], batch, i) for name, value in found.items()}
    return outputs, None if asked is None else weights


def _cut(name: str, weights: Tensor, batch: Batch, place: int) -> NDArray[np.float32]:
    """The weights (heads, asking, asked) of one utterance of a batch without the padding."""
    assert batch.text is not None
    speech, text = (int(own.mask[place].sum()) for own in (batch.speech[name.split(".")[0]], batch.text))
    asking, asked = (speech, text) if name.endswith("speech_to_text") else (text, speech)
    return weights[:, :asking, :asked].numpy().copy()
