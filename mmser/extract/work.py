"""What the stages of one extraction share, and what it leaves behind."""

import platform
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch

from mmser import __version__
from mmser.cache import Stream, Unit
from mmser.errors import CacheError
from mmser.extract.decode import Decoders
from mmser.extract.options import TEXT_COLUMN, Extraction
from mmser.records import Utterance

SHARD_BYTES = 256e6
"""Of states in a shard, about: large enough to read at disk speed, small enough to lose."""

Report = Callable[[str, int, int, float], None]
"""Told after every batch: the stream, utterances done, utterances to do, seconds of audio done."""

DTYPES = {"float16": "<f2", "float32": "<f4"}
ITEMSIZE = {"float16": 2, "float32": 4}

_DISK_MARGIN = 1.02, 16e6
"""What files hold besides states: a share of them, and bytes for plans, alignments and the file system's own."""


@dataclass
class Work:
    """One extraction under way."""

    cache: Path
    utterances: dict[str, Utterance]
    options: Extraction
    report: Report
    say: Callable[[str], None] = lambda _: None
    """Told what the user should know before the work goes on."""
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
    unreadable: dict[str, str] = field(default_factory=dict)
    """Why a recording has no digest today; filled only where asked to refresh."""
    decoders: Decoders = field(init=False)
    """Whoever made this closes them."""

    def __post_init__(self) -> None:
        self.decoders = Decoders(self.options.jobs)

    def fail(self, utterance_id: str, stream: str, reason: str) -> None:
        """Note that an utterance is left out of a stream."""
        self.failures[utterance_id, stream] = reason

    def wrote(self, stream: str, number: int) -> None:
        """Note that a shard of a stream is finished."""
        self.added[stream] = self.added.get(stream, 0) + number

    def announce(self, sizes: Mapping[str, float]) -> None:
        """Say how much a stage will write, and refuse what the disk cannot hold.

        Args:
            sizes: bytes to write, by stream.

        Raises:
            CacheError: the disk has less room than that and a margin.
        """
        sizes = {name: size for name, size in sizes.items() if size}
        if not sizes:
            return
        parts = ", ".join(f"{name} {size / 1e9:.3g} GB" for name, size in sizes.items())
        share, fixed = _DISK_MARGIN
        needed, free = share * sum(sizes.values()) + fixed, shutil.disk_usage(self.cache).free
        if needed > free:
            raise CacheError(
                f"{self.cache}: to be written: {parts}; the disk has {free / 1e9:.3g} GB left, and {needed / 1e9:.3g} "
                "GB are needed with a margin. Keep fewer layers (--layers, --text-layers) or granularities (--keep), "
                "make room, or give a --cache on another disk"
            )
        self.say(f"To be written by this stage: {parts} ({free / 1e9:.3g} GB free)")

    def texts(self, column: str = TEXT_COLUMN) -> dict[str, str]:
        """The transcripts that there are, or the texts of another column."""
        found = {uid: self.text(uid, column) for uid in self.utterances}
        return {uid: text for uid, text in found.items() if text.strip()}

    def text(self, utterance_id: str, column: str = TEXT_COLUMN) -> str:
        """The transcript of an utterance, or the text of another column; empty where there is none."""
        utterance = self.utterances[utterance_id]
        return (utterance.text if column == TEXT_COLUMN else str(utterance.fields.get(column, ""))) or ""

    def stale(self, stream: Stream, now: Mapping[str, Mapping[str, str]]) -> list[str]:
        """Utterances of a stream whose source is no longer what it was made from.

        Args:
            stream: the stream as it is.
            now: for each source (audio, text, alignment, file), today's digests by utterance.

        Returns:
            Those to redo: all that changed where asked to refresh, else none, and a note says how many changed. Those
            whose recording can no longer be read become failures.
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
        for uid, reason in self.unreadable.items() if "audio" in now else ():
            if uid in stream:
                self.fail(uid, stream.name, f"{reason}; what was made of it before stays")
        return sorted(changed)

    def look_at_audio(self, uids: Iterable[str], *streams: str) -> dict[str, float]:
        """Durations of utterances, asked of each file once; those without become failures of the streams."""
        uids = list(uids)
        found, failures = self.decoders.durations(self.utterances[uid] for uid in uids if uid not in self.seconds)
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
            for decoded in self.decoders.units(units, self.utterances):
                self.audio_digests.update({uid: r.digest for uid, r in decoded.recordings.items()})
                self.unreadable.update(decoded.failures)
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


class UnstorableError(Exception):
    """States that cannot be stored. Inside this package only: their shard is begun again without the utterance."""

    def __init__(self, utterance_id: str, reason: str) -> None:
        super().__init__(reason)
        self.utterance_id = utterance_id


def provenance(device: torch.device | str) -> dict[str, str]:
    """What a stream was made with, besides its recipe."""
    packages = {name: version(name) for name in ("torch", "transformers", "numpy", "h5py", "soundfile", "soxr")}
    return {"mmser": __version__, **packages, "python": platform.python_version(), "device": str(device)}
