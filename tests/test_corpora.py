"""Corpus readers: on miniatures made here, and on the real thing where it is at hand."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mmser.audio import read_audio
from mmser.corpora import CORPORA
from mmser.corpora.emodb import COUNTS, read_emodb
from mmser.errors import ManifestError
from mmser.manifest import read_manifest, write_manifest


@pytest.fixture
def emodb(tmp_path: Path) -> Path:
    folder = tmp_path / "emodb"
    (folder / "wav").mkdir(parents=True)
    for name in ("16b10Wb", "03a01Fa", "08a05Nc"):
        samples = np.random.default_rng(0).uniform(-0.1, 0.1, 1_600)
        soundfile.write(folder / "wav" / f"{name}.wav", samples, 16_000)
    (folder / "wav" / "._03a01Fa.wav").write_bytes(b"\0\5\x16\7")
    (folder / "wav" / "readme.txt").write_text("not a recording")
    return folder


def test_emodb_names_say_everything(emodb: Path) -> None:
    manifest = read_emodb(emodb)
    assert manifest.ids == ["03a01Fa", "08a05Nc", "16b10Wb"]
    first = manifest.utterances()[0]
    assert first.audio == emodb / "wav" / "03a01Fa.wav"
    assert first.text == "Der Lappen liegt auf dem Eisschrank."
    assert first.fields == {
        "speaker": "03",
        "label": "happiness",
        "gender": "male",
        "sentence": "a01",
        "version": "a",
    }
    assert list(manifest.column("label")) == ["happiness", "neutral", "anger"]
    assert list(manifest.column("gender")) == ["male", "female", "female"]


def test_emodb_is_found_by_either_folder(emodb: Path) -> None:
    outer, inner = read_emodb(emodb), read_emodb(emodb / "wav")
    assert [u.audio for u in outer.utterances()] == [u.audio for u in inner.utterances()]


def test_emodb_manifest_written_elsewhere_finds_its_audio(emodb: Path, tmp_path: Path) -> None:
    write_manifest(read_emodb(emodb), tmp_path / "manifest.csv")
    again = read_manifest(tmp_path / "manifest.csv")
    assert again.column("audio")[0] == "emodb/wav/03a01Fa.wav"
    assert again.column("speaker")[0] == "03"
    assert len(read_audio(again.utterances()[0].audio).samples) == 1_600


def test_emodb_says_what_is_missing_and_what_it_left_out(emodb: Path) -> None:
    (emodb / "wav" / "03a03Fa.wav").write_bytes(b"")  # there is no sentence a03
    (emodb / "wav" / "other.wav").write_bytes(b"")
    manifest = read_emodb(emodb)
    assert len(manifest) == 3
    assert manifest.warnings[0] == (
        "EmoDB: left out 2 recordings not named like '03a01Fa.wav': '03a03Fa.wav', 'other.wav'"
    )
    assert manifest.warnings[1] == "EmoDB: found 1 recordings of anger, expected 127 as published"
    assert len(manifest.warnings) == 1 + len(COUNTS)


def test_emodb_in_the_wrong_folder(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"none' is not there; expected the folder that holds 'wav/'"):
        read_emodb(tmp_path / "none")
    with pytest.raises(ManifestError, match=r"no recording named like '03a01Fa\.wav'; found nothing"):
        read_emodb(tmp_path)
    (tmp_path / "1001_IEO_NEU_XX.wav").write_bytes(b"")
    with pytest.raises(ManifestError, match=r"found '1001_IEO_NEU_XX\.wav': give the folder"):
        read_emodb(tmp_path)


@pytest.mark.data
def test_the_real_emodb(speech_data: Path) -> None:
    manifest = CORPORA["emodb"](speech_data / "emodb")
    assert len(manifest) == 535
    assert manifest.warnings == ()
    assert Counter(manifest.column("label")) == COUNTS
    assert len(set(manifest.column("speaker"))) == 10
    assert set(Counter(manifest.column("sentence"))) == {
        "a01", "a02", "a04", "a05", "a07", "b01", "b02", "b03", "b09", "b10"
    }  # fmt: skip
    seconds = sum(len(read_audio(u.audio).samples) for u in manifest.utterances()) / 16_000
    assert seconds == pytest.approx(1487, abs=1)
