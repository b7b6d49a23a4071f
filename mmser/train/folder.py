"""The run folder: what was asked for, the heads that are finished, and what came out.

::

    RUNS/
      config.json             the experiment, the recipes of its streams, and digests of the states and of the rows
      fusions/                fitted on dev: fold0-seed0.safetensors (mmser.train.fusion)
      heads/<run>/            model.safetensors, config.json (mmser.heads.store)
      predictions.csv         every test utterance of every head, fold and seed
      lexicon.csv             the weights of words, where a head takes them as its prior
      results.csv             the figures of every head, fold and seed that was tested
      trials.csv              dev scores of all runs, where several settings were tried
      summary.json            the lines of the tables that are printed
      tensorboard/<run>/      with --tensorboard (mmser.train.tensorboard)
      oracle/, oracle.json    with --report-oracle: what choosing the epoch on the test part would have given
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from mmser.cache import Cache
from mmser.cache.schema import MANIFEST_FILE
from mmser.cache.writer import difference
from mmser.errors import MmserError, ProtocolError
from mmser.files import alone, name_of, replacing, sweep
from mmser.heads.store import load_head
from mmser.train.choose import Chosen
from mmser.train.features import Sources
from mmser.train.members import FUSIONS, settled_like
from mmser.train.options import Experiment
from mmser.train.plan import Epoch, Run, Trained

TABLES = ("summary.json", "results.csv", "predictions.csv")
"""What every finished run has."""
HEAD_FILES = ("config.json", "model.safetensors")
"""What every finished head has."""
_WRITTEN = (*TABLES, "config.json", "trials.csv", "lexicon.csv", "oracle.json", "heads/*/*", "fusions/*", "oracle/*")
"""The files of a run."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep others from training into the folder, which is made if need be. Whoever is killed lets go.

    Raises:
        ProtocolError: another process is training into it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    busy = f"{folder}: another mmser is training into this folder; wait for it to end, or give another --out"
    with alone(folder / ".lock", ProtocolError(busy)):
        sweep(folder, *_WRITTEN)
        yield


def settle_folder(folder: Path, experiment: Experiment, cache: Cache, sources: Sources, chosen: Chosen) -> None:
    """Make the run folder, or make sure that what it holds is of this very experiment on these very states and rows.

    A folder without a finished head and without tables holds nothing that could be mixed up. Heads of fewer seeds are
    part of the experiment: they stay, and the tables, which are of all seeds or of none, are to be made anew. The
    experiment is a settled one (:func:`mmser.train.members.settled`).

    Raises:
        ProtocolError: its heads or tables are of another experiment, the cache has changed since (says what), or it is
            no run folder.
    """
    if is_settled(folder, experiment, cache, sources, chosen):
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*TABLES, "oracle.json"):  # before the config: tables of fewer seeds than it names would pass for whole
        (folder / name).unlink(missing_ok=True)
    write_json(folder / "config.json", _config_of(experiment, cache, sources, chosen))


def is_settled(folder: Path, experiment: Experiment, cache: Cache, sources: Sources, chosen: Chosen) -> bool:
    """Whether the folder is of this very experiment already; not if it holds nothing yet, or fewer seeds.

    Raises:
        ProtocolError: as :func:`settle_folder`, which this is without a change to the folder.
    """
    path = folder / "config.json"
    check_run_folder(folder)
    begun = any(folder.glob("heads/*/config.json")) or any((folder / name).exists() for name in TABLES)
    if not begun or not path.exists():
        return False
    stored, asked = _read(path), _config_of(experiment, cache, sources, chosen)
    changed = _differences(stored, asked, experiment)
    if changed:
        raise ProtocolError(
            f"{folder} holds another experiment: {'; '.join(changed)}. Give another --out, or delete the folder"
        )
    return bool(stored["experiment"].get("seeds") == experiment.seeds)


def _config_of(experiment: Experiment, cache: Cache, sources: Sources, chosen: Chosen) -> dict[str, Any]:
    """What ``config.json`` says."""
    config = {
        "experiment": asdict(experiment),
        "cache": name_of(cache.path),
        # a shard's name holds the digest of its content
        "shards": {stream.name: [shard.name for shard in stream.shards] for stream in sources.streams},
        "rows": chosen.digests(),
        "streams": streams_of(sources),
    }
    return dict(json.loads(json.dumps(config)))


def check_run_folder(folder: Path) -> None:
    """Make sure that nobody else's files are overwritten: the folder is a run's, or has none that a run would write.

    Raises:
        ProtocolError: it is a cache's, an ablation's or some other folder.
    """
    for name, what in {"ablation.json": "an ablation", MANIFEST_FILE: "a cache"}.items():
        if (folder / name).exists():
            raise ProtocolError(f"{folder} is the folder of {what} (it holds {name}); give another --out")
    path = folder / "config.json"
    if path.exists() and not isinstance(_read(path).get("experiment"), dict):
        raise ProtocolError(f"{path}: not what mmser train-head writes, and would be overwritten; give another --out")
    there = [name for name in TABLES if (folder / name).exists()]
    # Heads say themselves what they are of (load_trained).
    if there and not path.exists() and not any(folder.glob("heads/*/config.json")):
        raise ProtocolError(
            f"{folder} holds {there[0]} and no config.json that says of which experiment; give another --out, or "
            "delete the folder"
        )


