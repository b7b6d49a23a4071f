"""Runs of several experiments as one: each is trained once, and kept in every folder that it belongs to."""

import json
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from small_cache import SPEAKERS, write_cache

from mmser.train import once
from mmser.train.engine import train
from mmser.train.options import Experiment, Training
from mmser.train.run import train_head, train_heads

PROBE = Experiment(
    head="speech-probe",
    layer="9",
    settings={"hidden": 4},
    learning_rate=0.03,
    training=Training(epochs=2, batch_size=16),
)
MORE = replace(PROBE, learning_rate=(0.003, 0.03), seeds=2)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cache(tmp_path_factory.mktemp("once") / "toy")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[int, float]]:
    """How many runs were trained with each seed and rate."""
    found: Counter[tuple[int, float]] = Counter()

    def counted(table: Any, targets: Any, build: Any, runs: Any, *others: Any, **told: Any) -> Any:
        found.update((run.seed, run.learning_rate) for run in runs)
        return train(table, targets, build, runs, *others, **told)

    monkeypatch.setattr(once, "train", counted)
    return found


def kept(folder: Path, names: str) -> list[tuple[bytes, dict[str, Any]]]:
    """Weights of heads, and what is kept beside them."""
    heads = sorted((folder / "heads").glob(names))
    return [
        ((path / "model.safetensors").read_bytes(), json.loads((path / "config.json").read_text())) for path in heads
    ]


def test_what_experiments_share_trains_once_and_has_in_each_folder_the_name_it_has_there(
    cache: Path, tmp_path: Path, trained: Counter[tuple[int, float]]
) -> None:
    asked = [replace(one, report_oracle=True) for one in (PROBE, MORE)]
    few, more = train_heads(cache, asked, [tmp_path / "few", tmp_path / "more"])
    assert trained == {(seed, rate): 6 for seed in (0, 1) for rate in (0.003, 0.03)}
    own = kept(few.folder, "*")
    assert len(own) == 6
    assert own == kept(more.folder, "*-seed0-trial1")
    assert len(kept(more.folder, "*")) == 24
    said = [
        [path.read_bytes() for path in sorted((folder / "oracle").glob(names))]
        for folder, names in ((few.folder, "*"), (more.folder, "*-seed0-trial1.npy"))
    ]
    assert len(said[0]) == 6
    assert said[0] == said[1]


def test_what_is_kept_beside_a_head_says_which_of_all_it_is(cache: Path, tmp_path: Path) -> None:
    asked = replace(MORE, layer="mix", try_layers=("0", "9"), weight_decay=0.5)
    train_head(cache, asked, tmp_path)
    expected = {
        f"speech-probe-fold{fold}-seed{seed}-trial{trial}": (speaker, seed, rate, 0.5, [layer])
        for fold, speaker in enumerate(SPEAKERS)
        for seed in (0, 1)
        for trial, (rate, layer) in enumerate(product((0.003, 0.03), (0, 9)))
    }
    facts = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("heads/*/config.json")}
    names = ("fold", "seed", "learning_rate", "weight_decay", "speech_layers_of_encoder")
    assert {head: tuple(own[name] for name in names) for head, own in facts.items()} == expected
    assert len({own["made_of"] for own in facts.values()}) == len(expected)


def test_a_lent_head_is_trained_no_more_and_takes_the_name_it_has_where_it_comes(
    cache: Path, tmp_path: Path, trained: Counter[tuple[int, float]]
) -> None:
    train_head(cache, PROBE, tmp_path / "few")
    lent = {json.loads((path / "config.json").read_text())["made_of"]: path for path in tmp_path.glob("few/heads/*")}
    train_heads(cache, [MORE], [tmp_path / "more"], lent=lent)
    assert trained == {(seed, rate): 6 for seed in (0, 1) for rate in (0.003, 0.03)}
    assert kept(tmp_path / "few", "*") == kept(tmp_path / "more", "*-seed0-trial1")
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("more/heads/*/*")}
    train_heads(cache, [MORE], [tmp_path / "more"], lent=lent)
    assert {path: path.stat().st_mtime_ns for path in times} == times  # its own are not copied over


def test_a_head_is_kept_no_sooner_than_what_the_oracle_says_of_it(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between the two, its run is one that was never trained."""
    said: list[Any] = []
    save = once.save_outputs

    def stop(*given: Any) -> None:
        said.append(given)
        if len(said) == 3:
            raise KeyboardInterrupt
        save(*given)

    watched = replace(PROBE, report_oracle=True, training=replace(PROBE.training, epochs=1))
    monkeypatch.setattr(once, "save_outputs", stop)
    with pytest.raises(KeyboardInterrupt):
        train_head(cache, watched, tmp_path / "run")
    assert len(kept(tmp_path / "run", "*")) == 2
    result = train_head(cache, watched, tmp_path / "run")
    assert result.oracle_lines[0].num_runs == 6
    assert result.oracle_lines[0].confusion == result.lines[0].confusion  # of one epoch nothing is chosen
    assert len(said) == 3 + 4
