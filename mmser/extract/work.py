"""What the stages of one extraction share, and what it leaves behind."""

import csv
import hashlib
import os
import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import torch

from mmser import __version__
from mmser.cache import Stream, Unit
from mmser.errors import MmserError
from mmser.extract.decode import decode_units, durations
from mmser.extract.options import Extraction
from mmser.records import Utterance

SHARD_BYTES = 256e6
"""Of states in a shard, about: large enough to read at disk speed, small enough to lose."""

Report = Callable[[str, int, int, float], None]
"""Told after every batch: the stream, utterances done, utterances to do, seconds of audio done."""

T = TypeVar("T")

DTYPES = {"float16": "<f2", "float32": "<f4"}


@dataclass
class Work:
    """One extraction under way."""

    cache: Path
    utterances: dict[str, Utterance]
    options: Extraction
    report: Report
    failures: dict[tuple[str, str], str] = field(default_factory=dict)
    """Reason by (utterance, stream)."""
    notes: list[str] = field(default_factory=list)
    """What the user should know besides."""
    added: dict[str, int] = field(default_factory=dict)
    """Utterances written, by stream."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Duration of the utterances looked at, from their headers."""
    audio_digests: dict[str, str] = field(default_factory=dict)
    """Today's digest of every recording; filled only where asked to refresh."""

    def fail(self, utterance_id: str, stream: str, reason: str) -> None:
        """Note that an utterance is left out of a stream."""
        self.failures[utterance_id, stream] = reason

    def wrote(self, stream: str, number: int) -> None:
        """Note that a shard of a stream is finished."""
        self.added[stream] = self.added.get(stream, 0) + number

    def write_storable(
        self, streams: Iterable[str], items: dict[str, T], write: Callable[[dict[str, T]], None]
    ) -> None:
        """Write a shard; where an utterance's states cannot be stored, note it and write the shard without it."""
        streams = list(streams)
        while items:
            try:
                write(items)
            except UnstorableError as error:
                for stream in streams:
                    self.fail(error.utterance_id, stream, str(error))
                items = {uid: item for uid, item in items.items() if uid != error.utterance_id}
            else:
                for stream in streams:
                    self.wrote(stream, len(items))
                return

    def texts(self) -> dict[str, str]:
        """The transcripts that there are."""
        return {uid: u.text for uid, u in self.utterances.items() if u.text and u.text.strip()}

    def stale(self, stream: Stream, now: Mapping[str, Mapping[str, str]]) -> list[str]:
        """Utterances of a stream whose source is no longer what it was made from.

        Args:
            stream: the stream as it is.
            now: for each source (audio, text, alignment), today's digests by utterance.

        Returns:
            Those to redo: all that changed where asked to refresh, else none, and a note says how many changed.
        """
        changed = {
            uid
            for source, digests in now.items()
            for uid, digest in stream.digests(source).items()
            if uid in self.utterances and uid in digests and digests[uid] != digest
        }
        if changed and not self.options.refresh:
            self.notes.append(
                f"{stream.name}: {len(changed)} utterances have changed since they were extracted "
                f"({min(changed)!r} among them) and keep their old states; add --refresh to redo them"
            )
            return []
        return sorted(changed)

    def look_at_audio(self, uids: Iterable[str], *streams: str) -> dict[str, float]:
        """Durations of utterances, asked of each file once; those without become failures of the streams."""
        uids = list(uids)
        found, failures = durations(
            (self.utterances[uid] for uid in uids if uid not in self.seconds), self.options.jobs
        )
        self.seconds.update(found)
        for uid, reason in failures.items():
            for stream in streams:
                self.fail(uid, stream, reason)
        return {uid: self.seconds[uid] for uid in uids if uid in self.seconds}

    def digest_audio(self) -> dict[str, str]:
        """Where asked to refresh: every recording decoded once, and its digest."""
        if self.options.refresh and not self.audio_digests:
            every = list(self.utterances)
            units = [Unit(i, tuple(every[i : i + 64])) for i in range(0, len(every), 64)]
            for decoded in decode_units(units, self.utterances, self.options.jobs):
                self.audio_digests.update({uid: r.digest for uid, r in decoded.recordings.items()})
        return self.audio_digests


@dataclass
class Meter:
    """How far a stage is."""

    work: Work
    stream: str
    total: int
    done: int = 0
    seconds: float = 0.0

    def show(self, more: int = 0, more_s: float = 0.0) -> None:
        """Tell the user, counting what is done of the shard at work."""
        self.work.report(self.stream, self.done + more, self.total, self.seconds + more_s)


def text_digest(text: str) -> str:
    """SHA-256 of a transcript, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


class UnstorableError(Exception):
    """States that cannot be stored. Inside this package only: their shard is begun again without the utterance."""

    def __init__(self, utterance_id: str, reason: str) -> None:
        super().__init__(reason)
        self.utterance_id = utterance_id


def check_storable(utterance_id: str, states: torch.Tensor, dtype: str, layers: list[int]) -> None:
    """Refuse states that are not finite, or that their stored type cannot hold.

    Args:
        utterance_id: whose they are.
        states: (num_layers, rows, dim) of one utterance.
        dtype: ``float16`` or ``float32``.
        layers: the layers' own numbers, for the message.

    Raises:
        UnstorableError: names the layer and the largest value.
    """
    limit = torch.finfo(torch.float16 if dtype == "float16" else torch.float32).max
    # Not "<= limit" of the largest: a comparison with NaN is false either way round.
    peaks = states.abs().amax(dim=(1, 2)).float()
    for layer, peak in zip(layers, peaks.tolist(), strict=True):
        if not peak <= limit:
            raise UnstorableError(
                utterance_id,
                f"a state of layer {layer} is {peak:g}, more than {dtype} holds or not a number; nothing of this "
                "utterance was stored (try --dtype float32, or look at the recording)",
            )


def provenance(device: torch.device | str) -> dict[str, str]:
    """What a stream was made with, besides its recipe."""
    packages = {name: version(name) for name in ("torch", "transformers", "numpy", "h5py", "soundfile", "soxr")}
    return {"mmser": __version__, **packages, "python": platform.python_version(), "device": str(device)}


def pick_device(asked: str) -> torch.device:
    """The device to run on; ``auto`` takes a CUDA GPU where there is one.

    Raises:
        MmserError: the device is not there.
    """
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises either where a device is missing
        raise MmserError(f"device {asked!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


def write_failures(path: Path, failures: Mapping[tuple[str, str], str]) -> None:
    """One row an utterance and reason, with the streams that lack it; no file where nothing failed."""
    streams: dict[tuple[str, str], list[str]] = {}
    for (uid, stream), reason in failures.items():
        streams.setdefault((uid, reason), []).append(stream)
    if not streams:
        path.unlink(missing_ok=True)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["utterance_id", "streams", "reason"])
        rows.writerows([uid, " ".join(names), reason] for (uid, reason), names in sorted(streams.items()))
    temporary.replace(path)
