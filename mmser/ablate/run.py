"""Fill a table: train group after group, keep going where a cell fails, and go on where an earlier run stopped."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mmser.ablate.folder import cell_folder, trained_heads, write_ablation, write_failures
from mmser.ablate.grid import Cell, Grid
from mmser.ablate.plan import Plan
from mmser.devices import is_out_of_memory
from mmser.errors import MmserError, ProtocolError
from mmser.metrics import digits
from mmser.train.folder import locked
from mmser.train.results import Line, RatingLine, line_of, rating_line_of
from mmser.train.run import train_heads
from mmser.train.stored import read_results, read_summary
from mmser.train.tensorboard import EventLog, check_installed

HEADS = "heads, in epochs"
"""What progress is counted in."""


@dataclass(frozen=True, eq=False)
class Ablation:
    """What an ablation came to."""

    folder: Path
    lines: list[Line]
    """One a finished cell, of its last head (a fusion, not its members), under the cell's name in the table."""
    rating_lines: list[RatingLine]
    """The same for ratings."""
    failures: Mapping[str, str]
    """Cells that could not be trained, with the reason."""
    notes: Mapping[str, Sequence[str]]
    """What must be known of a row's figures, by its name in the table; of rows that have any."""
    untrained: Sequence[str]
    """Finished cells whose runs all diverged before their first score: their figures are of heads before training."""


def ablate(
    cache_path: Path,
    grid: Grid,
    plan: Plan,
    folder: Path,
    *,
    command: str = "",
    report: Callable[[str, int, int], Any] = lambda *_: None,
    say: Callable[[str], Any] = lambda _: None,
    tensorboard: bool = False,
) -> Ablation:
    """Train what a plan names, each cell into a run folder of its own.

    Cells that fail are named in ``failed.csv`` and the rest goes on. Run again with a new plan, what failed is tried
    once more and what is missing is trained.

    Args:
        cache_path: the cache.
        grid: the cells.
        plan: what is left of them (:func:`mmser.ablate.plan.plan_ablation`).
        folder: of the ablation; made if it is not there.
        command: how it was asked for, as a record.
        report: told how far it is.
        say: told what each cell came to.
        tensorboard: whether to write event files into each cell (:mod:`mmser.train.tensorboard`), those that were
            finished before included.

    Raises:
        ProtocolError: another process is at work in the folder.
        MmserError: event files are asked for, and the package for them is not installed.
    """
    if tensorboard:
        check_installed()
    with locked(folder):
        write_ablation(folder, grid, cache_path, command)
        for cell in plan.finished if tensorboard else ():
            EventLog(cell_folder(folder, cell.name)).restore_all()
        failures, noted = {**plan.failures, **_damaged(folder, plan.finished)}, set[str]()
        lent = trained_heads(folder, grid.cells)
        count = _Count(report, sum(group.epochs for group in plan.groups))
        for group in plan.groups:
            train = partial(train_heads, cache_path, tensorboard=tensorboard)
            failed = _train(train, group.cells, folder, lent, count.of_group(group.epochs))
            failures |= failed
            for cell in group.cells:
                say(f"{cell.row}: {failed[cell.name] if cell.name in failed else _figures(folder, cell)}")
                if cell.name not in failed:
                    _say_notes(folder, cell, noted, say)
        write_failures(folder, failures)
        finished = [cell for cell in grid.cells if cell.name not in failures]
        notes = {cell.row: found for cell in finished if (found := _notes(folder, cell))}
        untrained = [cell.name for cell in finished if _is_untrained(cell_folder(folder, cell.name))]
        return Ablation(folder, *_lines(folder, finished), failures, notes, untrained)


def _is_untrained(folder: Path) -> bool:
    epochs = read_results(folder)["best_epoch"].dropna()  # a fusion has none
    return bool((epochs == 0).all())


def _damaged(folder: Path, finished: Sequence[Cell]) -> dict[str, str]:
    """Cells that were finished before and of which a table is damaged, with the reason."""
    found = {}
    for cell in finished:
        own = cell_folder(folder, cell.name)
        try:
            read_summary(own)
            read_results(own)
        except ProtocolError as error:
            found[cell.name] = str(error)
    return found


def _train(
    train: Callable[..., Any],
    cells: Sequence[Cell],
    folder: Path,
    lent: dict[str, Path],
    report: Callable[[str, int, int], Any],
) -> dict[str, str]:
    """Train cells as one; where that fails, one by one, so that it is known which fails, and why.

    What they have trained is ``lent`` to those after them.
    """
    folders = [cell_folder(folder, cell.name) for cell in cells]
    try:
        train([cell.experiment for cell in cells], folders, lent=lent, report=report)
        return {}
    except (MmserError, RuntimeError, MemoryError) as error:
        if not isinstance(error, MmserError) and not is_out_of_memory(error):
            raise
        if len(cells) == 1:
            return {cells[0].name: str(error)}
    finally:
        lent |= trained_heads(folder, cells)
    # what the attempt held is free again only here, outside of the except block
    failed: dict[str, str] = {}
    for cell in cells:
        failed |= _train(train, [cell], folder, lent, report)
    return failed


class _Count:
    """Progress over all groups, from what each says of one head after the other."""

    def __init__(self, report: Callable[[str, int, int], Any], total: int) -> None:
        self._report, self._total, self._before = report, total, 0

    def of_group(self, epochs: int) -> Callable[[str, int, int], Any]:
        """How the next group reports; ``epochs`` are those that it was planned to have."""
        before, done = self._before, {}
        self._before += epochs

        def tell(head: str, finished: int, _of_head: int) -> None:
            done[head] = finished
            self._report(HEADS, before + min(epochs, sum(done.values())), self._total)

        return tell


def _figures(folder: Path, cell: Cell) -> str:
    lines, rating_lines = _lines(folder, [cell])
    rated = [f"CCC of {own.dimension} {digits(own.ccc)}" for own in rating_lines]
    return ", ".join([*(f"UA {digits(line.ua)}" for line in lines), *rated])


def _say_notes(folder: Path, cell: Cell, noted: set[str], say: Callable[[str], Any]) -> None:
    """Say what must be known of a cell's figures, but for what was said of another: some is true of all utterances."""
    for note in _notes(folder, cell):
        if note not in noted:
            say(f"Note: {cell.row}: {note}")
        noted.add(note)


def _notes(folder: Path, cell: Cell) -> list[str]:
    found: list[str] = read_summary(cell_folder(folder, cell.name))["notes"]
    return found


def _lines(folder: Path, cells: Sequence[Cell]) -> tuple[list[Line], list[RatingLine]]:
    lines: list[Line] = []
    rating_lines: list[RatingLine] = []
    for cell in cells:
        summary = read_summary(cell_folder(folder, cell.name))
        lines += [replace(line_of(own), head=cell.row) for own in summary["lines"][-1:]]
        rated = [rating_line_of(own) for own in summary["rating_lines"]]
        rating_lines += [replace(own, head=cell.row) for own in rated if own.head == rated[-1].head]
    return lines, rating_lines
