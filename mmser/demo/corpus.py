"""A small acted corpus in which the emotion lies in the words, in the voice, or only in the two together.

Six voices say the same number of sentences in each of four emotions. Of ten, four are told by the words (said in a
neutral voice), three by the voice (plain words) and three by both: there the words give the valence and the voice
the arousal, so that neither half decides (pleasant and excited is happy, pleasant and calm is neutral, unpleasant
and excited is angry, unpleasant and calm is sad; the quadrants are those of J. A. Russell, "A circumplex model of
affect", J. Pers. Soc. Psychol. 39(6), 1980). So a head that hears and reads should beat those that do one alone.
"""

import dataclasses
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmser.demo.sentences import SENTENCES
from mmser.demo.speak import Line, Prosody, speak, synthesizer
from mmser.errors import MmserError
from mmser.files import replacing
from mmser.manifest import Manifest, read_manifest, write_manifest

EMOTIONS = ("angry", "happy", "neutral", "sad")
CUES = ("words", "prosody", "both")
MAX_SENTENCES = 20
"""Sentences an emotion and speaker: beyond, two speakers would have to say the same ones."""


@dataclass(frozen=True)
class Speaker:
    """A voice and its habits."""

    voice: str
    pitch: int
    """Added to the pitch of every style."""
    rate: int
    """Added to the rate of every style."""


SPEAKERS = {
    "spk1": Speaker("en-us+m1", 4, 0),
    "spk2": Speaker("en-us+f2", -3, 8),
    "spk3": Speaker("en+m3", 0, -6),
    "spk4": Speaker("en-gb-scotland+f4", 5, 4),
    "spk5": Speaker("en-gb-x-rp+m7", -4, -8),
    "spk6": Speaker("en-us-nyc+f3", 0, 0),
}
"""Three men and three women, of four accents."""

STYLES = {
    "angry": Prosody(pitch=42, range=90, rate=205, volume=100),
    "happy": Prosody(pitch=76, range=95, rate=190, volume=68),
    "neutral": Prosody(pitch=50, range=50, rate=165, volume=66),
    "sad": Prosody(pitch=30, range=15, rate=120, volume=42),
    "excited": Prosody(pitch=60, range=85, rate=200, volume=84),
    "calm": Prosody(pitch=40, range=30, rate=138, volume=54),
}
"""Ways to speak: the four emotions', and high and low arousal without valence."""

JITTER = Prosody(pitch=3, range=5, rate=6, volume=5)
"""Most that an utterance differs from its style, so that no two are alike."""

_QUADRANT = {
    "angry": ("negative", "excited"),
    "happy": ("positive", "excited"),
    "neutral": ("positive", "calm"),
    "sad": ("negative", "calm"),
}
_RATINGS = {"angry": (4.5, 1.5), "happy": (4.0, 4.5), "neutral": (3.0, 3.0), "sad": (1.5, 1.5)}
"""Arousal and valence, 1 to 5, where the words or the voice alone tell the emotion."""
_AROUSAL = {"excited": 4.25, "calm": 2.0}
_VALENCE = {"positive": 4.0, "negative": 2.0}

_RECIPE_VERSION = 1
_OWN_WAV = re.compile(r"wav/spk\d_[a-z]+_\d\d\.wav", re.ASCII)


@dataclass(frozen=True)
class Planned:
    """One utterance of the corpus, before it is spoken."""

    utterance_id: str
    speaker: str
    label: str
    cue: str
    sentence: str
    """Code of the sentence: the pool in :data:`SENTENCES` it is from, and its number there."""
    style: str
    arousal: float
    valence: float
    line: Line


def speak_corpus(folder: Path, *, num_sentences: int = 10, seed: int = 0) -> Manifest:
    """Write the corpus into ``folder``: ``wav/*.wav`` (16 bit, 22,050 Hz), ``manifest.csv`` and ``recipe.json``.

    The same arguments and the same espeak-ng give the same files. A folder that already holds them, unchanged, is
    used as it is; what another recipe of this function left there is replaced.

    Args:
        folder: made if need be.
        num_sentences: sentences an emotion and speaker, 1 to 20; 24 times as many utterances.
        seed: of which speaker says what, and of the jitter.

    Raises:
        MmserError: espeak-ng is not installed, ``num_sentences`` is out of range, or the folder holds a manifest or
            recordings that this function did not write.
    """
    plan = plan_corpus(num_sentences=num_sentences, seed=seed)
    recipe = _digest(
        json.dumps([_RECIPE_VERSION, synthesizer(), [dataclasses.asdict(p) for p in plan]], sort_keys=True).encode()
    )
    folder = Path(folder)
    written = _recipe_in(folder)
    if written.get("recipe") != recipe or _digests(folder, written["files"]) != written["files"]:
        for name in filter(_OWN_WAV.fullmatch, written["files"]):
            (folder / name).unlink(missing_ok=True)
        audio = {p.utterance_id: f"wav/{p.utterance_id}.wav" for p in plan}
        files = [*audio.values(), "manifest.csv"]
        (folder / "wav").mkdir(parents=True, exist_ok=True)
        _write_recipe(folder, recipe, dict.fromkeys(files, "unfinished"))  # whose they are, should this be interrupted
        speak({folder / audio[p.utterance_id]: p.line for p in plan})
        rows = pd.DataFrame([{"utterance_id": p.utterance_id, "audio": audio[p.utterance_id], **_row(p)} for p in plan])
        write_manifest(Manifest(rows, folder), folder / "manifest.csv")
        _write_recipe(folder, recipe, _digests(folder, files))
    return read_manifest(folder / "manifest.csv")


