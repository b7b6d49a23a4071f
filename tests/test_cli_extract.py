"""The command line of stage 1: what it prints, how it ends, and that its help helps."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import h5py
import numpy as np
import pandas as pd
import pytest
import soundfile
from small_corpus import IDS, make_corpus, mmser, run

from mmser import __version__
from mmser.audio import read_audio
from mmser.cache import Cache
from mmser.cli import main
from mmser.errors import AudioError
from mmser.manifest import Manifest, read_manifest, write_manifest
from mmser.records import Kind

TINY = ("--speech-model", "builtin:tiny", "--text-model", "builtin:tiny", "--device", "cpu", "--jobs", "1")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of three utterances."""
    folder = tmp_path_factory.mktemp("made")
    run(make_corpus(folder, IDS[:3]), folder / "cache")
    return folder / "cache"


# --- help


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, sub in command.commands.items():
            yield from commands(sub, (*path, name))


COMMANDS = dict(commands(main))


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: " ".join(("mmser", *path)))
def test_every_command_shows_an_example_and_explains_every_option(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    shown = mmser(*path, "--help")
    assert shown.exit_code == 0
    assert mmser(*path, "-h").output == shown.output
    examples = re.findall(rf"^ +(mmser {' '.join(path)}.*)$", shown.output, re.MULTILINE)
    assert examples, f"the help of 'mmser {' '.join(path)}' shows no example"
    silent = [p.opts[0] for p in command.params if isinstance(p, click.Option) and not p.help]
    assert not silent, f"options without help: {silent}"
    assert '[default: ""]' not in shown.output
    names = {option for p in command.params for option in (*p.opts, *p.secondary_opts)} | {"--help"}
    for example in examples:
        used = set(re.findall(r"(?<=\s)--[a-z-]+", example))
        assert used <= names or isinstance(command, click.Group), f"{example}: {used - names} are no options"


def test_version_and_wrong_words() -> None:
    assert mmser("--version").output == f"mmser, version {__version__}\n"
    for arguments in (["extract"], ["extract", "a.csv"], ["cache", "nonsense"], ["extract", "a.csv", "--nonsense"]):
        assert mmser(*arguments).exit_code == 2


# --- extract


def test_extract_says_what_it_did(tmp_path: Path) -> None:
    corpus, cache = make_corpus(tmp_path, IDS[:3]), tmp_path / "cache"
    arguments = ["extract", corpus, "--cache", cache, *TINY, "--align", "textgrid"]
    arguments += ["--textgrids", tmp_path / "textgrid", "--keep", "frame, word"]
    result = mmser(*arguments)
    assert result.exit_code == 0, result.output
    added = [line for line in result.stdout.splitlines() if line.endswith("added")]
    assert added == [
        f"{cache}/{name}: 3 utterances added"
        for name in (
            "align/textgrid",
            "text/builtin-tiny",
            "speech/builtin-tiny",
            "pooled/builtin-tiny@textgrid",
        )
    ]
    assert "Aligned 3 of 3 utterances\n" in result.stdout
    assert re.search(r"^speech: 3/3", result.stderr, re.MULTILINE)
    assert Cache(cache).stream("pooled/builtin-tiny@textgrid").granularities == ["word"]
    again = mmser(*arguments)
    assert again.exit_code == 0
    assert again.stdout.startswith(f"{cache}: nothing was missing\n")


def test_one_command_without_alignment_or_text(tmp_path: Path) -> None:
    corpus, cache = make_corpus(tmp_path, IDS[:2]), tmp_path / "cache"
    result = mmser("extract", corpus, "--cache", cache, *TINY, "--text-model", "none", "--layers", "-1")
    assert result.exit_code == 0
    assert result.stdout == f"{cache}/pooled/builtin-tiny@none: 2 utterances added\n"
    stream = Cache(cache).stream("pooled/builtin-tiny@none")
    assert stream.granularities == ["utterance"]
    assert stream.layers == [3]


def test_an_english_sentence_by_pocketsphinx(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    from mmser.demo.speak import Line, speak

    speak({tmp_path / "said.wav": Line("The door is open again.", "en-us")})
    rows = {"utterance_id": ["said"], "audio": ["said.wav"], "text": ["The door is open again."]}
    write_manifest(Manifest(pd.DataFrame(rows), tmp_path), tmp_path / "said.csv")
    result = mmser("extract", tmp_path / "said.csv", "--cache", tmp_path / "cache", *TINY, "--align", "pocketsphinx")
    assert result.exit_code == 0, result.output
    cache = Cache(tmp_path / "cache")
    aligned = cache.stream("align/pocketsphinx")
    kinds = aligned.packed("word", "kind").values
    labels = aligned.packed("word", "label").values[kinds == Kind.SPEECH]
    assert [label.decode() for label in labels] == ["the", "door", "is", "open", "again"]
    segment = cache.stream("pooled/builtin-tiny@pocketsphinx").packed("word", "segment").values
    np.testing.assert_array_equal(segment, np.flatnonzero(kinds != Kind.SILENCE))


SLOW = """
import time
import mmser.extract.speech_stream as stream
from mmser.cli import main
from mmser.extract.speech import SpeechEncoder

stream.SHARD_SECONDS = 0.1
states = SpeechEncoder.states

def slowly(*arguments):
    time.sleep(0.2)
    return states(*arguments)

SpeechEncoder.states = slowly
main(prog_name="mmser")
"""


@pytest.mark.skipif(os.name != "posix", reason="Windows sends no SIGINT to one process")
def test_ctrl_c_is_answered_with_a_word_and_the_same_command_goes_on(tmp_path: Path) -> None:
    corpus, cache = make_corpus(tmp_path), tmp_path / "cache"
    arguments = ["extract", str(corpus), "--cache", str(cache), *TINY, "--text-model", "none"]
    environment = {**os.environ, "HF_TOKEN": "hf_secretsecretsecret"}
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not list(cache.rglob("*.h5")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert "Stopped. What is finished is kept; the same command goes on from there." in err
    assert "Traceback" not in out + err
    assert 0 < len(Cache(cache).stream("pooled/builtin-tiny@none")) < 6
    assert mmser(*arguments).exit_code == 0
    assert sorted(Cache(cache).stream("pooled/builtin-tiny@none").utterance_ids) == IDS
    written = [path.read_bytes() for path in cache.rglob("*") if path.is_file()]
    assert not any(b"hf_secret" in data for data in [out.encode(), err.encode(), *written])


def test_python_m_mmser() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mmser", "cache", "info", "no-cache"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "Error: no-cache: no such cache; make one with: mmser extract MANIFEST --cache no-cache\n"


# --- manifest


def test_manifest_of_emodb(tmp_path: Path) -> None:
    for name in ("03a01Fa", "08a02Wb", "stranger"):
        (tmp_path / "wav").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "wav" / f"{name}.wav", np.ones(800) / 2, 16_000)
    out = tmp_path / "emodb.csv"
    result = mmser("manifest", "emodb", tmp_path, "--out", out)
    assert result.exit_code == 0
    assert result.stdout == f"{out}: 2 utterances (1 happiness, 1 anger)\n"
    assert f"Note: 1 left out; {tmp_path / 'emodb.excluded.csv'} says why" in result.stderr
    assert (tmp_path / "emodb.excluded.csv").read_text().splitlines()[1:] == ["stranger.wav,not named like '03a01Fa'"]
    assert "Note: EmoDB: found 1 utterances of label 'anger', expected 127 as published" in result.stderr
    table = read_manifest(out)
    assert table.ids == ["03a01Fa", "08a02Wb"]
    assert [u.audio.is_file() for u in table.utterances()] == [True, True]
    told = json.loads(mmser("manifest", "emodb", tmp_path, "--out", out, "--json", "--quiet").stdout)
    assert (told["utterances"], told["labels"], told["left_out"]) == (2, {"happiness": 1, "anger": 1}, 1)
    assert [f"Note: {note}" for note in told["notes"]] == result.stderr.splitlines()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["emo", ".", "--out", "a.csv"], "no corpus is called 'emo'; there are: iemocap, msp-podcast, "),
        (["emodb", "nowhere", "--out", "a.csv"], "EmoDB: folder 'nowhere' is not there"),
        (["emodb", ".", "--out", "a.csv"], "holds no recording named like '03a01Fa'"),
    ],
)
def test_manifest_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    result = mmser("manifest", *arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert not (tmp_path / "a.csv").exists()


# --- cache


def data_bytes(path: Path) -> int:
    """Bytes of a file's datasets: what a packed cache, whose streams share one file, can tell as well."""
    found = []
    with h5py.File(path) as file:
        file.visititems(lambda _, item: found.append(item.nbytes) if isinstance(item, h5py.Dataset) else None)
    return sum(found)


def test_info_lists_the_streams(made: Path) -> None:
    result = mmser("cache", "info", made)
    assert result.exit_code == 0
    header, *rows = (re.split(r" {2,}", line.strip()) for line in result.stdout.splitlines())
    assert header == ["stream", "utterances", "granularities", "layers", "shards", "size"]
    assert [row[:5] for row in rows] == [
        ["text/builtin-tiny", "3", "token", "3", "1"],
        ["align/textgrid", "3", "phone syllable utterance word", "-", "1"],
        ["pooled/builtin-tiny@textgrid", "3", "phone syllable utterance word", "0,1,2,3", "1"],
    ]
    sizes = [sum(data_bytes(path) for path in (made / row[0]).glob("*.h5")) for row in rows]
    assert [row[5] for row in rows] == [f"{size / 1000:.1f} kB" for size in sizes]


@pytest.mark.parametrize("command", ["info", "verify"])
def test_a_cache_that_is_not_there(command: str, tmp_path: Path) -> None:
    result = mmser("cache", command, tmp_path / "none")
    assert result.exit_code == 1
    assert "none: no such cache; make one with: mmser extract MANIFEST --cache" in result.stderr


@pytest.mark.parametrize("command", ["info", "verify", "compact", "pack", "doctor"])
def test_a_folder_that_is_no_cache(command: str, made: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    rest = ("--out", tmp_path / "made.h5") if command == "pack" else ()
    found = []
    for folder in (made.parent, tmp_path / "empty"):
        asked = ("doctor", made.parent / "corpus.csv", "--no-audio", "--cache", folder)
        found.append(mmser(*(asked if command == "doctor" else ("cache", command, folder, *rest))))
    assert [(one.exit_code, one.stdout) for one in found] == [(1, "")] * 2
    assert found[0].stderr == f"Error: {made.parent} is no cache, but cache in it could be: name one of them\n"
    assert found[1].stderr.endswith("is no cache: it holds neither a stream nor a manifest.csv; name another folder\n")
    assert not (tmp_path / "made.h5").exists()


def test_verify_names_a_stream_that_has_lost_its_recipe(made: Path, tmp_path: Path) -> None:
    cache = shutil.copytree(made, tmp_path / "cache")
    lost = cache / "text" / "builtin-tiny" / "stream.json"
    lost.unlink()
    result = mmser("cache", "verify", cache)
    assert result.exit_code == 1
    assert result.stdout == (
        f"{lost}: not there, but the stream's plan or shards are; nobody can say what made them: put a copy of the "
        "file back, or delete the folder and extract again\n"
    )
    said = f"Error: {result.stdout}"
    assert mmser("cache", "pack", cache, "--out", tmp_path / "made.h5").stderr == said
    assert not (tmp_path / "made.h5").exists()
    again = mmser("extract", made.parent / "corpus.csv", "--cache", cache, "--speech-model", "none",
                  "--text-model", "builtin:tiny")  # fmt: skip
    assert (again.exit_code, said in again.stderr) == (1, True)  # what another recipe may have made is not claimed
    assert not lost.exists()
    (cache / "manifest.csv").unlink()
    for kind in ("pooled", "align"):
        shutil.rmtree(cache / kind)
    assert mmser("cache", "verify", cache).stdout == result.stdout  # all that is left of it
    shutil.rmtree(lost.parent)
    lost.parent.mkdir()
    assert "is no cache" in mmser("cache", "verify", cache).stderr


def test_verify_names_the_shard_with_the_flipped_byte(made: Path) -> None:
    assert mmser("cache", "verify", made).output == f"{made}: 3 streams, every byte as it was written\n"
    (shard,) = (made / "pooled/builtin-tiny@textgrid").glob("*.h5")
    original = shard.read_bytes()
    flipped = bytearray(original)
    flipped[len(flipped) // 2] ^= 4
    shard.write_bytes(flipped)
    try:
        result = mmser("cache", "verify", made)
    finally:
        shard.write_bytes(original)
    assert result.exit_code == 1
    assert f"{shard}: changed since it was written; delete it and extract again" in result.stdout
    assert result.stderr == f"Error: {made}: 1 fault\n"


# --- real recordings


def transcript_of(folder: Path, name: str) -> str:
    for suffix in (".lab", ".txt"):
        path = folder / f"{name}{suffix}"
        if path.is_file():
            return path.read_text(encoding="utf-8-sig")
    return "umm, something that somebody said"  # what these recordings hold was not written down


@pytest.mark.data
@pytest.mark.slow
def test_every_real_recording_is_in_the_cache_or_in_failed_csv(speech_data: Path, tmp_path: Path) -> None:
    folder = speech_data / "speech_en"
    recordings = [*sorted((folder / "mfa" / "wav").iterdir()), *sorted((folder / "praatio").glob("*.wav"))]
    # transcripts in other scripts stand beside no recording: each is given to one in English
    said = folder / "mfa" / "wav" / "se10x016-08071999-1334_u0016001.wav"
    rows = [(path.name, path, transcript_of(folder / "mfa" / "lab", path.stem)) for path in recordings]
    for name in ("japanese", "french_clitics", "devanagari", "日本語", "weird_words", "punctuated"):
        rows.append((f"{name} of se10x", said, transcript_of(folder / "mfa" / "lab", name)))
    table = pd.DataFrame(rows, columns=["utterance_id", "audio", "text"])
    write_manifest(Manifest(table.assign(audio=table["audio"].map(str)), tmp_path), tmp_path / "all.csv")
    result = mmser("extract", tmp_path / "all.csv", "--cache", tmp_path / "cache", *TINY, "--align", "pocketsphinx")
    assert result.exit_code in (0, 3), result.output
    unreadable = {}
    for uid, path, _ in rows:
        try:
            read_audio(path)
        except AudioError as error:
            unreadable[uid] = str(error)
    cache = Cache(tmp_path / "cache")
    failures: dict[tuple[str, str], str] = {}
    with (tmp_path / "cache" / "failed.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            failures.update({(row["utterance_id"], stream): row["reason"] for stream in row["streams"].split()})
    assert all(len(reason) > 20 for reason in failures.values())
    for name, stream in cache.streams.items():
        stored, named = set(stream.utterance_ids), {uid for uid, s in failures if s == name}
        assert stored | named == {uid for uid, _, _ in rows}
        assert not stored & named
        if name.startswith("pooled"):
            assert named == set(unreadable)
            assert all(failures[uid, name] == reason for uid, reason in unreadable.items())
            for granularity in stream.granularities:
                assert np.isfinite(stream.packed(granularity).values).all()
    for uid in ("devanagari of se10x", "japanese of se10x", "日本語 of se10x"):
        assert uid in cache.stream("pooled/builtin-tiny@pocketsphinx")
        assert (uid, "align/pocketsphinx") in failures, uid
    assert mmser("cache", "verify", tmp_path / "cache").exit_code == 0
