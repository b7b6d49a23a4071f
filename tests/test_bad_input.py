"""Bad input: each utterance's reason is named, the rest is done, and nothing ends in a traceback."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from small_corpus import DURATIONS_S, IDS, TEXT, Said, make_corpus, mmser, run, shards, write_noise

from mmser.audio import read_audio
from mmser.cache import Cache, StreamWriter
from mmser.errors import MmserError
from mmser.extract.align.textgrid import write_textgrid
from mmser.extract.options import Extraction
from mmser.extract.speech import SpeechEncoder
from mmser.manifest import Manifest, read_manifest, write_manifest
from mmser.records import Alignment, Segment
from mmser.transcript import text_digest

POOLED = "pooled/builtin-tiny@textgrid"
STREAMS = {"align/textgrid", "text/builtin-tiny", "speech/builtin-tiny", POOLED}
HEARD = STREAMS - {"text/builtin-tiny"}


def command(manifest: Path, cache: Path, *more: str) -> Said:
    """``mmser extract`` with built-in encoders and TextGrids."""
    given = ["--speech-model", "builtin:tiny", "--text-model", "builtin:tiny", "--align", "textgrid", "--device", "cpu"]
    given += ["--textgrids", str(manifest.parent / "textgrid"), "--jobs", "2"]
    return mmser("extract", manifest, "--cache", cache, *given, *more)


def failed(cache: Path) -> dict[str, list[tuple[set[str], str]]]:
    """Rows of failed.csv by utterance."""
    found: dict[str, list[tuple[set[str], str]]] = {}
    with (cache / "failed.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["utterance_id"], []).append((set(row["streams"].split()), row["reason"]))
    return found


def add_row(corpus: Path, uid: str, audio: str, text: str = TEXT) -> None:
    manifest = read_manifest(corpus)
    table = pd.concat([manifest.table, pd.DataFrame([{"utterance_id": uid, "audio": audio, "text": text}])])
    write_manifest(Manifest(table, manifest.base), corpus)


def not_there(path: Path) -> None:
    pass


def text_named_wav(path: Path) -> None:
    path.write_text("This is a note, no recording.\n", encoding="utf-8")


def zero_bytes(path: Path) -> None:
    path.write_bytes(b"")


def header_alone(path: Path) -> None:
    soundfile.write(path, np.zeros(0), 16_000)


def too_short(path: Path) -> None:
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 399), 16_000)


def silence(path: Path) -> None:
    soundfile.write(path, np.zeros(8_000), 16_000)


def not_a_number(path: Path) -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 8_000)
    samples[4_000:4_003] = np.nan
    soundfile.write(path, samples, 16_000, subtype="FLOAT")


def cut_short(path: Path) -> None:
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 16_000), 16_000, format="FLAC")
    path.write_bytes(path.read_bytes()[:9_000])


BAD_RECORDINGS = {
    not_there: r"bad\.wav' is not there; expected a recording: check the manifest's audio column",
    text_named_wav: r"bad\.wav' cannot be decoded .* it begins with b'This is a note, '",
    zero_bytes: r"bad\.wav' is empty \(0 bytes\); copy or download it again",
    header_alone: r"bad\.wav' holds no samples \(a header alone\)",
    too_short: r"bad\.wav' gives 0\.0249 s \(399 samples at 16 kHz\); expected at least 0\.025 s \(400 samples\)",
    silence: r"bad\.wav' is silent: its samples lie within 0 of their mean",
    not_a_number: r"bad\.wav' holds 3 samples that are not finite, the first \(nan\) at 0\.2500 s of the utterance",
    cut_short: r"bad\.wav' cannot be decoded beyond 0\.\d+ s .* it is damaged or cut short",
}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return make_corpus(tmp_path / "corpus", IDS[:2])


@pytest.mark.parametrize("spoil", BAD_RECORDINGS, ids=lambda spoil: spoil.__name__)
def test_a_bad_recording_is_named_and_the_rest_is_done(corpus: Path, tmp_path: Path, spoil) -> None:
    path = tmp_path / "cache"
    spoil(corpus.parent / "wav" / "bad.wav")
    add_row(corpus, "bad", "wav/bad.wav")
    result = command(corpus, path, "--keep", "frame,word,utterance")
    assert result.exit_code == 3, result.output
    assert failed(path).keys() == {"bad"}
    ((streams, reason),) = failed(path)["bad"]
    assert streams == HEARD
    assert re.search(BAD_RECORDINGS[spoil], reason), reason
    assert f"1 of 3 utterances could not be processed whole; {path / 'failed.csv'} says why. " in result.stderr
    assert reason in result.stderr
    for name in HEARD:
        assert sorted(Cache(path).stream(name).utterance_ids) == ["u0", "u1"]
    assert "bad" in Cache(path).stream("text/builtin-tiny")  # its text is good


def test_a_shard_of_nothing_but_bad_recordings(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", IDS[:1])
    silence(corpus.parent / "wav" / "u0.wav")
    for _ in range(2):
        result = command(corpus, tmp_path / "cache")
        assert result.exit_code == 3
        assert "Aligned 0 of 1 utterances" in result.stdout
        assert failed(tmp_path / "cache").keys() == {"u0"}
    assert mmser("cache", "info", tmp_path / "cache").exit_code == 0
    assert mmser("cache", "verify", tmp_path / "cache").exit_code == 0


@pytest.mark.parametrize("text", ["", "   "])
def test_an_utterance_without_text_has_no_words_but_speech(corpus: Path, tmp_path: Path, text: str) -> None:
    path = tmp_path / "cache"
    write_noise(corpus.parent / "wav" / "mute.wav", 0.5, 5)
    add_row(corpus, "mute", "wav/mute.wav", text)
    result = command(corpus, path)
    assert result.exit_code == 3
    assert failed(path) == {
        "mute": [
            ({"align/textgrid"}, "the text is empty: there is nothing to align"),
            ({"text/builtin-tiny"}, "the text is empty; give its transcript, or leave the text stream out for it"),
        ]
    }
    assert "1 of 3 utterances could not be processed whole" in result.stderr
    assert "Aligned 2 of 3 utterances; the other 1 have no words, but frames and utterance states" in result.stdout
    pooled = Cache(path).stream(POOLED)
    assert np.diff(pooled.packed("word", utterances=["u0", "mute"]).offsets).tolist() == [3, 0]
    assert np.isfinite(pooled.packed("utterance", utterances=["mute"]).values).all()


def test_alignments_that_do_not_fit_are_named(corpus: Path, tmp_path: Path) -> None:
    for uid in ("none", "long", "broken"):
        write_noise(corpus.parent / "wav" / f"{uid}.wav", 0.5, 5)
        add_row(corpus, uid, f"wav/{uid}.wav")
    grids = corpus.parent / "textgrid"
    write_textgrid(Alignment("long", (Segment(0.1, 0.9, "hi"),)), 1.0, grids / "long.TextGrid")
    (grids / "broken.TextGrid").write_text("File type = 'ooTextFile'\nand nothing\n", encoding="utf-8")
    result = command(corpus, tmp_path / "cache")
    assert result.exit_code == 3
    rows = failed(tmp_path / "cache")
    assert {uid: streams for uid, ((streams, _),) in rows.items()} == {
        uid: {"align/textgrid"} for uid in ("none", "long", "broken")
    }
    for uid, message in (
        ("none", "'none': there is no none.TextGrid in"),
        ("long", "lies outside the audio, which lasts 0.500 s"),
        ("broken", "is no TextGrid that can be read"),
    ):
        assert message in rows[uid][0][1]
    assert len(Cache(tmp_path / "cache").stream(POOLED)) == 5


def test_what_is_kept_of_the_others_is_theirs_where_one_cannot_be_aligned(tmp_path: Path) -> None:
    """All in one shard, the longest first: u3 fails amid them."""
    corpus, path = make_corpus(tmp_path / "corpus"), tmp_path / "cache"
    (corpus.parent / "textgrid" / "u3.TextGrid").unlink()
    assert run(corpus, path, speech_model="none", text_model="none").failures.keys() == {("u3", "align/textgrid")}
    stream = Cache(path).stream("align/textgrid")
    assert stream.utterance_ids == ["u5", "u4", "u2", "u1", "u0"]
    seconds = stream.packed("utterance", "duration_s").values
    np.testing.assert_allclose(seconds, [1.2, 0.9137, 0.61, 0.47, 0.3], atol=1 / 16_000)
    assert stream.packed("utterance", "words").values.tolist() == [8, 7, 5, 4, 3]  # "Hi, a word!" and as many "yes"
    recordings = [read_audio(corpus.parent / "wav" / f"{uid}.wav").digest for uid in stream.utterance_ids]
    assert list(stream.digests("audio").values()) == recordings
    assert list(stream.digests("text").values()) == [text_digest(TEXT + " yes" * n) for n in (5, 4, 2, 1, 0)]


class Overflow:
    """An encoder whose states of one utterance, known by its length, are 1e6 (or NaN) at one place."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, duration_s: float, value: float) -> None:
        self.samples, self.value, self.original = round(16_000 * duration_s), value, SpeechEncoder.states
        monkeypatch.setattr(SpeechEncoder, "states", lambda *args: self.states(*args))

    def states(self, encoder: SpeechEncoder, waveforms, layers) -> tuple[torch.Tensor, list[int]]:
        states, lengths = self.original(encoder, waveforms, layers)
        for i, waveform in enumerate(waveforms):
            if len(waveform) == self.samples:
                states = states.clone()
                states[1, i, lengths[i] - 1, 5] = self.value
        return states, lengths


