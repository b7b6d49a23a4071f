"""One transcription: recordings decoded ahead in processes, recognised in batches of like lengths, longest first."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mmser.audio import Recording
from mmser.cache import Unit
from mmser.cache.writer import cut
from mmser.devices import is_out_of_memory
from mmser.extract.decode import Decoders
from mmser.extract.work import Report
from mmser.records import Utterance
from mmser.transcribe.journal import Journal, open_journal
from mmser.transcribe.options import Recognition
from mmser.transcribe.recogniser import Recogniser, Unheard, load_recogniser
from mmser.transcribe.transcripts import Transcripts
from mmser.units import SAMPLE_RATE

UNIT_SECONDS = 600.0
"""Of audio decoded at a time, at most: 38 MB."""

STAGE = "transcribe"
"""What progress calls it."""


def recognise(
    utterances: Iterable[Utterance],
    options: Recognition,
    journal: Path | None = None,
    report: Report = lambda *_: None,
) -> Transcripts:
    """What is said in some utterances; what is finished is kept.

    Args:
        utterances: the recordings.
        options: the recogniser and how it is run.
        journal: the place that keeps finished texts for the next run (:func:`open_journal`); None: nothing is kept.
        report: told how far it is.

    Raises:
        MmserError: the model cannot be used, or another process writes this journal.
    """
    wanted = {utterance.utterance_id: utterance for utterance in utterances}
    with Decoders(options.jobs) as decoders:
        decoders.start(len(wanted))  # they import what they need while the recogniser loads
        recogniser = load_recogniser(options)
        if journal is None:
            found = _Run(recogniser, options, None, report).all(decoders, wanted)
        else:
            with open_journal(journal, recogniser.recipe) as kept:
                found = _Run(recogniser, options, kept, report).all(decoders, wanted)
    return found


@dataclass
class _Run:
    """One transcription under way."""

    recogniser: Recogniser
    options: Recognition
    journal: Journal | None
    report: Report
    texts: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    num_kept: int = 0
    seconds: float = 0.0
    """Of audio that is done."""

    def all(self, decoders: Decoders, wanted: dict[str, Utterance]) -> Transcripts:
        """Transcribe everything."""
        durations_s, self.failures = decoders.durations(wanted.values())
        units = [Unit(i, ids) for i, ids in enumerate(cut(durations_s, UNIT_SECONDS))]
        for decoded in decoders.units(units, wanted):
            self.failures.update(decoded.failures)
            fresh = self._without_kept(decoded.recordings)
            for batch in self._batches(fresh):
                self._do(batch)
                self.report(STAGE, len(self.texts) + len(self.failures), len(wanted), self.seconds)
            if not fresh:
                self.report(STAGE, len(self.texts) + len(self.failures), len(wanted), self.seconds)
        return Transcripts(
            {uid: self.texts[uid] for uid in wanted if uid in self.texts},
            {uid: self.failures[uid] for uid in wanted if uid in self.failures},
            self.recogniser.recipe,
            self.recogniser.device,
            self.num_kept,
        )

    def _without_kept(self, recordings: Mapping[str, Recording]) -> dict[str, Recording]:
        """The recordings that are not finished yet; the texts of the others are taken over."""
        fresh = {}
        for uid, recording in recordings.items():
            text = None if self.journal is None else self.journal.text_of(uid, recording.digest)
            if text is None:
                fresh[uid] = recording
            else:
                self.texts[uid] = text
                self.num_kept += 1
        return fresh

    def _batches(self, recordings: Mapping[str, Recording]) -> Iterator[dict[str, Recording]]:
        """Batches of like lengths: the longest comes first, and decides how many go with it."""
        ids, first = list(recordings), 0
        while first < len(ids):
            width = self.recogniser.width(len(recordings[ids[first]].samples))
            size = max(1, int(self._batch_seconds * SAMPLE_RATE / width + 1e-6))
            yield {uid: recordings[uid] for uid in ids[first : first + size]}
            first += size

    @property
    def _batch_seconds(self) -> float:
        from mmser.extract.batches import default_batch_seconds

        return self.options.batch_seconds or default_batch_seconds(torch.device(self.recogniser.device))

    def _do(self, batch: Mapping[str, Recording]) -> None:
        heard = _heard(self.recogniser, [recording.samples for recording in batch.values()])
        kept = {}
        for (uid, recording), text in zip(batch.items(), heard, strict=True):
            if isinstance(text, Unheard):
                self.failures[uid] = f"utterance {uid!r}: {text.reason}"
            else:
                self.texts[uid] = kept[uid, recording.digest] = text
            self.seconds += len(recording.samples) / SAMPLE_RATE
        if self.journal is not None and kept:
            self.journal.add(kept)


def _heard(recogniser: Recogniser, waveforms: Sequence[NDArray[np.float32]]) -> list[str | Unheard]:
    """What is said in each waveform; a batch that the device's memory does not hold is halved."""
    try:
        return recogniser.texts(waveforms)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if len(waveforms) == 1:
            seconds = len(waveforms[0]) / SAMPLE_RATE
            return [
                Unheard(f"its {seconds:.1f} s do not fit in the memory of {recogniser.device} by themselves; cut it")
            ]
    # what the attempt held is free again only here, outside of the except block
    if recogniser.device.startswith("cuda"):
        torch.cuda.empty_cache()
    half = len(waveforms) // 2
    return [*_heard(recogniser, waveforms[:half]), *_heard(recogniser, waveforms[half:])]
