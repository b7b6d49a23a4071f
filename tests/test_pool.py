"""Pooling stored frames gives what extraction gives, and touches no encoder."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_corpus import IDS, alignment, make_corpus, mmser, run

from mmser.cache import Cache, PackedColumn, verify
from mmser.errors import CacheError, MmserError
from mmser.extract.align.textgrid import write_textgrid
from mmser.extract.options import Pooling
from mmser.extract.pool import pool_frames

GRANULARITIES = ("phone", "syllable", "word", "utterance")
POOLED = "pooled/builtin-tiny@textgrid"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six utterances, one of them without a TextGrid."""
    path = make_corpus(tmp_path_factory.mktemp("corpus"))
    (path.parent / "textgrid" / "u3.TextGrid").unlink()
    return path


def states(cache: Path, granularity: str, column: str = "states", name: str = POOLED) -> PackedColumn:
    return Cache(cache).stream(name).packed(granularity, column, utterances=IDS)


@pytest.mark.parametrize(("dtype", "pooling"), [("float32", "mean"), ("float32", "mean+std"), ("float16", "max")])
def test_pooled_as_extraction_would_have(corpus: Path, tmp_path: Path, dtype: str, pooling: str) -> None:
    asked = {"dtype": dtype, "pooling": pooling, "text_model": "none", "layers": "1,3"}
    run(corpus, tmp_path / "whole", **asked, keep=GRANULARITIES)
    run(corpus, tmp_path / "frames", **asked, keep=("frame",))
    done = pool_frames(tmp_path / "frames", Pooling("textgrid", pooling=pooling))
    assert (done.stream, done.added, done.not_aligned) == (POOLED, 6, 1)
    whole, own = (Cache(tmp_path / name).stream(POOLED) for name in ("whole", "frames"))
    assert own.recipe == whole.recipe
    for source in ("audio", "alignment"):
        assert own.digests(source) == whole.digests(source)
    for granularity in GRANULARITIES:
        expected, found = (states(tmp_path / name, granularity) for name in ("whole", "frames"))
        np.testing.assert_array_equal(found.offsets, expected.offsets)
        assert found.values.dtype == expected.values.dtype == np.dtype(dtype)
        # The largest of rounded values is the rounded largest; a deviation is the root of a difference.
        tolerance = {"mean": 1e-6, "mean+std": 1e-5, "max": 0.0}[pooling]
        np.testing.assert_allclose(found.values, expected.values, rtol=tolerance, atol=tolerance)
        if granularity != "utterance":
            np.testing.assert_array_equal(
                states(tmp_path / "frames", granularity, "segment").values,
                states(tmp_path / "whole", granularity, "segment").values,
            )
    assert not list(verify(Cache(tmp_path / "frames")))
    assert run(corpus, tmp_path / "frames", **asked, keep=GRANULARITIES).added == {}  # it goes on from there


def test_means_of_float16_frames_are_off_by_their_rounding(corpus: Path, tmp_path: Path) -> None:
    run(corpus, tmp_path / "whole", text_model="none", keep=GRANULARITIES, dtype="float32")
    run(corpus, tmp_path / "frames", text_model="none", keep=("frame",))
    pool_frames(tmp_path / "frames", Pooling("textgrid"))
    for granularity in GRANULARITIES:
        expected, found = (states(tmp_path / name, granularity).values for name in ("whole", "frames"))
        # Each frame is off by 2**-11 of itself at most, their mean by that of the largest; rounding it adds as much.
        np.testing.assert_allclose(found, expected, rtol=0, atol=2**-10 * np.abs(expected).max())


def test_small_batches_and_shards_change_nothing(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "many"):
        run(corpus, tmp_path / name, text_model="none", keep=("frame",))
    pool_frames(tmp_path / "one", Pooling("textgrid"))
    monkeypatch.setattr("mmser.extract.pool._BATCH_BYTES", 1.0)
    monkeypatch.setattr("mmser.extract.pool.SHARD_BYTES", 40_000.0)
    pool_frames(tmp_path / "many", Pooling("textgrid"))
    assert len(Cache(tmp_path / "many").stream(POOLED).shards) > 1
    for granularity in GRANULARITIES:
        np.testing.assert_array_equal(*(states(tmp_path / name, granularity).values for name in ("one", "many")))