@pytest.mark.parametrize(("value", "shown"), [(1e6, "1e\\+06"), (-7e4, "70000"), (float("nan"), "nan")])
def test_states_that_float16_cannot_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float, shown: str
) -> None:
    corpus, path = make_corpus(tmp_path / "corpus", IDS[:4]), tmp_path / "cache"
    Overflow(monkeypatch, DURATIONS_S["u2"], value)
    result = command(corpus, path, "--layers", "1,3", "--keep", "frame,word,utterance")
    assert result.exit_code == 3
    ((streams, reason),) = failed(path)["u2"]
    assert streams == {"speech/builtin-tiny", POOLED}
    assert re.match(f"a state of layer 3 is {shown}, more than float16 holds or not a number", reason)
    assert "try --dtype float32" in reason
    whole = Cache(path)
    for name in streams:
        assert sorted(whole.stream(name).utterance_ids) == ["u0", "u1", "u3"]
    monkeypatch.undo()
    # What was written without it is what a run without it writes.
    run(corpus, tmp_path / "sound", layers="1,3", keep=("frame", "word", "utterance"))
    for name, granularity in (("speech/builtin-tiny", "frame"), (POOLED, "word"), (POOLED, "utterance")):
        found, expected = (
            Cache(p).stream(name).packed(granularity, utterances=["u0", "u1", "u3"]).values
            for p in (path, tmp_path / "sound")
        )
        np.testing.assert_allclose(found.astype(np.float32), expected.astype(np.float32), atol=2e-3)