def plan_corpus(*, num_sentences: int = 10, seed: int = 0) -> list[Planned]:
    """What is said, by whom and how; arguments as in :func:`speak_corpus`.

    >>> [p.cue for p in plan_corpus()[:10]]
    ['words', 'words', 'words', 'words', 'prosody', 'prosody', 'prosody', 'both', 'both', 'both']
    """
    if not 1 <= num_sentences <= MAX_SENTENCES:
        raise MmserError(f"num_sentences is {num_sentences}; the demo's corpus has 1 to {MAX_SENTENCES} an emotion")
    rng = np.random.default_rng(seed)
    orders = {pool: rng.permutation(len(texts)) for pool, texts in SENTENCES.items()}
    parts = [(label, cue, *_design(label, cue)) for label in EMOTIONS for cue in _cues(num_sentences)]
    needed = Counter(pool for _, _, pool, *_ in parts)
    plan = []
    for turn, (name, speaker) in enumerate(SPEAKERS.items()):
        shares = {pool: iter(_share(orders[pool], turn, count, rng)) for pool, count in needed.items()}
        for place, (label, cue, pool, style, arousal, valence) in enumerate(parts):
            utterance_id = f"{name}_{label}_{place % num_sentences + 1:02d}"
            which = int(next(shares[pool]))
            line = Line(SENTENCES[pool][which], speaker.voice, _spoken(STYLES[style], speaker, rng))
            code = f"{pool}{which + 1:02d}"
            plan.append(Planned(utterance_id, name, label, cue, code, style, arousal, valence, line))
    return plan


def _cues(num_sentences: int) -> list[str]:
    both = round(0.3 * num_sentences)
    return ["words"] * (num_sentences - 2 * both) + ["prosody"] * both + ["both"] * both


def _design(label: str, cue: str) -> tuple[str, str, float, float]:
    """Pool of sentences, style, arousal and valence of an utterance."""
    if cue == "both":
        words, voice = _QUADRANT[label]
        return words, voice, _AROUSAL[voice], _VALENCE[words]
    arousal, valence = _RATINGS[label]
    return (label, "neutral", arousal, valence) if cue == "words" else ("plain", label, arousal, valence)


def _share(order: NDArray[np.int64], turn: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """The sentences of a pool that a speaker says, as indices, in the order in which emotions get them.

    Speakers begin at places spread evenly round the pool, so that every sentence is said by about as many and no
    two speakers say the same ones. Which emotion gets which is chance: a plain sentence tells nothing.
    """
    start = turn * len(order) // len(SPEAKERS)
    return rng.permutation(np.roll(order, -start)[:count])


def _spoken(style: Prosody, speaker: Speaker, rng: np.random.Generator) -> Prosody:
    jitter = {name: int(rng.integers(-most, most + 1)) for name, most in vars(JITTER).items()}
    return Prosody(
        pitch=style.pitch + speaker.pitch + jitter["pitch"],
        range=min(100, style.range + jitter["range"]),
        rate=style.rate + speaker.rate + jitter["rate"],
        volume=style.volume + jitter["volume"],
    )


def _row(planned: Planned) -> dict[str, Any]:
    names = ("speaker", "label", "arousal", "valence", "cue", "sentence")
    return {"text": planned.line.text, **{name: getattr(planned, name) for name in names}}


def _recipe_in(folder: Path) -> dict[str, Any]:
    """What an earlier run wrote down, its file names checked; no files for a new folder."""
    try:
        written = json.loads((folder / "recipe.json").read_bytes())
    except FileNotFoundError:
        if not any((folder / name).exists() for name in ("manifest.csv", "wav")):
            return {"recipe": "", "files": {}}
        written = None
    except ValueError:  # no JSON
        written = None
    files = written.get("files") if isinstance(written, dict) else None
    if isinstance(files, dict) and all(name == "manifest.csv" or _OWN_WAV.fullmatch(name) for name in files):
        return dict(written)
    raise MmserError(
        f"folder {str(folder)!r} holds a manifest, recordings or a recipe that the demo did not write; "
        "give a new folder"
    )


def _write_recipe(folder: Path, recipe: str, files: dict[str, str]) -> None:
    with replacing(folder / "recipe.json") as temporary:
        temporary.write_text(json.dumps({"recipe": recipe, "files": files}, indent=1) + "\n", encoding="utf-8")


def _digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Digest of each file's bytes; none for a file that is not there."""
    return {name: _digest((folder / name).read_bytes()) for name in names if (folder / name).is_file()}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
