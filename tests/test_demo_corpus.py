"""The demo's corpus: neither words nor voice decide alone, and the same recipe gives the same files."""

import hashlib
import importlib.metadata
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pocketsphinx
import pytest
import soundfile

from mmser.audio import read_audio
from mmser.demo.corpus import EMOTIONS, SPEAKERS, STYLES, Planned, plan_corpus, speak_corpus
from mmser.demo.sentences import SENTENCES
from mmser.demo.speak import Line, speak
from mmser.errors import MmserError
from mmser.manifest import Manifest, read_manifest
from mmser.transcript import transcript_words


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "corpus"


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Manifest:
    return speak_corpus(folder, num_sentences=3)


def digests(folder: Path) -> dict[str, str]:
    files = [*folder.glob("wav/*"), folder / "manifest.csv"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def pool(planned: Planned) -> str:
    return planned.sentence.rstrip("0123456789")


def test_design_of_the_corpus() -> None:
    plan = plan_corpus()
    assert len({p.utterance_id for p in plan}) == len(plan) == 6 * 4 * 10
    assert set(Counter((p.speaker, p.label) for p in plan).values()) == {10}
    assert Counter(p.cue for p in plan) == {"words": 96, "prosody": 72, "both": 72}
    for p in plan:
        assert p.line.text == SENTENCES[pool(p)][int(p.sentence[-2:]) - 1]
        assert 1 <= p.arousal <= 5
        assert 1 <= p.valence <= 5
        prosody = p.line.prosody
        assert 0 <= prosody.pitch <= 99
        assert 0 <= prosody.range <= 100
        assert 80 <= prosody.rate <= 450


@pytest.mark.parametrize(
    ("told_by", "ceiling"),
    [
        (("words",), 0.4 + 0.3 / 4 + 0.3 / 2),
        (("style",), 0.4 / 4 + 0.3 + 0.3 / 2),
        (("words", "style"), 1.0),
    ],
)
def test_neither_half_decides_but_both_do(told_by: tuple[str, ...], ceiling: float) -> None:
    """The best that anyone could do who knows what the words tell, how they are said, or both."""
    seen = defaultdict(Counter)
    for p in plan_corpus():
        told = {"words": pool(p), "style": p.style}
        seen[tuple(told[name] for name in told_by)][p.label] += 1
    best = sum(max(labels.values()) for labels in seen.values())
    # a "neutral" style is also that of sentences told by words, where each label is as frequent
    assert best / 240 == pytest.approx(ceiling)


@pytest.mark.parametrize("num_sentences", [1, 2, 3, 10, 20])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_two_speakers_say_the_same(num_sentences: int, seed: int) -> None:
    said = defaultdict(list)
    for p in plan_corpus(num_sentences=num_sentences, seed=seed):
        said[p.speaker].append(p.line.text)
    assert all(len(set(texts)) == len(texts) == 4 * num_sentences for texts in said.values())
    assert len({frozenset(texts) for texts in said.values()}) == len(SPEAKERS)


def test_every_sentence_is_said_by_several() -> None:
    times = Counter(p.sentence for p in plan_corpus())
    assert len(times) == sum(map(len, SENTENCES.values()))
    assert set(times.values()) == {2, 3}


def test_the_seed_decides() -> None:
    assert plan_corpus(seed=1) == plan_corpus(seed=1) != plan_corpus(seed=2)


def test_words_are_in_the_dictionary_of_the_embedded_aligner() -> None:
    path = Path(pocketsphinx.get_model_path("en-us/cmudict-en-us.dict"))
    known = {line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()}
    texts = [text for texts in SENTENCES.values() for text in texts]
    words = {word.text.strip(".,").lower() for text in texts for word in transcript_words(text)}
    assert words <= known
    assert len(texts) == len(set(texts))


def test_manifest_and_recordings(folder: Path, manifest: Manifest) -> None:
    assert list(manifest.table.columns) == [
        "utterance_id", "audio", "text", "speaker", "label", "arousal", "valence", "cue", "sentence"
    ]  # fmt: skip
    assert len(manifest) == 6 * 4 * 3
    assert set(manifest.column("label")) == set(EMOTIONS)
    assert manifest.column("audio")[0] == "wav/spk1_angry_01.wav"
    for utterance in manifest.utterances():
        info = soundfile.info(utterance.audio)
        assert (info.samplerate, info.channels, info.subtype) == (22_050, 1, "PCM_16")
        samples = read_audio(utterance.audio).samples
        assert 1.0 < len(samples) / 16_000 < 6.0
        assert 0.1 < np.abs(samples).max() < 1.0


def test_the_same_recipe_gives_the_same_files(folder: Path, manifest: Manifest, tmp_path: Path) -> None:
    speak_corpus(tmp_path / "again", num_sentences=3)
    assert digests(tmp_path / "again") == digests(folder)


def test_what_is_there_is_used_and_what_is_damaged_is_spoken_again(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    speak_corpus(folder, num_sentences=1)
    before, path = digests(folder), folder / "wav" / "spk2_sad_01.wav"
    written_at = path.stat().st_mtime_ns
    speak_corpus(folder, num_sentences=1)
    assert path.stat().st_mtime_ns == written_at
    path.write_bytes(path.read_bytes()[:-1_000])
    speak_corpus(folder, num_sentences=1)
    assert digests(folder) == before
    (folder / "manifest.csv").unlink()
    speak_corpus(folder, num_sentences=1)
    assert digests(folder) == before


def test_another_recipe_replaces_the_files_of_the_first(tmp_path: Path) -> None:
    speak_corpus(tmp_path, num_sentences=2)
    (tmp_path / "wav" / "mine.wav").write_bytes(b"not the demo's")
    speak_corpus(tmp_path, num_sentences=1, seed=1)
    assert len(list((tmp_path / "wav").glob("spk*"))) == 24
    assert (tmp_path / "wav" / "mine.wav").exists()


def test_a_run_that_was_interrupted_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mmser.demo.corpus.speak", interrupted)
    with pytest.raises(KeyboardInterrupt):
        speak_corpus(tmp_path, num_sentences=1)
    monkeypatch.undo()
    assert len(speak_corpus(tmp_path, num_sentences=1)) == len(read_manifest(tmp_path / "manifest.csv")) == 24


@pytest.mark.parametrize("recipe", [None, "no json", "[]", json.dumps({"recipe": "", "files": {"../x.wav": ""}})])
def test_a_folder_of_others_is_left_alone(tmp_path: Path, recipe: str | None) -> None:
    (tmp_path / "manifest.csv").write_text("utterance_id,audio\na,a.wav\n")
    if recipe is not None:
        (tmp_path / "recipe.json").write_text(recipe)
    with pytest.raises(MmserError, match="that the demo did not write; give a new folder"):
        speak_corpus(tmp_path)
    assert not (tmp_path / "wav").exists()


def loudness_pitch_seconds(path: Path) -> tuple[float, float, float]:
    """Mean level in dB, median fundamental frequency in Hz (by autocorrelation) and length."""
    samples = read_audio(path).samples
    frames = np.lib.stride_tricks.sliding_window_view(samples, 1_024)[::160]
    level = 10 * np.log10((frames**2).mean(axis=1) + 1e-10)
    voiced = frames[level > level.max() - 15]
    correlation = np.fft.irfft(np.abs(np.fft.rfft(voiced, 2_048)) ** 2)[:, 40:267]  # 60 to 400 Hz
    pitch = 16_000 / (40 + correlation.argmax(axis=1))
    return float(level[level > -50].mean()), float(np.median(pitch)), len(samples) / 16_000


@pytest.mark.parametrize("voice", ["en-us+m1", "en-us+f2"])
def test_styles_are_heard(tmp_path: Path, voice: str) -> None:
    text = "The train leaves at nine from the second platform."
    paths = {style: tmp_path / f"{style}.wav" for style in STYLES}
    speak({path: Line(text, voice, STYLES[style]) for style, path in paths.items()})
    loud, pitch, seconds = zip(*(loudness_pitch_seconds(paths[s]) for s in ("angry", "happy", "sad")), strict=True)
    assert loud[0] > loud[1] + 1 > loud[2] + 3
    assert pitch[1] > 1.1 * pitch[0] > 1.1 * pitch[2]
    assert seconds[2] > 1.3 * seconds[1]
    calm, excited = (loudness_pitch_seconds(paths[s]) for s in ("calm", "excited"))
    assert excited[0] > calm[0] + 2
    assert excited[1] > 1.1 * calm[1]
    assert calm[2] > 1.2 * excited[2]


def test_a_sentence_does_not_depend_on_those_of_earlier_runs(tmp_path: Path) -> None:
    line = Line("It is noon.", "en-us+f2")  # a breathy voice, part noise
    speak({tmp_path / "a.wav": line})
    speak({tmp_path / "b.wav": line})
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


def test_what_cannot_be_spoken_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MmserError, match=r"espeak-ng refuses voice 'xx-none'"):
        speak({tmp_path / "a.wav": Line("Hello.", "xx-none")})
    for num_sentences in (0, 21):
        with pytest.raises(MmserError, match=rf"num_sentences is {num_sentences}; the demo's corpus has 1 to 20"):
            speak_corpus(tmp_path / "new", num_sentences=num_sentences)

    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(MmserError, match=r'is not installed: pip install "mmser\[demo\]"'):
        speak_corpus(tmp_path / "new")
    assert not (tmp_path / "new").exists()
