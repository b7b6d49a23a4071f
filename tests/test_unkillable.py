"""Extraction survives what machines do: kills, full disks, too little memory; each is answered with one message."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_corpus import DURATIONS_S, IDS, make_corpus, mmser, run, shards

from mmser.cache import Cache, Column, StreamWriter
from mmser.devices import is_out_of_memory
from mmser.errors import CacheError
from mmser.extract.batches import default_batch_seconds
from mmser.extract.options import Extraction
from mmser.extract.speech import SpeechEncoder
from mmser.extract.work import UnstorableError, Work
from mmser.extract.writing import AHEAD, WriterThread, check_storable, fetch
from mmser.units import FrameGrid

POOLED, FRAMES, TOKENS = "pooled/builtin-tiny@textgrid", "speech/builtin-tiny", "text/builtin-tiny"
ALL = ("frame", "phone", "syllable", "word", "utterance")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


# --- killed


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="killing by signal needs a POSIX system")
def test_killed_at_fifty_random_moments_it_ends_in_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    script = Path(__file__).with_name("kill_harness.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(corpus), str(tmp_path), "50", "7"],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["killed"] == 50
    assert found["finished"] >= 1
    assert len(found["left"]) >= 5, f"the kills did not fall all over the work: {found}"


# --- memory


@pytest.mark.skipif(not hasattr(os, "fork"), reason="both begin alike where a process can be forked")
def test_ten_times_the_utterances_take_the_same_memory(tmp_path: Path) -> None:
    script = Path(__file__).with_name("memory_harness.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "200"],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    few, many = json.loads(done.stdout.splitlines()[-1])
    # 6 % are some 14 kB an utterance: its samples alone take 32, its states 10
    assert many <= 1.06 * few, f"{few / 1000:.0f} MB for 200 utterances, {many / 1000:.0f} MB for 2,000"


# --- too little memory on the device


class SmallDevice:
    """A device that holds so much padded audio and no more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self.sizes: list[int] = []
        states = SpeechEncoder.states

        def limited(encoder, waveforms, layers):  # type: ignore[no-untyped-def]
            if len(waveforms) * max(map(len, waveforms)) > seconds * 16_000:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
            self.sizes.append(len(waveforms))
            return states(encoder, waveforms, layers)

        monkeypatch.setattr(SpeechEncoder, "states", limited)


def test_a_cpu_s_own_error_is_one_of_memory() -> None:
    """Torch has none for it: what its allocator says is a plain RuntimeError."""
    with pytest.raises(RuntimeError) as found:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert not isinstance(found.value, torch.OutOfMemoryError)
    assert is_out_of_memory(found.value)
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))


