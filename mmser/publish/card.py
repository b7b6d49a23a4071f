"""The card of a head on the hub: what it says and reads, how good it is, and how to use it.

Labels, names of folds and recipes come from files that anybody may have written. In the YAML they are quoted by the
library; in the text each is a code span, in which nothing is Markdown, HTML or a link.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mmser.metrics import digits
from mmser.publish.trained import TrainedHead
from mmser.train.stored import read_config, read_head_config, read_results, read_summary, rejected_heads

_PROTOCOL = ("protocol", "folds", "test_split", "dev", "seeds", "label", "soft", "missing", "normalise")
"""Of an experiment: who trained, selected and tested, and on what."""

_STANDARDISED = {
    "global": "the head itself, with the training part's mean and deviation",
    "speaker": "each speaker's own recordings, before speech reaches the head",
    "none": "nothing",
}


def card_of(trained: TrainedHead, repo: str) -> str:
    """The ``README.md`` of a repository: YAML, then Markdown.

    Args:
        trained: the head; the figures are those of the run folder that it lies in, where it does.
        repo: ``OWNER/NAME``.

    Raises:
        ProtocolError: a file of the run folder is damaged (says which).
    """
    about, run = trained.about, _of_run(trained)
    text = (
        _environment()
        .get_template("card.md.jinja")
        .render(
            kind=trained.kind,
            num_parameters=sum(parameter.numel() for parameter in trained.head.parameters()),
            labels=about.labels,
            dimensions=about.dimensions,
            reads=_reads(trained),
            streams=about.read_streams,
            run=run,
            repo=repo,
            needs_text=about.needs_text,
            by_speaker=about.by_speaker,
            is_untrained=about.is_untrained,
        )
    )
    return f"---\n{_metadata(trained, repo, run)}---\n\n{text}"


def _of_run(trained: TrainedHead) -> dict[str, Any] | None:
    """What the run folder that a head lies in says of it; None where it lies in none.

    Raises:
        ProtocolError: a file of the run folder is damaged.
    """
    path = trained.folder.resolve()
    folder = path.parent.parent
    if not (folder / "summary.json").exists():
        return None
    asked, summary, stored = read_config(folder), read_summary(folder), read_head_config(trained.folder)
    settings = {name: asked["experiment"].get(name) for name in _PROTOCOL}
    rejected = path.name in rejected_heads(folder, _part(trained))
    return {
        "cache": asked["cache"],
        "protocol": {name: value for name, value in settings.items() if value},
        "has_oracle": bool(asked["experiment"].get("report_oracle")),
        "fold": stored["fold"],
        "notes": summary["notes"],
        "rejected": rejected,
        "own": [] if rejected else _own_figures(folder, trained, stored),
        "overall": _overall_figures(summary, _part(trained)),
    }


def code(value: object) -> str:
    r"""A value as a code span, whatever is in it.

    >>> code("<b>`happy`\n# sad")
    '``<b>`happy` # sad``'
    """
    text = " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())
    longest = max(map(len, re.findall("`+", text)), default=0)
    pad = " " if not text or "`" in (text[0], text[-1]) else ""
    return f"{'`' * (longest + 1)}{pad}{text}{pad}{'`' * (longest + 1)}"


def _environment() -> Environment:
    """Every value that a template prints becomes a code span, unless it is marked as safe."""
    return Environment(
        loader=PackageLoader("mmser", "publish"),
        autoescape=False,  # noqa: S701 - the text is Markdown; what escapes is ``finalize``
        finalize=lambda value: value if isinstance(value, Markup) else code(value),
        undefined=StrictUndefined,
        trim_blocks=False,
        keep_trailing_newline=True,
    )


def _metadata(trained: TrainedHead, repo: str, run: Mapping[str, Any] | None) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    task = "text-classification" if trained.streams == ["text"] else "audio-classification"
    results = (
        []
        if run is None
        else [
            EvalResult(
                task_type=task,
                dataset_type=run["cache"],
                dataset_name=run["cache"],
                metric_type=figure["type"],
                metric_name=figure["name"],
                metric_value=figure["value"],
            )
            for figure in run["own"]
        ]
    )
    tags = ["speech-emotion-recognition", trained.kind]
    data = ModelCardData(
        library_name="mmser",
        tags=tags,
        pipeline_tag=task,
        model_name=repo.split("/")[-1] if results else None,
        eval_results=results or None,
    )
    return f"{data.to_yaml()}\n"


def _part(trained: TrainedHead) -> str:
    """What the head is called in the tables of its run."""
    return trained.folder.resolve().name.rsplit("-fold", 1)[0]


def _reads(trained: TrainedHead) -> dict[str, object]:
    about = trained.about
    found: dict[str, object] = {"sequences": ", ".join(trained.streams)}
    if about.kind.needs_speech:
        found["layers of the speech encoder"] = ", ".join(map(str, about.speech_layers))
    if about.reads_text:
        found["layers of the text encoder"] = ", ".join(map(str, about.text_layers))
    found["features standardised by"] = _STANDARDISED[about.normalise]
    return found | {f"option {name}": value for name, value in asdict(trained.head.options).items()}


def _own_figures(folder: Path, trained: TrainedHead, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What ``results.csv`` says of this very head, which was tested; nothing where it has no figure of it."""
    table = read_results(folder)
    same = (table["head"] == _part(trained)) & (table["fold"] == config["fold"]) & (table["seed"] == config["seed"])
    for name in ("learning_rate", "weight_decay"):
        same &= np.isclose(table[name], np.float64(config[name]), rtol=1e-5, atol=0)  # the table has six digits
    rows = table[same & (table["best_epoch"] == config["best_epoch"])]
    if len(rows) != 1:
        return []
    wanted = [("ua", "UA"), *((f"ccc_{name}", f"CCC of {name}") for name in trained.about.dimensions)]
    return [  # + 0.0: no minus before zero
        {"type": column.split("_")[0], "name": name, "value": round(float(rows[column].iloc[0]), 4) + 0.0}
        for column, name in wanted
        if column in rows and rows[column].notna().all()
    ]


def _overall_figures(summary: Mapping[str, Any], part: str) -> list[dict[str, Any]]:
    """What ``summary.json`` says of all heads of the run that this one is of."""
    lines = [("UA", line["ua"], line) for line in summary["lines"] if line["head"] == part]
    lines += [
        (f"CCC of {line['dimension']}", line["ccc"], line) for line in summary["rating_lines"] if line["head"] == part
    ]
    return [
        {
            "name": name,
            "value": digits(value),
            "low": digits(line["interval"]["low"]),
            "high": digits(line["interval"]["high"]),
            "clusters": line["interval"]["clusters"],
            "unit": line["interval"]["unit"],
            "runs": line["num_runs"],
        }
        for name, value, line in lines
        if value is not None
    ]