def streams_of(sources: Sources) -> dict[str, dict[str, Any]]:
    """What made the states that an experiment reads: recipe and provenance of each stream, by its name."""
    return {stream.name: {"recipe": stream.recipe, "provenance": stream.provenance} for stream in sources.streams}


def _read(path: Path) -> Mapping[str, Any]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ProtocolError(f"{path}: not readable as JSON ({error}); give another --out, or delete it") from error
    return stored if isinstance(stored, dict) else {}


def _differences(stored: Mapping[str, Any], asked: Mapping[str, Any], experiment: Experiment) -> list[str]:
    was = stored.get("experiment", {})
    phrases = changes(settled_like(was, experiment) if isinstance(was, dict) else was, asked["experiment"])
    phrases += difference(stored.get("cache"), asked["cache"], "cache")
    if not phrases:  # other streams and rows follow from other settings
        was, now = stored.get("shards", {}), asked["shards"]
        phrases += [f"stream {name} has changed" for name in sorted({*was, *now}) if was.get(name) != now.get(name)]
        was, now = stored.get("rows", {}), asked["rows"]
        phrases += [f"the {name} have changed" for name in now if was.get(name) != now[name]]
    return phrases


def changes(was: Any, now: Mapping[str, Any]) -> list[str]:
    """What keeps the heads of one experiment from being part of another, a phrase each; both as JSON has them.

    How much memory may be taken changes no weight. Of more seeds those that are there are the first, but not where a
    layer is trained on what members say: over more seeds, dev may choose other members.
    """
    may_grow = now["head"] not in FUSIONS or now["fusion"] != "concat"
    if may_grow and isinstance(was, Mapping) and type(was.get("seeds")) is int and was["seeds"] < now["seeds"]:
        was = {**was, "seeds": now["seeds"]}
    return difference(_apart_from_memory(was), _apart_from_memory(now))


def _apart_from_memory(experiment: Any) -> Any:
    if not isinstance(experiment, Mapping) or not isinstance(experiment.get("training"), Mapping):
        return experiment
    return {**experiment, "training": {k: v for k, v in experiment["training"].items() if k != "memory_gb"}}


def load_trained(folder: Path, run: Run, made_of: str | None = None) -> Trained | None:
    """A run that was finished earlier; None if it was not.

    Args:
        folder: the run folder.
        run: the run.
        made_of: what its weights follow from (:func:`mmser.train.assemble.digests_of`), where that is known.

    Raises:
        MmserError: its files are damaged, or another run's.
    """
    path = folder / "heads" / run.name
    return trained_of(path, run, made_of) if is_whole(path) else None


def is_whole(head: Path) -> bool:
    """Whether a head's folder has all its files."""
    return all((head / name).exists() for name in HEAD_FILES)


def trained_of(path: Path, run: Run, made_of: str | None = None) -> Trained:
    """What ``run`` came to, from the folder of a head that is its; arguments as for :func:`load_trained`.

    Raises:
        MmserError: its files are damaged, or another run's.
    """
    head, config = load_head(path)
    if made_of is not None and config.get("made_of", made_of) != made_of:
        raise MmserError(
            f"{path} holds another run's head, which may have learnt from what this one is tested on; delete that "
            "folder, and run the same command again"
        )
    try:
        score = math.nan if config["dev_score"] is None else config["dev_score"]
        history = tuple(
            Epoch(
                epoch["epoch"],
                *(math.nan if epoch[name] is None else float(epoch[name]) for name in ("train_loss", "dev_score")),
            )
            for epoch in config["history"]
        )
        return Trained(run, head.state_dict(), config["best_epoch"], score, history, diverged=config["diverged"])
    except (KeyError, TypeError, ValueError) as error:
        raise MmserError(
            f"{path / 'config.json'}: not what mmser train-head writes ({error!r}); delete the folder {path}, and run "
            "the same command again"
        ) from error


def facts_of(trained: Trained) -> dict[str, Any]:
    """What is kept beside a head of how it was trained: what :func:`trained_of` reads."""
    return {
        "best_epoch": trained.best_epoch,
        "dev_score": trained.dev_score if trained.best_epoch else None,  # NaN is no JSON
        "diverged": trained.diverged,
        "history": [as_json(epoch._asdict()) for epoch in trained.history],
    }


def as_json(value: Any) -> Any:
    """Values as JSON has them: what is no finite number is null.

    >>> as_json({"ccc": math.nan, "by_seed": (0.5, math.inf)})
    {'ccc': None, 'by_seed': [0.5, None]}
    """
    if isinstance(value, Mapping):
        return {name: as_json(own) for name, own in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(own) for own in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_csv(table: pd.DataFrame, path: Path, *, precise: bool = False) -> None:
    """Write a table whole or not at all, figures with six digits, or with all that they have."""
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False, float_format=None if precise else "%.6g")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object whole or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