def test_a_batch_that_does_not_fit_is_halved(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(corpus, tmp_path / "large", batch_seconds=40.0, dtype="float32")
    device = SmallDevice(monkeypatch, 2.5)
    result = mmser("extract", corpus, "--cache", tmp_path / "small", "--speech-model", "builtin:tiny", "--text-model",
                   "none", "--align", "textgrid", "--textgrids", corpus.parent / "textgrid", "--device", "cpu",
                   "--batch-seconds", "40", "--dtype", "float32")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    said = [line for line in result.stderr.splitlines() if "too little memory" in line]
    # six of 1.2 s, then three, then one: each half is tried once, and remembered
    assert said == [
        "cpu has too little memory for batches of 40 s: going on with 3.6 s (--batch-seconds sets it)",
        "cpu has too little memory for batches of 3.6 s: going on with 1.2 s (--batch-seconds sets it)",
    ]
    assert device.sizes[2:] == [1, 1, 1, 1, 2]  # behind the two of the trial at loading
    large, small = (Cache(tmp_path / name).stream(POOLED) for name in ("large", "small"))
    for granularity in ALL[1:]:
        found, expected = (s.packed(granularity, utterances=IDS).values for s in (small, large))
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_recording_that_does_not_fit_by_itself_is_named(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SmallDevice(monkeypatch, 1.0)
    summary = run(corpus, tmp_path, batch_seconds=40.0, text_model="none")
    assert list(summary.failures) == [("u5", POOLED)]
    assert summary.failures["u5", POOLED].startswith("its 1.2 s do not fit in the memory of cpu by themselves; cut the")
    assert sorted(Cache(tmp_path).stream(POOLED).utterance_ids) == IDS[:5]


@pytest.mark.parametrize(("total", "seconds"), [(8e9, 64), (24e9, 128), (80e9, 256), (150e9, 256)])
def test_batches_begin_at_a_size_that_follows_from_the_whole_memory(
    monkeypatch: pytest.MonkeyPatch, total: float, seconds: float
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=int(total)))
    assert default_batch_seconds(torch.device("cuda")) == seconds


# --- lower precision


@pytest.mark.parametrize(("compute", "share", "cosine"), [("bf16", 0.1, 0.99), ("fp16", 0.02, 0.9999)])
def test_lower_precision_measures_its_drift(corpus: Path, tmp_path: Path, compute: str, share: float, cosine: float):
    result = mmser("extract", corpus, "--cache", tmp_path / "half", "--speech-model", "builtin:tiny", "--text-model",
                   "builtin:tiny", "--device", "cpu", "--compute", compute, "--keep", "frame,utterance", "--dtype",
                   "float32")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    run(corpus, tmp_path / "exact", keep=("frame", "utterance"), dtype="float32")
    for name, granularity in ((FRAMES, "frame"), (TOKENS, "token")):
        half, exact = (Cache(tmp_path / p).stream(name) for p in ("half", "exact"))
        assert (half.recipe["compute"], exact.recipe["compute"]) == (compute, "float32")
        assert "drift" not in exact.provenance
        shown = half.provenance["drift"]
        assert f"builtin:tiny: {shown}" in result.stderr.splitlines()
        found, expected = (s.packed(granularity, utterances=IDS).values.astype(np.float64) for s in (half, exact))
        # All utterances are measured where there are this few: the drift is that of what was stored.
        differences = np.abs(found - expected).max(axis=(1, 2)) / np.abs(expected).max(axis=(1, 2))
        norms = np.linalg.norm(found, axis=-1) * np.linalg.norm(expected, axis=-1)
        cosines = (found * expected).sum(axis=-1) / norms
        largest, least = float(shown.split()[2]), float(shown.split(" cosine ")[1].split()[0])
        # Batches of another size round otherwise, by some last bits of the lower precision
        assert largest == pytest.approx(differences.max(), rel=0.5)
        assert 0 < largest < share
        assert least == pytest.approx(cosines.min(), abs=(1 - cosine) / 2)
        assert least > cosine
    with pytest.raises(CacheError, match=f"compute was '{compute}', now 'float32'"):
        run(corpus, tmp_path / "half", keep=("frame",), dtype="float32", text_model="none", aligner="none",
            textgrids=None)  # fmt: skip


def test_overflow_in_lower_precision_is_refused_with_what_to_do() -> None:
    peaks = np.array([[1.0, 2.0], [3.0, np.nan]], np.float32)
    with pytest.raises(
        UnstorableError, match=r"a state of layer 7 is nan, .*\(try --compute bf16 or float32"
    ) as caught:
        check_storable(["a", "b"], peaks, "float32", "fp16", [5, 7])
    assert caught.value.utterance_id == "b"
    check_storable(["a", "b"], np.full((2, 2), 65504, np.float32), "float16", "fp16", [5, 7])
    with pytest.raises(UnstorableError, match="a state of layer 5 is inf"):
        check_storable(["a"], np.array([[np.inf], [1.0]], np.float32), "float16", "float32", [5, 7])


# --- how much is written, and where there is no room for it


def test_what_will_be_written_is_said_beforehand_to_the_byte(corpus: Path, tmp_path: Path) -> None:
    said: list[str] = []
    work = Work(tmp_path, {}, Extraction(), lambda *_: None, said.append)
    work.announce({"a": 1.5e6, "b": 0})
    assert said[0].startswith("To be written by this stage: a 0.0015 GB (")
    sizes: dict[str, float] = {}
    original = Work.announce
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Work, "announce", lambda self, s: (sizes.update(s), original(self, s)))
        run(corpus, tmp_path / "cache", keep=ALL, layers="1-2")
    for stream in (FRAMES, POOLED, TOKENS):
        written = 0
        for shard in Cache(tmp_path / "cache").stream(stream).shards:
            for granularity in shard.granularities:
                written += sum(shard.array(f"{granularity}/{column}").nbytes for column in shard.columns(granularity))
        assert sizes[stream] == written
    frames = sum(FrameGrid().num_frames(round(s * 16_000)) for s in DURATIONS_S.values())
    assert sizes[FRAMES] == frames * 2 * 64 * 2


