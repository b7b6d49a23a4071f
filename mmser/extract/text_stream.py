"""The stream of token states: transcripts in, one state a token and layer out."""

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import torch

from mmser.cache import Column, StreamWriter, stream_folder_name
from mmser.cache.shard_writer import ShardWriter
from mmser.devices import pick_device
from mmser.errors import EncoderError
from mmser.extract.loading import measure_drift, pick_layers
from mmser.extract.options import NONE, TEXT_COLUMN
from mmser.extract.text import TextEncoder, Tokens, load_text_encoder
from mmser.extract.work import DTYPES, ITEMSIZE, SHARD_BYTES, Work, provenance
from mmser.extract.writing import Task, WriterThread, check_storable, fetch, peaks_of
from mmser.transcript import text_digest

BATCH_TOKENS = 4096
"""Padded tokens in a batch."""
SHARD_TOKENS = 16_384
"""Tokens in a shard at most, so that memory does not grow with the corpus: 25 MB of one layer of BERT."""
DRIFT_TRANSCRIPTS = 32
"""The manifest's first, on which lower precision is compared with float32."""
_COLUMNS = ("token_id", "start", "end", "word")


def load_text(work: Work) -> tuple[TextEncoder, list[int]] | None:
    """The encoder and the layers that were asked for; None where there is nothing to encode."""
    if work.options.text_model == NONE:
        return None
    column = work.options.text_column
    if not work.texts(column):
        what = "text" if column == TEXT_COLUMN else f"text in column {column!r}"
        work.notes.append(f"the manifest has no {what}: no text stream was made")
        return None
    encoder = load_text_encoder(work.options.text_model, pick_device(work.options.device))
    return encoder, pick_layers(work.options.text_layers, encoder.num_layers)


def fill_text(work: Work, encoder: TextEncoder, layers: list[int]) -> None:
    """Encode the transcripts that the stream lacks."""
    options = work.options
    column = options.text_column
    texts, name = work.texts(column), f"text/{stream_folder_name(encoder.name)}"
    made = provenance(encoder.device)
    if options.compute != "float32":
        made["drift"] = _lower(work, encoder, layers)
    recipe = {**encoder.identity(), "layers": layers, "dtype": options.dtype}
    if options.text_column != TEXT_COLUMN:
        name += f"@{stream_folder_name(options.text_column)}"
        recipe["text_column"] = options.text_column
    with StreamWriter(work.cache, name, recipe, made) as writer:
        # of all utterances: a text that is empty now has changed
        redo = work.stale(
            writer.stream, {"text": {uid: text_digest(work.text(uid, column)) for uid in work.utterances}}
        )
        pending = [uid for uid in work.utterances if uid not in writer.stream or uid in set(redo)]
        lengths: dict[str, int] = {}  # tokenized again shard by shard: the tokens of a whole corpus are not held
        for uid in pending:
            try:
                lengths[uid] = len(encoder.tokenize(texts.get(uid, "")).token_id)
            except EncoderError as error:
                work.fail(uid, name, str(error))
        row = len(layers) * encoder.dim * ITEMSIZE[options.dtype]
        units = writer.plan({uid: float(n) for uid, n in lengths.items()}, min(SHARD_TOKENS, SHARD_BYTES / row), redo)
        total = sum(len(unit.utterance_ids) for unit in units)
        num_tokens = sum(lengths[uid] for unit in units for uid in unit.utterance_ids)
        work.announce({name: float(num_tokens * (row + 4 * len(_COLUMNS)))})
        done = 0
        with WriterThread(work) as thread:
            for unit in units:
                items = {uid: encoder.tokenize(texts[uid]) for uid in unit.utterance_ids}
                thread.fill([name], items, partial(_shard, work, writer, encoder, layers, unit.number))
                done += len(items)
                work.report(name, done, total, 0.0)


def _lower(work: Work, encoder: TextEncoder, layers: list[int]) -> str:
    """Lower the encoder's precision, and say what that does to the states of the manifest's first transcripts."""
    probes: list[Tokens] = []
    for text in list(work.texts(work.options.text_column).values())[:DRIFT_TRANSCRIPTS]:
        try:
            probes.append(encoder.tokenize(text))
        except EncoderError:  # too long: named where the stream is filled
            continue
    exact = [encoder.states([tokens], layers)[0][:, 0] for tokens in probes]
    encoder.compute_in(work.options.compute)
    if not probes:
        return "not measured: none of the first transcripts could be encoded"
    drift = measure_drift([encoder.states([tokens], layers)[0][:, 0] for tokens in probes], exact)
    shown = f"{drift} ({len(probes)} transcripts, {work.options.compute} against float32)"
    work.say(f"{encoder.name}: {shown}")
    return shown


def _shard(
    work: Work, writer: StreamWriter, encoder: TextEncoder, layers: list[int], number: int, tokens: Mapping[str, Tokens]
) -> tuple[list[ShardWriter], Iterator[Task]]:
    """A shard of these transcripts, and the tasks that fill it."""
    ids = list(tokens)
    lengths = [len(tokens[uid].token_id) for uid in ids]
    states = Column(DTYPES[work.options.dtype], len(layers), encoder.dim)
    columns = {"states": states, **{name: Column("<i4") for name in _COLUMNS}}
    sources = {"text": [text_digest(work.text(uid, work.options.text_column)) for uid in ids]}
    shard = writer.shard(number, ids, sources, {"token": (lengths, columns)})
    return [shard], _tasks(work, encoder, layers, shard, tokens)


def _tasks(
    work: Work, encoder: TextEncoder, layers: list[int], shard: ShardWriter, tokens: Mapping[str, Tokens]
) -> Iterator[Task]:
    options, ids = work.options, list(tokens)
    for column in _COLUMNS:
        values = np.concatenate([getattr(tokens[uid], column) for uid in ids])
        yield partial(shard.put, "token", column, 0, values)
    first = 0
    while first < len(ids):
        # The plan has the longest first, so the first of a batch decides how wide it is.
        batch = ids[first : first + max(1, BATCH_TOKENS // len(tokens[ids[first]].token_id))]
        states, sizes = encoder.states([tokens[uid] for uid in batch], layers)
        parts = [states[:, i, :size] for i, size in enumerate(sizes)]
        peaks, packed = fetch(peaks_of(parts), "float32"), fetch(torch.cat(parts, dim=1), options.dtype)

        def write(batch=batch, first=first, peaks=peaks, packed=packed) -> None:  # type: ignore[no-untyped-def]
            check_storable(batch, peaks(), options.dtype, options.compute, layers)
            shard.put("token", "states", first, packed())

        yield write
        first += len(batch)
