"""A corpus that is made in milliseconds: six noises with transcripts and TextGrids. Shared by tests of extraction."""

from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile
from click.testing import CliRunner

from mmser.cli import main
from mmser.extract.align.textgrid import write_textgrid
from mmser.extract.options import Extraction
from mmser.extract.run import Summary, extract
from mmser.extract.work import Report
from mmser.manifest import Manifest, read_manifest, write_manifest
from mmser.records import Alignment, Kind, Segment
from mmser.units import SAMPLE_RATE

DURATIONS_S = {"u0": 0.3, "u1": 0.47, "u2": 0.61, "u3": 0.8, "u4": 0.9137, "u5": 1.2}
IDS = list(DURATIONS_S)
TEXT = "Hi, a word!"


def write_noise(path: Path, duration_s: float, seed: int, rate: int = SAMPLE_RATE) -> Path:
    """A noise under a slow swell, so that no two frames are alike."""
    time = np.arange(round(duration_s * rate)) / rate
    noise = np.random.default_rng(seed).uniform(-0.4, 0.4, len(time))
    soundfile.write(path, noise * (0.2 + 0.8 * np.sin(2 * np.pi * (1 + seed % 3) * time) ** 2), rate, subtype="FLOAT")
    return path


def alignment(utterance_id: str, duration_s: float) -> Alignment:
    """Silence, a word, a word too short to hold the centre of a frame, silence, a word, silence.

    Borders are whole multiples of 5 ms, which no centre (12.5 ms, 32.5 ms, ...) falls on.
    """
    first, last = 0.02 + 0.01 * int(utterance_id[1:]), duration_s - 0.03
    words = [
        (0.0, first, "", Kind.SILENCE),
        (first, 0.175, "hi", Kind.SPEECH),
        (0.175, 0.185, "a", Kind.SPEECH),
        (0.185, 0.22, "", Kind.SILENCE),
        (0.22, last, "word", Kind.SPEECH),
        (last, duration_s, "", Kind.SILENCE),
    ]
    phones = [
        (first, 0.11, "HH", 1),
        (0.11, 0.175, "AY1", 1),
        (0.175, 0.185, "AH0", 2),
        (0.22, 0.225, "W", 4),
        (0.225, 0.24, "ER1", 4),
        (0.24, last, "D", 4),
    ]
    return Alignment(
        utterance_id,
        tuple(Segment(a, b, label, kind=kind) for a, b, label, kind in words),
        phones=tuple(Segment(a, b, label, parent) for a, b, label, parent in phones),
    )


def make_corpus(folder: Path, ids: list[str] = IDS) -> Path:
    """Write recordings, TextGrids and ``corpus.csv`` (returned); files of u0 to u5, or of those asked for."""
    for name in ("wav", "textgrid"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for uid in ids:
        # one recording at a rate that is resampled
        rate = 22_050 if uid == "u3" else SAMPLE_RATE
        write_noise(folder / "wav" / f"{uid}.wav", DURATIONS_S[uid], int(uid[1:]), rate)
        write_textgrid(alignment(uid, DURATIONS_S[uid]), DURATIONS_S[uid], folder / "textgrid" / f"{uid}.TextGrid")
    rows = [{"utterance_id": uid, "audio": f"wav/{uid}.wav", "text": TEXT + " yes" * int(uid[1:])} for uid in ids]
    write_manifest(Manifest(pd.DataFrame(rows), folder), folder / "corpus.csv")
    return folder / "corpus.csv"


def options_for(manifest: Path, **changes: Any) -> Extraction:
    """Built-in encoders, alignment from the corpus's TextGrids."""
    given = {
        "speech_model": "builtin:tiny",
        "text_model": "builtin:tiny",
        "aligner": "textgrid",
        "textgrids": manifest.parent / "textgrid",
        "device": "cpu",
        "jobs": 2,
    }
    return Extraction(**{**given, **changes})


def run(manifest: Path, cache: Path, report: Report = lambda *_: None, **changes: Any) -> Summary:
    """One extraction."""
    return extract(read_manifest(manifest), cache, options_for(manifest, **changes), report)


@dataclass(frozen=True)
class Said:
    """What a command came to. click's own result differs from version to version."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


def mmser(*arguments: object) -> Said:
    """One command of the command line, in this process; what must never be in its output is looked for."""
    # click 8.1 mixes standard error into standard output unless told not to; later ones never do
    apart = {"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}
    result = CliRunner(**apart).invoke(main, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "Traceback" not in result.stdout + result.stderr
    return Said(result.exit_code, result.stdout, result.stderr)


def shards(cache: Path) -> dict[str, bytes]:
    """Every shard of a cache, by its name, with its bytes."""
    return {path.relative_to(cache).as_posix(): path.read_bytes() for path in sorted(cache.rglob("*.h5"))}
