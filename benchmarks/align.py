"""How far the embedded aligner's borders lie from true ones, how much it aligns, and how fast.

    python -m benchmarks.align --data ../shared/data

Truth is twofold: TextGrids that people made (the ``speech_en/praatio`` folder of the data, see tests/conftest.py; left
out where it is absent), and espeak-ng's own times on sentences that it speaks. A word's error is that of its start, and
in the hand TextGrids of its end too. Phones are compared in words where both sides have as many, since the two need not
agree on what the phones are. Speed is seconds of audio by seconds of processor time, which a busy machine does not
change, in one process, the dictionary's loading included.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmser.audio import read_audio
from mmser.demo.sentences import SENTENCES
from mmser.demo.speak import Prosody
from mmser.extract.align import Spoken
from mmser.extract.align.pocketsphinx import PocketSphinxAligner
from mmser.extract.align.textgrid import read_textgrid
from mmser.records import Alignment, Kind, Segment
from mmser.transcript import transcript_words, word_of_span
from mmser.units import SAMPLE_RATE

BY_HAND = {"mary": ("mary",), "bobby": ("bobby_words", "bobby_phones"), "damon_set_test": ("damon_set_test",)}
"""Recordings and their TextGrids."""

VOICES = ("en-us", "en-us+f2", "en-us+m3")

PROGRAM = Path(__file__).with_name("espeak_events.py")


@dataclass
class Truth:
    """An utterance with true times, seconds: for each word of its transcript its borders and its phones' starts."""

    spoken: Spoken
    words: dict[int, tuple[float, ...]] = field(default_factory=dict)
    phones: dict[int, list[float]] = field(default_factory=dict)


@dataclass
class Score:
    """Errors of a set, seconds."""

    num_utterances: int = 0
    num_aligned: int = 0
    num_words: int = 0
    num_words_aligned: int = 0
    words: list[float] = field(default_factory=list)
    phones: list[float] = field(default_factory=list)
    num_phones: int = 0
    audio_s: float = 0.0
    processor_s: float = 0.0


def by_hand(folder: Path) -> list[Truth]:
    """The hand-labelled recordings."""
    truths = []
    for name, grids in BY_HAND.items():
        samples = read_audio(folder / f"{name}.wav").samples
        duration_s = len(samples) / SAMPLE_RATE
        words = read_textgrid(folder / f"{grids[0]}.TextGrid", name, duration_s=duration_s)
        phones = read_textgrid(folder / f"{grids[-1]}.TextGrid", name, duration_s=duration_s).phones
        said = [word for word in words.words if word.kind is Kind.SPEECH]
        truth = Truth(Spoken(name, samples, " ".join(word.label for word in said)))
        for i, word in enumerate(said):
            truth.words[i] = (word.start_s, word.end_s)
            inside = [p for p in phones if word.start_s <= (p.start_s + p.end_s) / 2 < word.end_s and p.label]
            if inside:
                truth.phones[i] = [phone.start_s for phone in inside]
        truths.append(truth)
    return truths


def spoken_by_espeak(num_sentences: int, folder: Path) -> list[Truth]:
    """Sentences in several voices, with the synthesiser's own times."""
    import espeakng_loader

    texts = [text for group in SENTENCES.values() for text in group]
    lines = [
        {"path": str(folder / f"{i}.wav"), "text": text, "voice": voice, "parameters": vars(Prosody())}
        for i, (voice, text) in enumerate(itertools.islice(itertools.product(VOICES, texts), num_sentences))
    ]
    order = {
        "library": str(espeakng_loader.get_library_path()),
        "data": str(espeakng_loader.get_data_path()),
        "lines": lines,
    }
    done = subprocess.run([sys.executable, str(PROGRAM)], input=json.dumps(order), capture_output=True, text=True)
    done.check_returncode()
    truths = []
    for line, events in zip(lines, map(json.loads, done.stdout.splitlines()), strict=True):
        written = transcript_words(line["text"])
        truth = Truth(Spoken(Path(line["path"]).stem, read_audio(line["path"]).samples, line["text"]))
        word = -1
        for kind, seconds, place in events:
            if kind == "word":
                word = word_of_span(written, place, place + 1)
                truth.words[word] = (seconds,)
            elif kind == "phone" and word >= 0 and place.strip("_:;|"):  # pauses and links are no phones
                truth.phones.setdefault(word, []).append(seconds)
        truths.append(truth)
    return truths


def _starts(segments: Iterable[Segment]) -> list[float]:
    return [segment.start_s for segment in segments]


def compare(truths: Sequence[Truth]) -> Score:
    """Align all and measure."""
    score = Score(num_utterances=len(truths))
    began = time.process_time()
    with PocketSphinxAligner(jobs=1) as aligner:
        found = list(aligner.align([truth.spoken for truth in truths]))
    score.processor_s = time.process_time() - began
    for truth, alignment in zip(truths, found, strict=True):
        score.audio_s += len(truth.spoken.samples) / SAMPLE_RATE
        score.num_words += len(transcript_words(truth.spoken.text))
        if not isinstance(alignment, Alignment):
            print(f"failed: {alignment.reason}")
            continue
        score.num_aligned += 1
        score.num_words_aligned += len({w.parent for w in alignment.words if w.parent >= 0})
        for place, borders in truth.words.items():
            own = [(i, w) for i, w in enumerate(alignment.words) if w.parent == place and w.kind is Kind.SPEECH]
            if not own:
                continue
            times = (own[0][1].start_s, own[-1][1].end_s)
            score.words += [abs(a - b) for a, b in zip(borders, times, strict=False)]
            phones = _starts(p for p in alignment.phones if p.parent in [i for i, _ in own])
            true = truth.phones.get(place, [])
            score.num_phones += len(true)
            if len(true) == len(phones):
                score.phones += [abs(a - b) for a, b in zip(true, phones, strict=True)]
    return score


def show(name: str, score: Score) -> None:
    """One line of figures."""
    parts = [
        f"{name}: aligned {score.num_aligned} of {score.num_utterances} utterances, "
        f"{score.num_words_aligned} of {score.num_words} words"
    ]
    for noun, errors, number in (("word", score.words, len(score.words)), ("phone", score.phones, score.num_phones)):
        median, p90 = 1000 * np.percentile(errors, [50, 90])
        parts.append(f"{noun} borders median {median:.1f} ms, 90 % within {p90:.1f} ms ({len(errors)} of {number})")
    parts.append(f"{score.audio_s:.0f} s at {score.audio_s / score.processor_s:.1f} x real time a core")
    print("; ".join(parts))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder that holds speech_en/praatio")
    parser.add_argument("--sentences", type=int, default=200, help="how many espeak-ng speaks")
    asked = parser.parse_args()
    labelled = asked.data / "speech_en" / "praatio"
    if labelled.is_dir():
        show("by hand", compare(by_hand(labelled)))
    else:
        print(f"by hand: left out, {labelled} is not there")
    with tempfile.TemporaryDirectory() as folder:
        show("espeak-ng", compare(spoken_by_espeak(asked.sentences, Path(folder))))


if __name__ == "__main__":
    main()
