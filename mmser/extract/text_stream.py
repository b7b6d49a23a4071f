"""The stream of token states: transcripts in, one state a token and layer out."""

from functools import partial

import torch

from mmser.cache import Column, StreamWriter, stream_folder_name
from mmser.errors import EncoderError
from mmser.extract.loading import pick_layers
from mmser.extract.options import NONE
from mmser.extract.text import TextEncoder, Tokens, load_text_encoder
from mmser.extract.work import DTYPES, SHARD_BYTES, Work, check_storable, pick_device, provenance, text_digest

BATCH_TOKENS = 4096
"""Padded tokens in a batch."""
_COLUMNS = ("token_id", "start", "end", "word")


def load_text(work: Work) -> tuple[TextEncoder, list[int]] | None:
    """The encoder and the layers that were asked for; None where there is nothing to encode."""
    if work.options.text_model == NONE:
        return None
    if not work.texts():
        work.notes.append("the manifest has no text: no text stream was made")
        return None
    encoder = load_text_encoder(work.options.text_model, pick_device(work.options.device))
    return encoder, pick_layers(work.options.text_layers, encoder.num_layers)


def fill_text(work: Work, encoder: TextEncoder, layers: list[int]) -> None:
    """Encode the transcripts that the stream lacks."""
    texts = work.texts()
    name = f"text/{stream_folder_name(encoder.name)}"
    recipe = {**encoder.identity(), "layers": layers, "dtype": work.options.dtype}
    with StreamWriter(work.cache, name, recipe, provenance(encoder.device)) as writer:
        redo = work.stale(writer.stream, {"text": {uid: text_digest(text) for uid, text in texts.items()}})
        pending = [uid for uid in work.utterances if uid not in writer.stream or uid in set(redo)]
        tokens: dict[str, Tokens] = {}
        for uid in pending:
            try:
                tokens[uid] = encoder.tokenize(texts.get(uid, ""))
            except EncoderError as error:
                work.fail(uid, name, str(error))
        budget = SHARD_BYTES / (len(layers) * encoder.dim * (2 if work.options.dtype == "float16" else 4))
        units = writer.plan({uid: float(len(t.token_id)) for uid, t in tokens.items()}, budget, redo)
        total, done = sum(len(unit.utterance_ids) for unit in units), 0
        for unit in units:
            write = partial(_write, work, writer, encoder, layers, unit.number)
            work.write_storable([name], {uid: tokens[uid] for uid in unit.utterance_ids}, write)
            done += len(unit.utterance_ids)
            work.report(name, done, total, 0.0)


def _write(
    work: Work, writer: StreamWriter, encoder: TextEncoder, layers: list[int], number: int, tokens: dict[str, Tokens]
) -> None:
    ids = list(tokens)
    lengths = [len(tokens[uid].token_id) for uid in ids]
    stored = DTYPES[work.options.dtype]
    columns = {"states": Column(stored, len(layers), encoder.dim), **{name: Column("<i4") for name in _COLUMNS}}
    sources = {"text": [text_digest(work.utterances[uid].text or "") for uid in ids]}
    with writer.shard(number, ids, sources, {"token": (lengths, columns)}) as shard:
        first = 0
        while first < len(ids):
            # The plan has the longest first, so the first of a batch decides how wide it is.
            batch = ids[first : first + max(1, BATCH_TOKENS // lengths[first])]
            states, sizes = encoder.states([tokens[uid] for uid in batch], layers)
            parts = [states[:, i, :size] for i, size in enumerate(sizes)]
            for uid, part in zip(batch, parts, strict=True):
                check_storable(uid, part, work.options.dtype, layers)
            shard.put("token", "states", first, torch.cat(parts, dim=1).cpu().numpy().astype(stored))
            first += len(batch)
        for i, uid in enumerate(ids):
            for column in _COLUMNS:
                shard.put("token", column, i, getattr(tokens[uid], column))
        shard.commit()
