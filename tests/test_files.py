"""Files that are whole or not there, and what writers leave that are killed."""

import multiprocessing
import os
import signal
from pathlib import Path

import pandas as pd
import pytest
from small_corpus import make_corpus, run

from mmser.cache import Cache
from mmser.cache.root_files import add_to_failures, add_to_manifest
from mmser.errors import CacheError, ManifestError, MmserError
from mmser.files import alone, replacing, sweep
from mmser.manifest import Manifest
from mmser.train.folder import locked


def killed_while_replacing(path: Path) -> Path:
    """What a process leaves that is killed in the middle of writing a file."""
    child = os.fork()
    if child == 0:
        with replacing(path) as temporary:
            temporary.write_text("ha")
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    (left,) = path.parent.glob(f".*{child}*")
    return left


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_the_old_one_until_it_is_the_new_one(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "table.csv"
    with replacing(path, durable=durable) as temporary:
        temporary.write_text("old")
        assert not path.exists()
    with pytest.raises(UnicodeEncodeError), replacing(path, durable=durable) as temporary:
        temporary.write_text("new \udce4", encoding="utf-8")
    assert path.read_text() == "old"
    with replacing(path, durable=durable) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["table.csv"]


def test_only_what_killed_writers_of_these_files_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / "heads" / "a").mkdir(parents=True)
    left = [killed_while_replacing(tmp_path / name) for name in ("table.csv", "heads/a/config.json")]
    others = [tmp_path / name for name in (".table.csv.tmp", ".table.csv.x1.tmp", ".notes.txt.12.tmp", "table.csv")]
    for path in others:
        path.touch()
    sweep(tmp_path, "table.csv", "heads/*/*")
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in others)


def test_a_place_is_for_one_process_and_free_again_when_that_is_killed(tmp_path: Path) -> None:
    def hold(ready: "multiprocessing.synchronize.Event") -> None:
        with alone(tmp_path / ".lock"):
            ready.set()
            signal.pause()

    context = multiprocessing.get_context("fork")
    ready = context.Event()
    holder = context.Process(target=hold, args=(ready,))
    holder.start()
    assert ready.wait(30)
    with pytest.raises(MmserError, match="taken"), alone(tmp_path / ".lock", MmserError("taken")):
        pytest.fail("two were alone")
    holder.kill()
    holder.join()
    with alone(tmp_path / ".lock", MmserError("taken")):
        pass


def test_a_run_folder_loses_what_a_killed_training_left_and_keeps_the_rest(tmp_path: Path) -> None:
    left = [killed_while_replacing(tmp_path / name) for name in ("predictions.csv", "config.json")]
    for folder, name in {"heads/a": "model.safetensors", "fusions": "fold0.safetensors", "oracle": "a.npy"}.items():
        (tmp_path / folder).mkdir(parents=True)
        left.append(killed_while_replacing(tmp_path / folder / name))
    own = killed_while_replacing(tmp_path / "letter.txt")
    with locked(tmp_path):
        assert not any(path.exists() for path in left)
        assert own.exists()


def test_an_extraction_removes_what_a_killed_one_left_beside_the_manifest(tmp_path: Path) -> None:
    corpus, cache = make_corpus(tmp_path / "corpus"), tmp_path / "cache"
    cache.mkdir()
    left = [killed_while_replacing(cache / name) for name in ("manifest.csv", "failed.csv")]
    run(corpus, cache)
    assert not any(path.exists() for path in left)
    assert len(Cache(cache).manifest) == 6


def one_row(number: int) -> Manifest:
    return Manifest(pd.DataFrame({"utterance_id": [f"new{number}"], "audio": [f"{number}.wav"]}), Path())


def test_extractions_that_end_at_once_lose_each_other_no_rows_and_no_failures(tmp_path: Path) -> None:
    run(make_corpus(tmp_path / "corpus"), tmp_path / "cache")
    stream = Cache(tmp_path / "cache").stream_names[0]

    def end(number: int, together: "multiprocessing.synchronize.Barrier") -> None:
        together.wait(30)
        for round_ in range(5):
            add_to_manifest(tmp_path / "cache", one_row(100 * number + round_))
            add_to_failures(tmp_path / "cache", {(f"new{100 * number + round_}", stream): "no sound"})

    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    writers = [context.Process(target=end, args=(number, barrier)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    cache = Cache(tmp_path / "cache")
    expected = {f"new{100 * number + round_}" for number in range(4) for round_ in range(5)}
    assert expected <= set(cache.manifest.ids)
    assert len(cache.manifest) == 6 + 20
    assert cache.failures == {(uid, stream): "no sound" for uid in expected}


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [("manifest.csv", ManifestError, "has no column"), ("failed.csv", CacheError, "has no column")],
)
def test_damaged_files_in_the_root_are_told_before_any_work(
    tmp_path: Path, name: str, kind: type[MmserError], words: str
) -> None:
    corpus, cache = make_corpus(tmp_path / "corpus"), tmp_path / "cache"
    cache.mkdir()
    (cache / name).write_text("nonsense,b\n1,2\n")
    with pytest.raises(kind, match=words):
        run(corpus, cache)
    assert not Cache(cache).stream_names
