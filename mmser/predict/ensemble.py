"""What the user calls a head: one head, or all that a run trained, whose answers are averaged."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmser.errors import MmserError, ProtocolError
from mmser.heads.base import download_head
from mmser.train.about import About, load_about
from mmser.train.grid import chosen_by_dev
from mmser.train.members import FUSIONS
from mmser.train.runs import read_json
from mmser.train.stored import read_config, read_results

_RUN = re.compile(r"(?P<member>.+)-fold(?P<fold>\d+)-seed\d+(-trial(?P<trial>\d+))?")
"""A head's folder, as :mod:`mmser.train.run` names it."""


@dataclass(frozen=True)
class Ensemble:
    """Heads whose answers are averaged: one or more, of the same classes and dimensions."""

    name: str
    """As the user gave it."""
    heads: tuple[About, ...]

    def __post_init__(self) -> None:
        told = {(head.labels, head.dimensions) for head in self.heads}
        if len(told) > 1:
            raise ProtocolError(f"{self.name}: its heads tell different classes or dimensions: name one head")

    @property
    def needs_text(self) -> bool:
        """Whether a head reads words, or an alignment of them."""
        return any(head.needs_text for head in self.heads)


def open_ensemble(given: str | Path, *, fold: str | None = None) -> Ensemble:
    """Find the heads.

    Args:
        given: the folder of a head; a run folder, for all heads of it that were tested; or the id of a repository on
            the Hugging Face hub (``ID``, ``ID@REVISION``).
        fold: of a run folder: only the heads of this fold, those that never saw its test part.

    Raises:
        MmserError: there is none, or its files are damaged.
        ProtocolError: the run is not finished, has no such fold, or fuses its heads by more than their mean.
    """
    folder = Path(given)
    if not folder.is_dir():
        repository, _, revision = str(given).partition("@")
        folder = download_head(repository, revision=revision or None)
    if not (folder / "heads").is_dir():
        if fold is not None:
            raise ProtocolError(f"--fold {fold}: {given} is one head; give its run folder")
        return Ensemble(str(given), (load_about(folder)[1],))
    return Ensemble(str(given), tuple(load_about(path)[1] for path in _tested(folder, fold)))


@dataclass(frozen=True)
class _Scored:
    """A run by its dev score, for :func:`chosen_by_dev`."""

    dev_score: float


def _tested(folder: Path, fold: str | None) -> list[Path]:
    """The heads of a run folder that dev chose; where nothing was tried, all of them."""
    _check_run(folder)
    configs = {
        path.parent: read_json(path)
        for path in sorted(folder.glob("heads/*/config.json"))
        if _RUN.fullmatch(path.parent.name)
    }
    _check_whole(folder, configs)
    folds = sorted({str(config.get("fold")) for config in configs.values()})
    if fold is not None:
        configs = {path: config for path, config in configs.items() if str(config.get("fold")) == fold}
    if not configs:
        raise ProtocolError(f"{folder}: no head of fold {fold!r}; its folds are {', '.join(folds) or 'none'}")
    return _chosen(configs)


def _check_run(folder: Path) -> None:
    if not (folder / "summary.json").exists():
        raise ProtocolError(f"{folder} is not finished: train it to its end first, or name one of its heads")
    fusion = read_config(folder)["experiment"].get("fusion", "mean")
    if fusion != "mean":
        raise ProtocolError(
            f"{folder} fuses its heads by {fusion}, which is not stored for new recordings; name one head of it "
            f"({folder / 'heads'}/...), or train a late fusion by --fusion mean"
        )


def _check_whole(folder: Path, configs: Mapping[Path, Mapping[str, Any]]) -> None:
    """The mean over some of a run's heads is not what the run says."""
    tested = read_results(folder)[["head", "fold", "seed"]].astype(str)
    there = {(_member(path), str(config.get("fold")), str(config.get("seed"))) for path, config in configs.items()}
    asked = [one for one in tested.itertuples(index=False, name=None) if one[0] not in FUSIONS]
    missing = [one for one in asked if one not in there]
    if missing:
        head, fold, seed = missing[0]
        raise ProtocolError(
            f"{folder}: {len(missing)} of its {len(asked)} heads are not there (first: {head}, fold {fold!r}, seed "
            f"{seed}); train it again by the same command, which makes what is missing, or name one of its heads"
        )


def _member(path: Path) -> str:
    part = _RUN.fullmatch(path.name)
    assert part is not None
    return part["member"]


def _chosen(configs: Mapping[Path, Mapping[str, Any]]) -> list[Path]:
    """The heads of each member and fold whose setting has the best dev score, as when they were tested."""
    parts = {path: _RUN.fullmatch(path.name) for path in configs}
    by_member: dict[str, dict[Path, tuple[int, int]]] = {}
    for path, part in parts.items():
        assert part is not None
        by_member.setdefault(part["member"], {})[path] = int(part["fold"]), int(part["trial"] or 0)
    chosen: list[Path] = []
    for cells in by_member.values():
        scores = [_Scored(_number(configs[path].get("dev_score"))) for path in cells]
        best = chosen_by_dev(list(cells.values()), scores)
        chosen += [path for path, (fold, trial) in cells.items() if best[fold] == trial]
    return chosen


def _number(score: object) -> float:
    if score is not None and type(score) not in (int, float):
        raise MmserError(f"dev_score is {score!r}; expected a number: the head's config.json is damaged")
    return float("nan") if score is None else float(str(score))
