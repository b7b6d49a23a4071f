"""From a cache to a table: which utterances can be used, why the others cannot, and their states on one device."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mmser.cache import Cache, PackedColumn, Stream
from mmser.errors import CacheError, ProtocolError
from mmser.records import TIERS
from mmser.train.columns import DESCRIPTORS, stored_column
from mmser.train.links import Linker, alignments
from mmser.train.packed import Packed
from mmser.train.table import Table
from mmser.units import FrameGrid

_EXTRACTED = {
    "speech": ("frame", "--keep frame"),
    "pooled": ("pooled speech", "--speech-model"),
    "text": ("token", "--text-model"),
    "mel": ("log-mel", "--mel"),
}
"""By kind of stream: what its states are called, and the option that extracts them."""

_CHECKED = 1 << 16
"""States whose numbers are looked at at a time."""

_OF_EVERY = ("frame", "utterance")
"""Granularities that every utterance has states of, aligned or not."""


@dataclass(frozen=True)
class Sources:
    """The streams that a set of heads reads, opened."""

    speech: dict[str, Stream]
    """Stream by granularity."""
    text: Stream | None
    mel: Stream | None = None
    """Log-mel frames."""
    align: Stream | None = None
    """Alignments, where a head has to know which word a state belongs to, or when it was spoken."""

    @property
    def streams(self) -> list[Stream]:
        """All of them; one that holds several of the granularities is there once for each."""
        return [*self.speech.values(), *(one for one in (self.text, self.mel, self.align) if one is not None)]

    def without(self, utterance_ids: Sequence[str]) -> dict[str, str]:
        """Utterances that some head could not see, with the reason."""
        lacking = self._lacking(utterance_ids)
        if self.align is not None:
            lacking.append({uid: f"not in stream {self.align.name}" for uid in utterance_ids if uid not in self.align})
        return {uid: reason for one in lacking for uid, reason in one.items()}

    def blind(self, utterance_ids: Sequence[str]) -> set[str]:
        """Utterances of which nothing at all could be seen, in any stream."""
        lacking = self._lacking(utterance_ids)
        return set.intersection(*(set(one) for one in lacking)) if lacking else set()

    def _lacking(self, utterance_ids: Sequence[str]) -> list[dict[str, str]]:
        """For each kind of states: the utterances without, with the reason."""
        lacking = [
            _unusable(stream, granularity, utterance_ids, f"no {granularity} states")
            for granularity, stream in self.speech.items()
        ]
        if self.text is not None:
            lacking.append(_unusable(self.text, "token", utterance_ids, "no token states"))
        if self.mel is not None:
            lacking.append(_unusable(self.mel, "frame", utterance_ids, "no log-mel frames"))
        return lacking


def _unusable(stream: Stream, granularity: str, utterance_ids: Sequence[str], reason: str) -> dict[str, str]:
    there = [uid for uid in utterance_ids if uid in stream]
    absent = {uid: f"not in stream {stream.name}" for uid in utterance_ids if uid not in stream}
    if granularity in _OF_EVERY or not there or (granularity == "token" and not _know_places(stream)):
        return absent
    narrow = "start" if granularity == "token" else "segment"
    packed = stream.packed(granularity, narrow, utterances=there)
    offsets = _kept_before(packed.values < 0)[packed.offsets] if granularity == "token" else packed.offsets
    empty = {uid: reason for uid, n in zip(there, np.diff(offsets), strict=True) if n == 0}
    return {**absent, **empty}


def open_sources(
    cache: Cache,
    granularities: Sequence[str],
    *,
    text: bool,
    mel: bool = False,
    speech_stream: str | None,
    text_stream: str | None,
    mel_stream: str | None = None,
    linked: bool = False,
) -> Sources:
    """Find the stream that holds each granularity, the text, the log-mel frames, and what ties speech to text.

    Args:
        cache: the cache.
        granularities: of speech; frames lie in ``speech/...``, all others in ``pooled/...``, and descriptors of either
            in ``opensmile/...``, which has to be named.
        text: whether token states are needed.
        mel: whether log-mel frames are needed.
        speech_stream: which stream, where the cache holds several that would do.
        text_stream: the same for text.
        mel_stream: the same for log-mel frames.
        linked: whether alignments are needed.

    Raises:
        ProtocolError: no stream holds the granularity (says which there are), several do and none was named, or the
            one that was named holds another kind of states.
        CacheError: a named stream is not there.
    """
    speech = {}
    for granularity in granularities:
        kind = "speech" if granularity == "frame" else "pooled"
        if speech_stream is not None and speech_stream.startswith(f"{DESCRIPTORS}/"):
            kind = DESCRIPTORS
        stream = _pick(cache, kind, speech_stream, "--speech-stream")
        if granularity not in stream.granularities:
            held = {s: cache.stream(s).granularities for s in cache.stream_names if s.split("/")[0] == kind}
            raise ProtocolError(
                f"{cache.path}: no {granularity!r} states; "
                + "; ".join(f"{name} holds {', '.join(names) or 'nothing yet'}" for name, names in held.items())
                + f". Extract with --keep {granularity}"
                + ("" if granularity in _OF_EVERY else " and an alignment (--align)")
                if kind != DESCRIPTORS
                else f"{stream.name} has no {granularity!r} features; it holds {', '.join(stream.granularities)}"
            )
        speech[granularity] = stream
    if speech and speech_stream is not None and speech_stream not in {stream.name for stream in speech.values()}:
        raise ProtocolError(
            f"--speech-stream {speech_stream}: {', '.join(speech)} states are read from "
            f"{', '.join(dict.fromkeys(stream.name for stream in speech.values()))}; frames lie in speech/..., all "
            "others in pooled/..."
        )
    if mel and mel_stream is not None and not mel_stream.startswith("mel/"):
        raise ProtocolError(f"--mel-stream {mel_stream}: log-mel frames lie in mel/... (mmser cache info)")
    return Sources(
        speech,
        _pick(cache, "text", text_stream, "--text-stream") if text else None,
        _pick(cache, "mel", mel_stream, "--mel-stream") if mel else None,
        alignments(cache, speech) if linked else None,
    )


def _pick(cache: Cache, kind: str, named: str | None, option: str) -> Stream:
    if named is not None and named.split("/")[0] == kind:
        return cache.stream(named)
    if named is not None and kind == "text":
        raise ProtocolError(f"{option} {named}: token states lie in text/... (mmser cache info)")
    found = [name for name in cache.stream_names if name.split("/")[0] == kind]
    if not found:
        if not cache.stream_names and (inner := cache.caches_below()):
            raise ProtocolError(f"{cache.path} is no cache, but {', '.join(inner)} in it could be: name one of them")
        what, hint = _EXTRACTED[kind]
        frames = kind == "pooled" and any(name.startswith("speech/") for name in cache.stream_names)
        raise ProtocolError(
            f"{cache.path}: holds no {what} states (streams: {', '.join(cache.stream_names) or 'none'}); "
            + (
                "utterances and segments are pooled from frames: read these with --granularity frame, or "
                if frames
                else ""
            )
            + f"extract them first (mmser extract ... {hint})"
        )
    if len(found) > 1:
        raise ProtocolError(f"{cache.path}: several streams would do: {', '.join(found)}; choose one with {option}")
    return cache.stream(found[0])


def load_table(
    sources: Sources,
    utterance_ids: Sequence[str],
    layers: Sequence[int],
    text_layers: Sequence[int],
    device: torch.device,
) -> Table:
    """Read the states of some utterances onto a device, in this order; one that a stream lacks has none there.

    Args:
        sources: the streams.
        utterance_ids: a row of the table each.
        layers: speech layers.
        text_layers: of text.
        device: where the states are to lie.

    Returns:
        The table; its states know their words and times where the sources have alignments.

    Raises:
        ProtocolError: the alignments are not those of the states.
        CacheError: a layer is not stored.
    """
    linker = None if sources.align is None else Linker(sources.align, utterance_ids)
    speech = {}
    for granularity, stream in sources.speech.items():
        states = stored_column(stream, granularity, "states", utterance_ids, layers)
        links = None
        if linker is not None and granularity == "frame":
            linker.check_recordings(stream)
            links = linker.of_frames(states.offsets, FrameGrid.of(stream.recipe))
        elif linker is not None and granularity in TIERS:
            links = linker.of_segments(stream, granularity)
        _check_finite(stream, states)
        speech[granularity] = _packed(states, links, device)
    text = None
    if sources.text is not None:
        links, special = None, None
        if _know_places(sources.text):
            special = stored_column(sources.text, "token", "start", utterance_ids).values < 0
            if linker is not None:
                linker.check_transcript(sources.text)
                words = stored_column(sources.text, "token", "word", utterance_ids)
                links = words.values[~special].astype(np.int64), linker.of_tokens(words)[~special]
        elif linker is not None:
            raise ProtocolError(
                f"{sources.text.name} was imported, and its tokens know no words; a head that links speech and text by "
                "words needs text states of mmser extract --text-model"
            )
        states = _tokens(sources.text, utterance_ids, text_layers, special)
        _check_finite(sources.text, states)
        text = _packed(states, links, device)
    mel = None
    if sources.mel is not None:
        states = stored_column(sources.mel, "frame", "states", utterance_ids)
        _check_finite(sources.mel, states)
        mel = _packed(states, None, device)
    return Table(tuple(utterance_ids), speech, text, mel)


def resident_bytes(
    sources: Sources,
    utterance_ids: Sequence[str],
    num_layers: int,
    num_text_layers: int,
    means: Sequence[str] = (),
    *,
    twice: bool = False,
) -> int:
    """What the states of :func:`load_table` take; nothing is read but lengths.

    Args:
        sources: the streams.
        utterance_ids: whose states.
        num_layers: of speech.
        num_text_layers: of text.
        means: the granularities, ``token`` included, of which heads hold every utterance's mean beside the states.
        twice: whether speech is held twice for a while, as where it is standardised per speaker.
    """
    beside = [(sources.text, "token", num_text_layers), (sources.mel, "frame", 1)]
    read = [(stream, granularity, num_layers) for granularity, stream in sources.speech.items()]
    read += [(stream, granularity, layers) for stream, granularity, layers in beside if stream is not None]
    total = 0
    for stream, granularity, layers in read:
        column = stream.columns(granularity)["states"]
        lengths = stream.lengths(granularity, [uid for uid in utterance_ids if uid in stream])
        width = (layers if column.layers else 1) * column.dim
        copies = 2 if twice and stream in sources.speech.values() else 1
        total += copies * int(lengths.sum()) * width * np.dtype(column.dtype).itemsize
        if stream is not sources.mel and lengths.max(initial=0) > 1:
            total += means.count(granularity) * int((lengths > 0).sum()) * width * np.dtype(np.float32).itemsize
    return total


def _check_finite(stream: Stream, column: PackedColumn) -> None:
    """One state that is no number would make none of every run that learns from it, or is standardised with it."""
    for layer in column.values:
        for start in range(0, len(layer), _CHECKED):
            sound = np.isfinite(layer[start : start + _CHECKED]).all(-1)
            if sound.all():
                continue
            row = int(np.searchsorted(column.offsets, start + np.argmin(sound), side="right")) - 1
            raise CacheError(
                f"utterance {column.utterance_ids[row]!r}: {stream.name} holds states that are no finite numbers; "
                "expected numbers. Check the cache (mmser cache verify), and extract or import the utterance again"
            )


def _know_places(text: Stream) -> bool:
    """Whether tokens know their places in the transcript: those of mmser do, imported ones are states alone."""
    return "start" in text.columns("token")


def _tokens(
    text: Stream, utterance_ids: Sequence[str], layers: Sequence[int], special: NDArray[np.bool_] | None
) -> PackedColumn:
    """Token states without the special tokens, which stand for no character of the transcript.

    A layer is read at a time: of many, two copies of all are not held at once.
    """
    if special is None:
        return stored_column(text, "token", "states", utterance_ids, layers)
    kept = np.flatnonzero(~special)
    for place, layer in enumerate(layers):
        column = stored_column(text, "token", "states", utterance_ids, layer)
        if place == 0:
            states = np.empty((len(layers), len(kept), column.values.shape[-1]), column.values.dtype)
        np.take(column.values[0], kept, 0, out=states[place])
    return PackedColumn(column.utterance_ids, _kept_before(special)[column.offsets], states)


def _kept_before(drop: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many rows before each (n + 1,) remain."""
    return np.concatenate([[0], np.cumsum(~drop)]).astype(np.int64)


def _packed(
    column: PackedColumn, links: tuple[NDArray[np.int64], NDArray[np.float32]] | None, device: torch.device
) -> Packed:
    arrays = (column.values, column.offsets, *(links or (None, None)))
    values, offsets, word, time = (None if array is None else torch.from_numpy(array).to(device) for array in arrays)
    assert values is not None
    assert offsets is not None
    return Packed(values, offsets, word, time)
