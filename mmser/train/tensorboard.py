"""Event files for TensorBoard, one folder a run, written while it trains.

Nothing of the test part is among them: TensorBoard is where settings are compared, and dev is what chooses.
"""

import importlib
import json
import math
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmser.errors import MmserError
from mmser.train.plan import Epoch

FOLDER = "tensorboard"
"""Of a run folder: the folder to show, ``tensorboard --logdir RUNS/tensorboard``."""

_SETTINGS = ("granularity", "normalise", "fold", "seed", "learning_rate", "weight_decay")
"""Of what is kept beside a head: what one run is told from another by."""


def check_installed() -> None:
    """Raise MmserError where the extra ``tensorboard`` is missing."""
    try:
        importlib.import_module("torch.utils.tensorboard")
    except ImportError as error:
        raise MmserError(
            f"--tensorboard needs the package tensorboard: pip install mmser[tensorboard] ({error})"
        ) from error


class EventLog:
    """Writes a run folder's event files. A run that begins anew begins a new file, and its old one goes.

    Events are appended and the file is closed, so that hundreds of runs that train as one hold no file open and no
    thread each, and a kill loses nothing but the epoch it falls into.
    """

    def __init__(self, folder: Path) -> None:
        """``folder``: the run folder."""
        check_installed()
        self.folder, self._heads = folder / FOLDER, folder / "heads"
        self._files: dict[str, Path] = {}

    def epoch(self, run: str, epoch: Epoch) -> None:
        """Note an epoch of ``run`` as it ends."""
        from torch.utils.tensorboard.summary import scalar

        if epoch.epoch == 1:
            self._begin(run)
        self._append(run, [scalar(name, getattr(epoch, name)) for name in ("train_loss", "dev_score")], epoch.epoch)

    def finish(self, run: str, facts: Mapping[str, Any]) -> None:
        """Note what ``run`` was and came to: ``facts`` are what is kept beside its head."""
        from torch.utils.tensorboard.summary import hparams, scalar

        figures = {"best/dev_score": _number(facts["dev_score"]), "best/epoch": facts["best_epoch"]}
        settings = {"head": run.rsplit("-fold", 1)[0]}
        settings |= {name: facts[name] for name in _SETTINGS if facts.get(name) is not None}
        for stream in ("speech", "text"):
            layers = facts.get(f"{stream}_layers_of_encoder")
            if layers is not None:
                settings[f"{stream}_layers"] = ",".join(map(str, layers))
        shown = [*hparams(settings, figures), *(scalar(name, value) for name, value in figures.items())]
        self._append(run, shown, facts["best_epoch"])

    def restore(self, runs: Iterable[str]) -> None:
        """Write runs that are finished already, from the histories beside their heads."""
        for run in runs:
            facts = json.loads((self._heads / run / "config.json").read_text(encoding="utf-8"))
            for line in facts["history"]:
                self.epoch(run, Epoch(line["epoch"], _number(line["train_loss"]), _number(line["dev_score"])))
            self.finish(run, facts)

    def restore_all(self) -> None:
        """Write all runs of the folder that are finished."""
        self.restore(path.parent.name for path in sorted(self._heads.glob("*/config.json")))

    def _begin(self, run: str) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        folder = self.folder / run
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._files[run] = folder / f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"
        self._write(run, [Event(wall_time=time.time(), file_version="brain.Event:2")])

    def _append(self, run: str, summaries: Iterable[Any], step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._write(run, [Event(wall_time=time.time(), step=step, summary=own) for own in summaries])

    def _write(self, run: str, events: Iterable[Any]) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        with self._files[run].open("ab") as file:
            writer = RecordWriter(file)
            for event in events:
                writer.write(event.SerializeToString())


def _number(stored: float | None) -> float:
    """JSON has no figure that is no number."""
    return math.nan if stored is None else stored