def test_an_alignment_is_swapped_without_the_encoder(corpus: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    run(corpus, cache, text_model="none", keep=("frame",), aligner="none", textgrids=None)
    run(corpus, cache, speech_model="none", text_model="none")
    result = mmser("pool", cache, "--align", "textgrid", "--keep", "word", "--encoder", "builtin:tiny")
    assert result.exit_code == 0, result.output
    assert f"{cache / POOLED}: 6 utterances added" in result.stdout
    assert "1 of 6 utterances have no alignment: they have utterance states, but no words" in result.stdout
    assert "6 segments" not in result.stdout
    assert "5 segments were too short to hold a frame and took the nearest one" in result.stdout
    assert "nothing was missing" in mmser("pool", cache, "--align", "textgrid", "--keep", "word").stdout
    alone = mmser("pool", cache)
    assert alone.exit_code == 0
    assert Cache(cache).stream("pooled/builtin-tiny@none").granularities == ["utterance"]


def test_no_encoder_is_loaded(corpus: Path, tmp_path: Path) -> None:
    run(corpus, tmp_path / "cache", text_model="none", keep=("frame",))
    code = (
        "import sys\n"
        "import mmser.extract.speech as speech\n"
        "def refuse(*_): raise AssertionError('an encoder was loaded')\n"
        "speech.SpeechEncoder.__init__ = refuse\n"
        "from mmser.cli import main\n"
        f"main(['pool', {str(tmp_path / 'cache')!r}, '--align', 'textgrid'])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_changed_alignment_is_pooled_again_where_asked(tmp_path: Path) -> None:
    corpus, cache = make_corpus(tmp_path, IDS), tmp_path / "cache"
    run(corpus, cache, text_model="none", keep=("frame",))
    pool_frames(cache, Pooling("textgrid"))
    before = states(cache, "word").of("u4")
    write_textgrid(alignment("u2", 0.9137), 0.9137, tmp_path / "textgrid" / "u4.TextGrid")
    table = pd.read_csv(corpus)
    table.loc[table.utterance_id == "u4", "text"] = "Hi, a word! Changed"
    table.to_csv(corpus, index=False)
    run(corpus, cache, text_model="none", keep=("frame",), refresh=True)
    kept = pool_frames(cache, Pooling("textgrid"))
    assert (kept.added, kept.changed) == (0, 1)
    redone = pool_frames(cache, Pooling("textgrid", redo=True))
    assert (redone.added, redone.changed) == (1, 0)
    assert not np.array_equal(states(cache, "word").of("u4"), before)


def test_what_is_not_there_is_said_with_what_to_run(corpus: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    run(corpus, cache, text_model="none")
    with pytest.raises(CacheError, match=r"no frame states.*store them with: mmser extract .* --keep frame"):
        pool_frames(cache, Pooling("textgrid"))
    run(corpus, cache, text_model="none", keep=("frame",))
    with pytest.raises(CacheError, match=r"no alignment of 'mfa', but of textgrid; make it with: mmser extract"):
        pool_frames(cache, Pooling("mfa"))
    with pytest.raises(CacheError, match=r"no frame states of 'other', but of builtin-tiny"):
        pool_frames(cache, Pooling("textgrid", "other"))
    with pytest.raises(CacheError, match=r"made by another recipe: pooling was 'mean', now 'max'"):
        pool_frames(cache, Pooling("textgrid", pooling="max"))
    with pytest.raises(MmserError, match=r"--keep frame: with --align textgrid there are phone, syllable, word"):
        Pooling("textgrid", keep=("frame",))
    with pytest.raises(MmserError, match=r"--keep word: with --align none there are utterance"):
        Pooling(keep=("word",))
    with pytest.raises(MmserError, match=r"pooling 'median'"):
        Pooling(pooling="median")
    run(corpus, cache, text_model="none", keep=("frame",), speech_model="builtin:small", aligner="none", textgrids=None)
    with pytest.raises(CacheError, match=r"frames of builtin-small, builtin-tiny; choose with --encoder"):
        pool_frames(cache, Pooling("textgrid"))