def disk_of(free: int) -> SimpleNamespace:
    return SimpleNamespace(disk_usage=lambda path: SimpleNamespace(free=free))


def test_a_disk_without_room_is_refused_before_any_work(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmser.extract.work.shutil", disk_of(10_000_000))
    result = mmser("extract", corpus, "--cache", tmp_path, "--speech-model", "builtin:tiny", "--text-model", "none")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {tmp_path}: to be written: pooled/builtin-tiny@none 3.07e-06 GB; the disk")
    assert "has 0.01 GB left" in result.stderr
    assert "Keep fewer layers" in result.stderr
    assert not shards(tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("a file system that fills up needs the right to mount one")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_stops_with_one_message_and_goes_on_later(
    corpus: Path, tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmser.extract.work.shutil", disk_of(10**12))
    monkeypatch.setattr("mmser.extract.speech_stream.SHARD_SECONDS", 1.3)
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"0" * 1_900_000)
    cache = small_disk / "cache"
    arguments = ["extract", corpus, "--cache", cache, "--speech-model", "builtin:tiny", "--text-model", "none",
                 "--keep", "frame", "--dtype", "float32", "--device", "cpu"]  # fmt: skip
    result = mmser(*arguments)
    assert result.exit_code == 1, result.output
    assert "No space left on device" in result.stderr
    assert (
        "What is finished is kept; make room or choose another folder, and run the same command again" in result.stderr
    )
    assert not list(cache.rglob("*.tmp"))
    ballast.unlink()
    assert mmser(*arguments).exit_code == 0
    assert sorted(Cache(cache).stream(FRAMES).utterance_ids) == IDS


def test_a_folder_that_becomes_read_only_stops_with_one_message_and_loses_nothing(
    tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmser.extract.work.shutil", disk_of(10**12))
    some, corpus = make_corpus(tmp_path / "some", IDS[:3]), make_corpus(tmp_path / "all")
    arguments = ["--cache", small_disk / "cache", "--speech-model", "builtin:tiny", "--text-model", "builtin:tiny",
                 "--device", "cpu", "--jobs", "1"]  # fmt: skip
    assert mmser("extract", some, *arguments).exit_code == 0
    before = {path: path.read_bytes() for path in small_disk.rglob("*") if path.is_file()}
    remount = ["mount", "-o", "remount,ro", str(small_disk)]
    if subprocess.run(remount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a file system that becomes read-only needs the right to mount it anew")
    result = mmser("extract", corpus, *arguments)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"Error: Read-only file system ({small_disk}/cache/")
    assert line.endswith("make room or choose another folder, and run the same command again")
    assert {path: path.read_bytes() for path in small_disk.rglob("*") if path.is_file()} == before
    fresh = mmser("extract", corpus, *arguments, "--cache", small_disk / "another")
    assert fresh.exit_code == 1
    assert fresh.stderr.startswith(f"Error: {small_disk}/another: a cache is a folder, and this one cannot be made")
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert mmser("extract", corpus, *arguments).exit_code == 0
    assert sorted(Cache(small_disk / "cache").stream(TOKENS).utterance_ids) == IDS


# --- the thread that writes


def within(seconds: float, work: Callable[[], None]) -> None:
    """Do something that may hang where it is broken, and fail then."""
    ends: list[BaseException | None] = []

    def run_to_its_end() -> None:
        try:
            work()
        except BaseException as error:
            ends.append(error)
        else:
            ends.append(None)

    thread = threading.Thread(target=run_to_its_end, daemon=True)
    thread.start()
    thread.join(seconds)
    assert ends, f"no end after {seconds} s"
    if ends[0] is not None:
        raise ends[0]


def opened(writer: StreamWriter, number: int, ids: list[str]):  # type: ignore[no-untyped-def]
    return writer.shard(number, ids, {}, {"token": ([1] * len(ids), {"states": Column("<f4", 1, 2)})})


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[StreamWriter]:
    with StreamWriter(tmp_path, "text/x", {"layers": [0]}, {}) as stream:
        stream.plan({"a": 1.0, "b": 1.0, "c": 1.0}, 1.0)
        yield stream


def work_in(folder: Path) -> Work:
    return Work(folder, {}, Extraction(), lambda *_: None)


def test_an_error_of_the_writer_surfaces_while_the_stage_is_at_work(tmp_path: Path, writer: StreamWriter) -> None:
    made = 0

    def tasks(shard):  # type: ignore[no-untyped-def]
        nonlocal made

        def fail() -> None:
            raise OSError(5, "Input/output error")

        for _ in range(1000):
            made += 1
            yield fail

    def make(items):  # type: ignore[no-untyped-def]
        shard = opened(writer, 0, list(items))
        return [shard], tasks(shard)

    def fill() -> None:
        with WriterThread(work_in(tmp_path)) as thread:
            thread.fill(["text/x"], {"a": 1}, make)

    with pytest.raises(OSError, match="Input/output error"):
        within(60, fill)
    assert made <= AHEAD + 3
    assert not list(tmp_path.rglob("*.tmp"))
    assert not list(tmp_path.rglob("*.h5"))


def test_an_unstorable_utterance_is_left_out_and_the_shards_around_it_are_whole(
    tmp_path: Path, writer: StreamWriter
) -> None:
    work = work_in(tmp_path)

    def make_shard(number: int):  # type: ignore[no-untyped-def]
        def make(items):  # type: ignore[no-untyped-def]
            shard = opened(writer, number, list(items))

            def put() -> None:
                if "b" in items:
                    raise UnstorableError("b", "not finite")
                shard.put("token", "states", 0, np.full((1, len(items), 2), number, np.float32))

            return [shard], iter([put])

        return make

    with WriterThread(work) as thread:
        for number, ids in enumerate((["a"], ["b", "c"], ["d"], ["b"])):
            thread.fill(["text/x"], dict.fromkeys(ids, 0), make_shard(number))
    stream = Cache(tmp_path).stream("text/x")
    assert sorted(stream.utterance_ids) == ["a", "c", "d"]
    assert work.added == {"text/x": 3}
    assert work.failures == {("b", "text/x"): "not finite"}
    assert stream.packed("token", utterances=["a", "c", "d"]).values[0, :, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("made", [torch.float32, torch.bfloat16, torch.float16])
def test_states_are_fetched_in_the_type_they_are_stored_in(dtype: str, made: torch.dtype) -> None:
    states = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)).to(made)
    found = fetch(states, dtype)()
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found, states.float().numpy().astype(dtype))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_states_are_fetched_from_a_gpu_while_it_goes_on() -> None:
    states = torch.randn(4, 4000, 64, device="cuda")
    waiting = fetch(states, "float32")
    for _ in range(20):
        torch.mm(states[0], states[0].T)
    np.testing.assert_array_equal(waiting(), states.cpu().numpy())
