"""One extraction, from a manifest to a cache: alignments, then text, then speech.

The streams are independent: each finds out what it lacks, plans its shards, and fills them. What cannot be processed
is left out with its reason and the rest goes on. Whatever is interrupted goes on from the last finished shard.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from mmser.cache import Cache, Stream
from mmser.errors import MmserError
from mmser.extract.align_stream import fill_alignments
from mmser.extract.options import NONE, Extraction
from mmser.extract.speech_stream import fill_speech
from mmser.extract.text_stream import fill_text
from mmser.extract.work import Report, Work, write_failures
from mmser.manifest import Manifest, merge, read_manifest, write_manifest


@dataclass(frozen=True)
class Summary:
    """What an extraction did."""

    num_utterances: int
    added: dict[str, int]
    """Utterances written in this run, by stream."""
    failures: dict[tuple[str, str], str]
    """Reason by (utterance, stream)."""
    notes: tuple[str, ...]
    """What the user should know besides."""
    num_aligned: int | None
    """Utterances of the manifest with an alignment; None where none was asked for."""
    audio_s: float
    """Seconds of audio looked at in this run."""
    wall_s: float

    @property
    def failed_utterances(self) -> list[str]:
        """Utterances that are missing from at least one stream."""
        return sorted({uid for uid, _ in self.failures})


def extract(manifest: Manifest, cache: Path, options: Extraction, report: Report = lambda *_: None) -> Summary:
    """Fill a cache from a manifest; run again, do what is missing.

    Args:
        manifest: the utterances.
        cache: the cache's folder; made if it is not there.
        options: what to extract.
        report: told how far it is.

    Raises:
        MmserError: nothing to do, an encoder that cannot be loaded, a cache made by another recipe or being written.
    """
    began = time.monotonic()
    if options.speech_model == options.text_model == options.aligner == NONE:
        raise MmserError("nothing to extract: give --speech-model, --text-model or --align")
    work = Work(cache, {u.utterance_id: u for u in manifest.utterances()}, options, report)
    cache.mkdir(parents=True, exist_ok=True)
    aligned: Stream | None = None
    try:
        if options.aligner != NONE:
            aligned = fill_alignments(work)
        if options.text_model != NONE:
            fill_text(work)
        if options.speech_model != NONE:
            fill_speech(work, aligned)
    finally:  # a stage that stops leaves what is finished usable
        _keep_manifest(manifest, cache)
        write_failures(cache / "failed.csv", work.failures)
    return Summary(
        len(work.utterances),
        work.added,
        work.failures,
        tuple(work.notes),
        None if aligned is None else sum(uid in aligned for uid in work.utterances),
        sum(work.seconds.values()),
        time.monotonic() - began,
    )


def _keep_manifest(manifest: Manifest, cache: Path) -> None:
    path = Cache(cache).manifest_path
    write_manifest(merge(read_manifest(path), manifest) if path.exists() else manifest, path)
