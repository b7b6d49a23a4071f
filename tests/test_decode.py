"""Decoding happens in processes; one that dies costs its own recording, and none is left behind."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_corpus import make_corpus, mmser, write_noise

from mmser.audio import duration_s, read_audio
from mmser.cache import Cache, Unit
from mmser.errors import MmserError
from mmser.extract.decode import Decoders
from mmser.manifest import Manifest, write_manifest
from mmser.records import Utterance

FRAMES = "speech/builtin-tiny"


def recordings(folder: Path, *names: str) -> dict[str, Utterance]:
    return {name: Utterance(name, write_noise(folder / f"{name}.wav", 0.3, i)) for i, name in enumerate(names)}


@pytest.fixture
def decoders() -> Iterator[Decoders]:
    with Decoders(2) as made:
        yield made


@pytest.fixture
def crashing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmser.extract.decode.PROCESS", "stand_in_decoder")


def test_what_comes_out_of_a_process_is_what_went_in(tmp_path: Path, decoders: Decoders) -> None:
    utterances = recordings(tmp_path, "a", "b", "c ÿ'")
    utterances["part"] = Utterance("part", utterances["b"].audio, 0.1, 0.2000001)
    utterances["long"] = Utterance("long", write_noise(tmp_path / "long.wav", 3.0, 9, 44_100))
    utterances["gone"] = Utterance("gone", tmp_path / "gone.wav")
    ids = tuple(utterances)
    both = list(decoders.units([Unit(0, ids[:4]), Unit(1, ids[4:])], utterances))
    assert [list(one.recordings) for one in both] == [list(ids[:4]), ["long"]]
    assert list(both[1].failures) == ["gone"]
    assert both[1].failures["gone"].endswith("is not there; expected a recording: check the manifest's audio column")
    seconds, failures = decoders.durations(utterances.values())
    assert failures == both[1].failures
    for one in both:
        for uid, found in one.recordings.items():
            span = utterances[uid].audio, utterances[uid].start_s, utterances[uid].end_s
            expected = read_audio(*span)
            assert found.digest == expected.digest
            np.testing.assert_array_equal(found.samples, expected.samples)
            assert seconds[uid] == duration_s(*span)


def test_a_process_imports_little_and_only_what_this_process_would(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('imported from the folder we are in')")
    code = (
        f"import os, sys; sys.path[:] = {[p for p in sys.path if p]}; import mmser.extract.decode as decode;"
        f"os.chdir({str(tmp_path)!r});"
        "decode._START = decode._START.replace('.serve()', '');"
        "decode._START += '; print(sorted({m.split(chr(46))[0] for m in sys.modules}), file=sys.stderr)';"
        "one = decode.Decoders(1); one.start(1); one._idle[0]._process.communicate(b'')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'soundfile'" in done.stderr
    for heavy in ("torch", "transformers", "pandas", "h5py", "scipy"):
        assert f"'{heavy}'" not in done.stderr


@pytest.mark.usefixtures("crashing")
def test_a_death_costs_its_own_recording_alone(tmp_path: Path, decoders: Decoders) -> None:
    utterances = recordings(tmp_path, "a", "abort", "b", "exit", "once", "c", "header")
    ids = tuple(utterances)
    (done,) = decoders.units([Unit(0, ids)], utterances)
    assert list(done.recordings) == ["a", "b", "once", "c", "header"]
    assert done.failures["abort"].startswith(
        f"audio {str(tmp_path / 'abort.wav')!r}: the process that decoded it died (SIGABRT), and so did the next one "
        "(SIGABRT); convert the recording"
    )
    assert "died (exit code 7), and so did the next one (exit code 7)" in done.failures["exit"]
    seconds, failures = decoders.durations(utterances.values())
    assert list(failures) == ["header"]
    assert len(seconds) == 6


@pytest.mark.usefixtures("crashing")
def test_an_extraction_outlives_its_decoders(tmp_path: Path) -> None:
    names = ["a", "abort", "b"]
    recordings(tmp_path, *names)
    table = pd.DataFrame({"utterance_id": names, "audio": [f"{name}.wav" for name in names]})
    write_manifest(Manifest(table, tmp_path), tmp_path / "m.csv")
    arguments = ["extract", tmp_path / "m.csv", "--cache", tmp_path / "cache", "--speech-model", "builtin:tiny",
                 "--text-model", "none", "--keep", "frame", "--device", "cpu", "--jobs", "2"]  # fmt: skip
    for _ in range(2):  # and so does the run that goes on
        assert mmser(*arguments).exit_code == 3
        assert sorted(Cache(tmp_path / "cache").stream(FRAMES).utterance_ids) == ["a", "b"]
        with (tmp_path / "cache" / "failed.csv").open(encoding="utf-8", newline="") as file:
            (row,) = csv.DictReader(file)
        assert (row["utterance_id"], row["streams"]) == ("abort", FRAMES)
        assert "the process that decoded it died (SIGABRT)" in row["reason"]


def test_processes_that_do_not_start_are_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmser.extract.decode.PROCESS", "no_such_module")
    with Decoders(2) as decoders, pytest.raises(MmserError, match=r"recordings did not start \(exit code 1\)"):
        decoders.durations(recordings(tmp_path, "a").values())


def test_a_defect_in_a_process_is_raised_where_it_was_asked_for(tmp_path: Path, decoders: Decoders) -> None:
    utterance = Utterance("a", write_noise(tmp_path / "a.wav", 0.3, 1))
    object.__setattr__(utterance, "start_s", "x")
    with pytest.raises(AssertionError, match="utterance 'a': Traceback"):
        decoders.durations([utterance])


# --- none is left behind


def processes_of(session: str) -> list[int]:
    """Living processes that carry a mark in their environment; Linux alone."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if session.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:  # gone, or another user's
            continue
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_stopped_by_a_signal_it_leaves_no_process(tmp_path: Path, how: signal.Signals, code: int) -> None:
    corpus = make_corpus(tmp_path)
    write_noise(tmp_path / "wav" / "slow.wav", 0.3, 1)
    corpus.write_text(corpus.read_text() + "slow,wav/slow.wav,hi\n")
    script = (
        "import sys, mmser.extract.decode as decode; decode.PROCESS = 'stand_in_decoder';"
        "from mmser.cli import main; main()"
    )
    mark = f"MMSER_TEST_{os.getpid()}_{tmp_path.name}"
    environment = {**os.environ, "MARK": mark, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", script, "extract", corpus, "--cache", tmp_path / "cache", "--mel",
               "--speech-model", "none", "--text-model", "none", "--jobs", "2"]  # fmt: skip
    process = subprocess.Popen([str(c) for c in command], env=environment, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 300
    while process.poll() is None and not (tmp_path / "wav" / "slow.begun").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    assert len(processes_of(mark)) == 3
    os.kill(process.pid, how)
    if how is signal.SIGINT:
        assert process.stderr is not None
        while "once more stops at once" not in process.stderr.readline():
            assert process.poll() is None
        os.kill(process.pid, how)
    _, said = process.communicate(timeout=30)
    assert process.returncode == code, said
    if how is signal.SIGINT:
        assert "Stopped. What is finished is kept" in said
        assert "Traceback" not in said
    until = time.monotonic() + 30
    while processes_of(mark):
        assert time.monotonic() < until, "processes are left behind"
        time.sleep(0.05)
