"""Systems A and B as their papers have them, row by row, and the protocols that papers name, setting by setting."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from small_cache import edit_manifest
from small_corpus import make_corpus, mmser, run

from mmser.ablate.grid import read_grid
from mmser.ablate.presets import preset_text
from mmser.train.presets import PRESETS

ZHAO_2022: dict[str, dict[str, Any]] = {
    "speech alone": {"head": "speech-probe", "granularity": "utterance"},
    "text alone": {"head": "text-probe"},
    "early, frame": {"head": "coattention", "granularity": "frame"},
    "early, phone": {"head": "coattention", "granularity": "phone"},
    "early, syllable": {"head": "coattention", "granularity": "syllable"},
    "early, word": {"head": "coattention", "granularity": "word"},
    "late (a), mean of speech and text": {
        "head": "late-fusion",
        "fusion": "mean",
        "members": ("speech-probe@utterance", "text-probe"),
    },
    "late (b), mean over granularities": {
        "head": "late-fusion",
        "fusion": "mean",
        "members": ("coattention@phone", "coattention@syllable", "coattention@word"),
    },
    "late (c), concatenated": {
        "head": "late-fusion",
        "fusion": "concat",
        "members": ("speech-probe@utterance", "text-probe"),
    },
    "multi-granularity, early": {"head": "coattention", "granularity": "phone,syllable,word"},
    "full, early + late + multi-granularity": {
        "head": "late-fusion",
        "fusion": "mean",
        "members": (
            "coattention@phone",
            "coattention@syllable",
            "coattention@word",
            "coattention@phone+syllable+word",
            "speech-probe@utterance",
            "text-probe",
        ),
    },
}
TRIANTAFYLLOPOULOS_2021: dict[str, dict[str, Any]] = {
    "text alone": {"head": "text-network", "settings": {}},
    "speech alone, CNN14": {"head": "cnn14", "settings": {}},
    "shallow fusion": {"head": "late-fusion", "fusion": "mean", "members": ("cnn14", "text-network")},
    "single-stage, block 6": {
        "head": "conditioned-cnn14",
        "settings": {"conditioning": "single", "condition_at": "6"},
    },
    "single-stage, embedding": {
        "head": "conditioned-cnn14",
        "settings": {"conditioning": "single", "condition_at": "embedding"},
    },
    "multistage": {"head": "conditioned-cnn14", "settings": {}},
    "adaptation, multistage over encoder states": {"head": "conditioned-states", "granularity": "word"},
}
PUBLISHED = pytest.mark.parametrize(
    ("preset", "rows", "narrow"),
    [
        ("zhao2022", ZHAO_2022, ("width=8", "heads=2", "hidden=4")),
        ("triantafyllopoulos2021", TRIANTAFYLLOPOULOS_2021, ("width_multiplier=0.03125", "width=8", "hidden=4")),
    ],
    ids=["zhao2022", "triantafyllopoulos2021"],
)


@PUBLISHED
def test_every_row_of_the_paper_is_there_as_it_has_it(
    preset: str, rows: dict[str, dict[str, Any]], narrow: tuple[str, ...]
) -> None:
    found = {cell.row: cell.experiment for cell in read_grid(preset_text(preset), preset).cells}
    assert list(found) == list(rows)
    for name, fields in rows.items():
        assert {field: getattr(found[name], field) for field in fields} == fields, name


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six recordings with states of every granularity, log-mel frames, classes and ratings."""
    folder = tmp_path_factory.mktemp("systems")
    keep = ("frame", "phone", "syllable", "word", "utterance")
    run(make_corpus(folder), folder / "cache", keep=keep, mel=True)
    return folder / "cache"


def like_iemocap(rows: pd.DataFrame) -> None:
    rows["speaker"], rows["session"] = ["1F", "1M", "2F", "2M", "3F", "3M"], list("112233")
    rows["label"] = ["ang", "sad"] * 3
    rows["valence"], rows["arousal"] = [1.0, 3, 2, 4, 1, 2], [1.0, 2, 3, 4, 5, 2]


def like_msp_podcast(rows: pd.DataFrame) -> None:
    like_iemocap(rows)
    rows["split"] = ["Train", "Train", "Development", "Development", "Test1", "Test1"]


@pytest.mark.parametrize(
    ("change", "options"),
    [
        (like_iemocap, ("--protocol", "iemocap-loso", "--set-base", "labels=ang,sad")),
        (
            like_msp_podcast,
            ("--protocol", "msp-podcast", "--set-base", "task=dimensional", "--set-base", "dimensions=valence,arousal"),
        ),
    ],
    ids=["iemocap", "msp-podcast"],
)
@PUBLISHED
def test_every_row_trains(
    preset: str,
    rows: dict[str, dict[str, Any]],
    narrow: tuple[str, ...],
    change: Callable[[pd.DataFrame], None],
    options: tuple[str, ...],
    corpus: Path,
    tmp_path: Path,
) -> None:
    edit_manifest(corpus, change)
    base = ("epochs=1", *(f"set.{option}" for option in narrow))
    done = mmser(
        *("ablate", corpus, "--preset", preset, *options, "--seeds", 1, "--out", tmp_path / "run"),
        *(part for pair in base for part in ("--set-base", pair)),
    )
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "run" / "failed.csv").exists()
    assert [name for name in rows if name not in done.stdout] == []


EXPECTED: dict[str, dict[str, Any]] = {
    "leave-one-session-out": {"folds": "session", "dev": "next"},
    "iemocap-loso": {"folds": "session", "dev": "next", "labels": ("neu", "hap", "ang", "sad")},
    "msp-improv-loso": {"folds": "session", "dev": "next", "labels": ("N", "H", "S", "A")},
    "cmu-sentiment": {"folds": "split", "task": "dimensional", "dimensions": ("sentiment",)},
    "leave-one-speaker-out": {"folds": "speaker", "dev": "next"},
    "superb": {"folds": "session", "dev": "speaker", "dev_share": 0.2, "labels": ("neu", "hap", "ang", "sad")},
    "emobox": {"folds": "session", "dev": "speaker", "dev_share": 0.2, "labels": ("neu", "hap", "ang", "sad")},
    "msp-podcast": {"folds": "split", "test_split": "test1"},
}


def test_protocols_are_those_that_papers_name() -> None:
    assert {name: dict(preset.settings) for name, preset in PRESETS.items()} == EXPECTED


def test_the_page_has_each_protocol_with_its_settings() -> None:
    page = (Path(__file__).parent.parent / "docs" / "protocol.md").read_text(encoding="utf-8")
    presets = page.split("## Presets\n")[1].split("\n## ")[0]
    told = dict(re.findall(r"^\| `([a-z-]+)` \| (.*?) \| ", presets, re.MULTILINE))
    assert set(told) == set(EXPECTED)
    for name, fields in EXPECTED.items():
        for field, value in fields.items():
            flag = "--" + field.replace("_", "-")
            said = ",".join(value) if isinstance(value, tuple) else str(value)
            default = (field, value) in {("dev", "next"), ("dev_share", 0.2)}  # need not be said
            assert f"{flag} {said}" in told[name] or default, (name, field)
