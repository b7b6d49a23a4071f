"""What there is to do before it is done: cells into groups that train as one, the heads of each, and how long."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmser.ablate.estimate import Estimates
from mmser.ablate.folder import cell_folder, check_same, trained_heads
from mmser.ablate.grid import Cell, Grid
from mmser.cache import Cache
from mmser.errors import MmserError
from mmser.train.assemble import digests_of, runs_of
from mmser.train.features import resident_bytes
from mmser.train.folder import TABLES, is_settled, is_whole
from mmser.train.late import names_of_own_layers
from mmser.train.options import TOKEN, Experiment
from mmser.train.plan import Run
from mmser.train.prepare import Prepared, means_held, prepare, shape_of


@dataclass(frozen=True)
class Group:
    """Cells of one shape, which train as one."""

    cells: list[Cell]
    num_utterances: int
    left_out: dict[str, int]
    """Utterances that none of the cells has, counted by reason."""
    states: list[str]
    """What the heads read of an utterance: granularities of speech, ``token``."""
    num_heads: int
    """To train; those that another cell has trained, or trains before, are copied."""
    num_copied: int
    epochs: int
    """At most, of all heads together."""
    seconds: float
    """If no head stopped early, on a processor with nothing else to do; measured on a few utterances."""
    state_bytes: int
    """What the states of all its layers take as long as it trains."""


@dataclass(frozen=True)
class Plan:
    """What an ablation has to do."""

    groups: list[Group]
    finished: list[Cell]
    failures: dict[str, str]
    """Cells that this cache cannot serve, with the reason."""


def grouped(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells of one shape together, in the order of the first of each."""
    shapes: list[Experiment] = []
    groups: list[list[Cell]] = []
    for cell in cells:
        shape = shape_of(cell.experiment)
        if shape in shapes:
            groups[shapes.index(shape)].append(cell)
        else:
            shapes.append(shape)
            groups.append([cell])
    return groups


def plan_ablation(cache_path: Path, grid: Grid, folder: Path) -> Plan:
    """Find out what is left to train, and how long that will take.

    Raises:
        CacheError: the cache is not there.
        ProtocolError: the folder holds an ablation of another cache, or cells trained otherwise.
    """
    cache = Cache(cache_path)
    check_same(folder, grid, cache_path)
    known, estimates = set(trained_heads(folder, grid.cells)), Estimates()
    plan = Plan([], [], {})
    for cells in grouped(grid.cells):
        open_cells, prepared = [], []
        for cell, own in _prepared(cache, cells, plan.failures):
            if _is_finished(cache, own, cell_folder(folder, cell.name), plan.failures, cell):
                plan.finished.append(cell)
            elif cell.name not in plan.failures:
                open_cells.append(cell)
                prepared.append(own)
        if open_cells:
            # Heads that report an oracle are not copied: what they would have said is not kept with them.
            told = open_cells[0].experiment.report_oracle
            there = set(trained_heads(folder, open_cells)) if told else known
            plan.groups.append(_group(open_cells, prepared, there, estimates))
    return plan


def _prepared(cache: Cache, cells: Sequence[Cell], failures: dict[str, str]) -> list[tuple[Cell, Prepared]]:
    """The cells that the cache can serve; the others go to ``failures``, each with its own reason."""
    try:
        return list(zip(cells, prepare(cache, [cell.experiment for cell in cells]), strict=True))
    except MmserError as error:
        if len(cells) == 1:
            failures[cells[0].name] = str(error)
            return []
        return [pair for cell in cells for pair in _prepared(cache, [cell], failures)]


def _is_finished(cache: Cache, own: Prepared, folder: Path, failures: dict[str, str], cell: Cell) -> bool:
    """Whether a cell has all its tables, heads and seeds, of these very states and rows; if of others, it has failed.

    One that lacks some is trained again: that finds what is there, and makes what is missing.
    """
    if not (folder / "summary.json").exists():
        return False
    try:
        if not is_settled(folder, own.experiment, cache, own.sources, own.chosen):
            return False
    except MmserError as error:
        failures[cell.name] = str(error)
        return False
    names = [run.name for number in range(len(own.members)) for run in runs_of(own, number, own.layers)[1]]
    names += names_of_own_layers(own.experiment, len(own.chosen.folds))
    heads = [folder / "heads" / name for name in names]
    return all((folder / name).exists() for name in TABLES) and all(is_whole(head) for head in heads)


def _group(cells: list[Cell], prepared: Sequence[Prepared], known: set[str], estimates: Estimates) -> Group:
    num_heads, num_copied, epochs, seconds = 0, 0, 0, 0.0
    experiment = prepared[0].experiment
    for number in range(len(prepared[0].members)):
        new: list[Run] = []
        for one in prepared:
            layers = list(dict.fromkeys(layer for own in prepared for layer in own.layers))
            own_cells, runs = runs_of(one, number, layers)
            for run, digest in zip(runs, digests_of(one, number, own_cells, runs), strict=True):
                if digest in known:
                    num_copied += 1
                else:
                    new.append(run)
                    known.add(digest)
        num_heads += len(new)
        if new:
            epochs += len(new) * experiment.training.epochs
            seconds += estimates.of(prepared, number, new)
    own_layers = sum(len(names_of_own_layers(one.experiment, len(one.chosen.folds))) for one in prepared)
    num_heads += own_layers
    epochs += own_layers * experiment.training.epochs
    chosen, sources = prepared[0].chosen, prepared[0].sources
    states = [*sources.speech, *([TOKEN] if sources.text is not None else [])]
    num_layers = len({layer for one in prepared for layer in one.layers})
    held = resident_bytes(sources, chosen.ids, num_layers, len(prepared[0].text_layers), means_held(prepared[0]))
    return Group(cells, len(chosen.ids), chosen.left_out, states, num_heads, num_copied, epochs, seconds, held)