def test_float32_holds_what_float16_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = make_corpus(tmp_path / "corpus", IDS[:2])
    Overflow(monkeypatch, DURATIONS_S["u1"], 1e6)
    assert command(corpus, tmp_path / "cache", "--dtype", "float32").exit_code == 0


# --- failed.csv


def test_failed_csv_goes_when_all_is_mended(corpus: Path, tmp_path: Path) -> None:
    path = tmp_path / "cache"
    add_row(corpus, "u2", "wav/u2.wav")
    make_corpus(tmp_path / "whole", IDS[:3])
    assert command(corpus, path).exit_code == 3
    assert failed(path).keys() == {"u2"}
    for part in ("wav/u2.wav", "textgrid/u2.TextGrid"):
        (corpus.parent / part).write_bytes((tmp_path / "whole" / part).read_bytes())
    result = command(corpus, path)
    assert result.exit_code == 0, result.output
    assert not (path / "failed.csv").exists()
    assert "u2" in Cache(path).stream(POOLED)


def test_failures_stand_until_they_are_mended(corpus: Path, tmp_path: Path) -> None:
    """A later run that looks at other streams or other utterances says nothing about the old failures."""
    path = tmp_path / "cache"
    add_row(corpus, "bad", "wav/bad.wav")
    command(corpus, path)
    before = failed(path)
    run(corpus, path, speech_model="none", aligner="none", textgrids=None)
    assert failed(path) == before
    other = make_corpus(tmp_path / "other", IDS[3:5])
    assert command(other, path).exit_code == 0
    assert failed(path) == before


def test_a_failure_is_no_fault_of_the_cache(corpus: Path, tmp_path: Path) -> None:
    path = tmp_path / "cache"
    silence(corpus.parent / "wav" / "bad.wav")
    add_row(corpus, "bad", "wav/bad.wav")
    for _ in range(3):
        assert command(corpus, path).exit_code == 3
        result = mmser("cache", "verify", path)
        assert result.exit_code == 0, result.output


# --- mistakes that concern the whole run


