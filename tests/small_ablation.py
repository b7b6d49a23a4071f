"""An ablation that is made in seconds, in the folder that ``mmser ablate`` writes. Shared by tests of the report."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
from small_cache import make_rows, write_cache

from mmser.train.options import Experiment, Training
from mmser.train.run import train_head

LABEL = "<script>alert(1)</script> a|b_c&d%"
"""The class ``sad`` as the manifest calls it: shown as text, or somebody forgot to escape."""

_PROBE = Experiment(
    head="speech-probe",
    granularity="word",
    layer="9",
    folds="session",
    seeds=2,
    settings={"hidden": 4},
    learning_rate=0.03,
    training=Training(epochs=3, batch_size=16, patience=2),
)
CELLS = {
    "probe-word-9": _PROBE,
    "probe-word-4": replace(_PROBE, layer="4"),
    "probe-word-0": replace(_PROBE, layer="0"),
    "probe-word-mix": replace(_PROBE, layer="mix"),
    "probe-utterance-9": replace(_PROBE, granularity="utterance"),
    "tried": replace(_PROBE, layer="mix", learning_rate=(0.03, 0.001)),
    "fusion": replace(_PROBE, head="late-fusion"),
    "both": replace(_PROBE, task="both", dimensions=("valence",)),
    "one-seed": replace(_PROBE, seeds=1),
}
ROWS = {name: f"row a_b&c% {name}" if name == "fusion" else name for name in CELLS}
"""What the table calls each cell."""


def write_ablation(root: Path) -> Path:
    """Train the cells on a toy cache and write what an ablation says of itself; one cell failed, one was not begun."""
    rows = make_rows()
    rows["valence"] = rows["label"].map({"angry": 1.0, "happy": 5.0, "sad": 2.0})
    rows.loc[3, "valence"] = np.nan
    rows["label"] = rows["label"].replace("sad", LABEL)
    cache = write_cache(root / "toy", rows)
    folder = root / "runs" / "ablation"
    for name, experiment in CELLS.items():
        train_head(cache, experiment, folder / "cells" / name)
    stored = [
        {
            "name": name,
            "row": ROWS.get(name, name),
            "axes": {"granularity": experiment.granularity, "layer": experiment.layer},
            "experiment": asdict(experiment),
        }
        for name, experiment in {**CELLS, "broken": _PROBE, "waiting": _PROBE}.items()
    ]
    about = {"format": 1, "name": "ablation", "cache": "toy", "command": "mmser ablate cache/toy grid.toml"}
    about |= {"baseline": "probe-word-0", "axes": ["granularity", "layer"], "cells": stored}
    (folder / "ablation.json").write_text(json.dumps(about))
    pd.DataFrame({"cell": ["broken"], "reason": ["no word states <b>"]}).to_csv(folder / "failed.csv", index=False)
    return folder
