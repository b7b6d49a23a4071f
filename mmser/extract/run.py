"""One extraction, from a manifest to a cache: alignments, then text, then speech, then what needs no encoder.

The streams are independent: each finds out what it lacks, plans its shards, and fills them. What cannot be processed
is left out with its reason and the rest goes on. Whatever is interrupted goes on from the last finished shard.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmser.cache import Cache, Stream
from mmser.cache.root_files import add_to_failures, add_to_manifest, check_root_files
from mmser.errors import CacheError, ManifestError, MmserError
from mmser.extract.align_stream import fill_alignments
from mmser.extract.coverage import COVERAGE_FILE, Coverage, coverage, write_coverage
from mmser.extract.feature_stream import fill_features, load_features
from mmser.extract.options import NONE, TEXT_COLUMN, Extraction
from mmser.extract.speech_stream import fill_speech, load_speech
from mmser.extract.text_stream import fill_text, load_text
from mmser.extract.work import Report, Work
from mmser.manifest import NUMBER_COLUMNS, REQUIRED_COLUMNS, Manifest


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
    coverage: Coverage | None
    """What the alignment stream covers, of this manifest and of others; None where none was asked for."""
    audio_s: float
    """Seconds of audio looked at in this run."""
    wall_s: float

    @property
    def failed_utterances(self) -> list[str]:
        """Utterances that are missing from at least one stream."""
        return sorted({uid for uid, _ in self.failures})


def extract(
    manifest: Manifest,
    cache: Path,
    options: Extraction,
    report: Report = lambda *_: None,
    say: Callable[[str], None] = lambda _: None,
) -> Summary:
    """Fill a cache from a manifest; run again, do what is missing.

    Args:
        manifest: the utterances.
        cache: the cache's folder; made if it is not there.
        options: what to extract.
        report: told how far it is.
        say: told what the user should know before the work goes on: how much will be written, drift, smaller batches.

    Raises:
        MmserError: nothing to do, an encoder that cannot be loaded, a cache made by another recipe or being written.
    """
    began = time.monotonic()
    if options.speech_model == options.text_model == options.aligner == options.opensmile == NONE and not options.mel:
        raise MmserError("nothing to extract: give --speech-model, --text-model, --align, --mel or --opensmile")
    if options.text_model != NONE and options.text_column != TEXT_COLUMN:
        _check_texts(manifest, options.text_column)
    work = Work(cache, {u.utterance_id: u for u in manifest.utterances()}, options, report, say)
    with work.decoders:
        aligned = _fill(work, manifest)
    covered = None
    if aligned is not None:
        covered = coverage(Cache(cache), aligned.name)
        write_coverage(covered, aligned.folder / COVERAGE_FILE)
    return Summary(
        len(work.utterances),
        work.added,
        work.failures,
        tuple(work.notes),
        None if aligned is None else sum(uid in aligned for uid in work.utterances),
        covered,
        sum(work.seconds.values()),
        time.monotonic() - began,
    )


def _check_texts(manifest: Manifest, column: str) -> None:
    manifest.column(column)  # says which there are, where it is none of them
    if column in (*NUMBER_COLUMNS, *REQUIRED_COLUMNS):
        raise ManifestError(f"--text-column {column}: expected a column of text, as mmser transcribe adds one")


def _fill(work: Work, manifest: Manifest) -> Stream | None:
    """Do all stages; the stream of alignments, where one was asked for."""
    options = work.options
    if options.speech_model != NONE or options.aligner != NONE or options.opensmile != NONE or options.mel:
        work.decoders.start(len(work.utterances))  # they import what they need while the encoders load
    # What cannot be had must not be found out after an hour of aligning.
    text, speech, features = load_text(work), load_speech(work), load_features(options)
    _make(work.cache)
    check_root_files(work.cache)
    aligned: Stream | None = None
    try:
        if options.aligner != NONE:
            aligned = fill_alignments(work)
        if text is not None:
            fill_text(work, *text)
        if speech is not None:
            fill_speech(work, *speech, aligned)
        for kind in features:
            fill_features(work, kind)
    finally:  # a stage that stops leaves what is finished usable
        add_to_manifest(work.cache, manifest)
        add_to_failures(work.cache, work.failures)
    return aligned


def _make(cache: Path) -> None:
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CacheError(
            f"{cache}: a cache is a folder, and this one cannot be made ({error.strerror}); give another --cache"
        ) from error