def write_rows(corpus: Path, content: str) -> None:
    corpus.write_text(content, encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("utterance_id,audio\na,wav/u0.wav\na,wav/u1.wav\n", r"utterance ids must be unique.*'a' \(rows 2, 3\)"),
        ("utterance_id,audio\n../x,wav/u0.wav\n", r"row 2: utterance id '\.\./x' looks like a path"),
        ("utterance_id,audio\n/etc/x,wav/u0.wav\n", "looks like a path"),
        ("id,audio\na,wav/u0.wav\n", "has no column 'utterance_id'; it has id, audio: rename 'id' to 'utterance_id'"),
        ("utterance_id,wav\na,wav/u0.wav\n", "has no column 'audio'.*rename 'wav' to 'audio'"),
        ("utterance_id,audio,start_s\na,wav/u0.wav,early\n", "found 'early', expected a number such as 2.5"),
        ("utterance_id,audio\n", "has no rows"),
    ],
)
def test_a_bad_manifest_stops_the_run(corpus: Path, tmp_path: Path, content: str, message: str) -> None:
    write_rows(corpus, content)
    result = command(corpus, tmp_path / "cache")
    assert result.exit_code == 1
    assert re.match(f"Error: .*{message}", result.stderr), result.stderr
    assert str(corpus) in result.stderr
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--keep", "frame,sentence"], "--keep sentence: no such granularity; there are frame, phone, syllable"),
        (["--speech-model", "builtin:huge"], "'builtin:huge': no such built-in encoder; there are: builtin:tiny"),
        (["--text-model", "builtin:huge"], "'builtin:huge': no such built-in encoder; there are: builtin:tiny"),
        (["--layers", "9"], r"layers '9': this encoder has layers 0 .* to 3"),
        (["--text-layers", "last"], "layers 'last': expected e.g. all, 9, 0,6,12 or 4-8"),
        (["--device", "abacus"], "device 'abacus' cannot be used here"),
        (["--batch-seconds", "0"], "--batch-seconds 0.0: expected a number of seconds more than 0"),
        (["--batch-seconds", "nan"], "--batch-seconds nan: expected a number of seconds"),
        (["--batch-seconds", "inf"], "--batch-seconds inf: expected a number of seconds"),
        (["--align", "none"], "--textgrids .* is for --align textgrid, but the aligner asked for is 'none'"),
        (["--textgrids", "nowhere"], "the folder of TextGrids nowhere does not exist"),
        (["--lexicon", "words.dict"], "--lexicon words.dict is for --align pocketsphinx, but .* is 'textgrid'"),
    ],
)
def test_a_bad_option_stops_the_run(corpus: Path, tmp_path: Path, options: list[str], message: str) -> None:
    result = command(corpus, tmp_path / "cache", *options)
    assert result.exit_code == 1
    assert re.match(f"Error: .*{message}", result.stderr), result.stderr
    assert not shards(tmp_path / "cache")  # found out before any work was done


def test_options_that_contradict_each_other() -> None:
    with pytest.raises(MmserError, match="--keep word needs an alignment: add --align pocketsphinx"):
        Extraction(keep=("frame", "word"))
    with pytest.raises(
        MmserError, match="pooling 'median', dtype 'float16' and compute 'float32': expected one of mean, mean"
    ):
        Extraction(pooling="median")


def test_other_whole_run_mistakes(corpus: Path, tmp_path: Path) -> None:
    def error(*arguments: str) -> str:
        result = mmser("extract", *arguments)
        assert result.exit_code == 1
        assert result.stderr.startswith("Error: ")
        return result.stderr

    cache = str(tmp_path / "cache")
    tiny = ["--speech-model", "builtin:tiny", "--text-model", "builtin:tiny"]
    assert "no.csv' is not there; expected a file" in error(str(tmp_path / "no.csv"), "--cache", cache, *tiny)
    assert "needs the folder that holds <utterance_id>.TextGrid files" in error(
        str(corpus), "--cache", cache, *tiny, "--align", "textgrid"
    )
    nothing = ["--speech-model", "none", "--text-model", "none"]
    assert "nothing to extract: give --speech-model, --text-model, --align, --mel or --opensmile" in error(
        str(corpus), "--cache", cache, *nothing
    )
    assert "a cache is a folder, and this one cannot be made (File exists); give another --cache" in error(
        str(corpus), "--cache", str(corpus), *tiny
    )
    empty = tmp_path / "model"
    empty.mkdir()
    assert f"speech model '{empty}' could not be loaded" in error(
        str(corpus), "--cache", cache, "--speech-model", str(empty), "--text-model", "none"
    )


def test_a_cache_of_another_schema_is_refused(corpus: Path, tmp_path: Path) -> None:
    path = tmp_path / "cache"
    run(corpus, path)
    before = shards(path)
    file = path / POOLED / "stream.json"
    head = json.loads(file.read_text(encoding="utf-8"))
    # another schema may tell its recipe in other words: the schema is what the user must hear of
    file.write_text(json.dumps({**head, "schema": 2, "recipe": {"layers": "all of them"}}), encoding="utf-8")
    result = command(corpus, path)
    assert result.exit_code == 1
    assert f"Error: {file}: cache schema 2, this mmser reads 1; extract again" in result.stderr
    assert shards(path) == before


def test_a_stream_that_another_process_writes_is_left_alone(corpus: Path, tmp_path: Path) -> None:
    path = tmp_path / "cache"
    with StreamWriter(path, "text/builtin-tiny", {}, {}):
        result = command(corpus, path)
        assert result.exit_code == 1
        assert f"Error: {path / 'text/builtin-tiny'}: another mmser is writing this stream; wait" in result.stderr
        assert len(Cache(path).stream("align/textgrid")) == 2  # what was finished before is kept
    (path / "text/builtin-tiny" / "stream.json").unlink()
    assert command(corpus, path).exit_code == 0
