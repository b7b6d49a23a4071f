"""What a known corpus is: how its folder is read, which label sets it has, and what each should count."""

import csv
import io
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from mmser.errors import ManifestError
from mmser.files import replacing
from mmser.manifest import Manifest

VOTES = "votes_"
"""Prefix of the columns of annotators' votes, as ``mmser train-head --soft votes_`` reads them."""

OTHER = "other"
"""Votes for what is no class of the label set: ``votes_other``."""


@dataclass(frozen=True)
class Published:
    """How many utterances there are, as published or counted by others (docs/corpora.md says by whom)."""

    total: int
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """By column, the number of utterances of each of its values."""
    release: str = ""
    """Which release, where a corpus has several of different sizes."""


@dataclass(frozen=True)
class LabelSet:
    """Which utterances are taken, and what their class is called."""

    classes: Mapping[str, str] | None = None
    """Class by the corpus's own label; None: each label is a class of that name."""
    column: str = "emotion"
    """The reader's column that holds the corpus's own label."""
    keep_all: bool = False
    """Whether utterances of no class stay, with an empty label: for ratings and soft labels."""
    only: Mapping[str, str] = field(default_factory=dict)
    """Column and the value that it must have."""
    published: tuple[Published, ...] = ()
    """One, or one a release; empty: no count is known."""
    note: str = ""
    """What figures with this label set are often confused with."""


@dataclass
class Found:
    """What a reader found in a corpus's folder, before a label set is chosen."""

    base: Path
    """The folder that ``audio`` is relative to."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Manifest rows, with ``emotion`` (the corpus's own label, "" for none) in place of ``label``, and, where
    annotators are known, ``votes``: a Counter of the corpus's own labels."""
    excluded: dict[str, str] = field(default_factory=dict)
    """Why an utterance or a file is not among the rows."""
    warnings: list[str] = field(default_factory=list)
    """What else the user should know."""


@dataclass(frozen=True)
class Request:
    """What the user asks of a reader."""

    folder: Path
    """The corpus, as downloaded."""
    audio: Path | None = None
    """Where to put the sound of videos, for corpora that are videos; None: nowhere."""
    report: Callable[[str, int, int], None] = lambda *_: None
    """Told of what takes long: what is done, how many of it, of how many."""
    tables: tuple[str, ...] = ()
    """Which tables give the utterances, for audformat; empty: those that have emotions."""


@dataclass(frozen=True)
class Corpus:
    """A known corpus."""

    title: str
    """What it is called."""
    read: Callable[[Request], Found]
    label_sets: Mapping[str, LabelSet]
    """By name; the first is the default."""
    rates: frozenset[int] = frozenset()
    """Sample rates of the recordings as published, Hz; empty: not known."""
    odd_rates: Mapping[str, int] = field(default_factory=dict)
    """Of single recordings that are published at another one, by utterance id."""
    shared_speakers: str = ""
    """Why its own parts share speakers, where they do."""
    protocol: str = ""
    """The preset of ``mmser train-head --protocol`` that fits it; "" where none does without more ado."""


@dataclass(frozen=True)
class Reading:
    """A corpus read with one label set."""

    manifest: Manifest
    excluded: Mapping[str, str]
    """Why an utterance or a file is not in the manifest."""


def read_corpus(
    name: str,
    corpora: Mapping[str, Corpus],
    request: Request,
    labels: str | None = None,
) -> Reading:
    """Read a corpus and apply a label set.

    The manifest has the reader's columns, ``label``, ``corpus``, ``label_set``, and ``votes_<class>`` where votes are
    known. Its warnings say what the reader noticed, and every count that is not the published one.

    Raises:
        ManifestError: no such corpus, label set or folder, or nothing of the corpus in it.
    """
    corpus = corpus_of(name, corpora)
    chosen, label_set = label_set_of(name, corpus, labels)
    if not request.folder.is_dir():
        raise ManifestError(f"{corpus.title}: folder {str(request.folder)!r} is not there")
    found = corpus.read(request)
    excluded = dict(found.excluded)
    rows = []
    for row in found.rows:
        reason = _why_not(row, chosen, label_set)
        if reason:
            excluded[row["utterance_id"]] = reason
        else:
            rows.append(_labelled(row, label_set) | {"corpus": name, "label_set": chosen})
    if not rows:
        why = Counter(excluded.values()).most_common(1)
        reasons = f": {why[0][1]} times {why[0][0]!r}" if why else ""
        noticed = "".join(f"; {warning}" for warning in found.warnings[:2])
        raise ManifestError(f"{corpus.title}: no utterance in {str(request.folder)!r} can be used{reasons}{noticed}")
    columns = dict.fromkeys(column for row in rows for column in row)
    table = pd.DataFrame({name: pd.Series([row.get(name, "") for row in rows], dtype=object) for name in columns})
    warnings = [*found.warnings, *miscounted(corpus.title, label_set, table)]
    return Reading(Manifest(table, found.base, warnings=tuple(warnings)), excluded)


def corpus_of(name: str, corpora: Mapping[str, Corpus]) -> Corpus:
    """The corpus of that name.

    Raises:
        ManifestError: there is none.
    """
    if name not in corpora:
        raise ManifestError(f"no corpus is called {name!r}; there are: {', '.join(corpora)}")
    return corpora[name]


def label_set_of(name: str, corpus: Corpus, labels: str | None) -> tuple[str, LabelSet]:
    """A label set by name, or the default.

    Raises:
        ManifestError: there is none.
    """
    chosen = labels or next(iter(corpus.label_sets))
    if chosen not in corpus.label_sets:
        raise ManifestError(f"{name} has no label set {chosen!r}; there are: {', '.join(corpus.label_sets)}")
    return chosen, corpus.label_sets[chosen]


def miscounted(title: str, label_set: LabelSet, table: pd.DataFrame) -> list[str]:
    """How the table's counts differ from the published ones; empty where they do not, or none are known.

    Of a corpus with several releases, one that fits all is enough; where none does, one line says so.
    """
    compared = [(published, _differences(published, table)) for published in label_set.published]
    if not compared or not all(lines for _, lines in compared):
        return []
    if compared[0][0].release:
        known = ", ".join(f"{published.release} ({published.total})" for published, _ in compared)
        return [f"{title}: {len(table)} utterances fit none of the releases that are known here: {known}"]
    return [f"{title}: {line}" for line in compared[0][1]]


def _differences(published: Published, table: pd.DataFrame) -> list[str]:
    lines = []
    if len(table) != published.total:
        lines.append(f"found {len(table)} utterances, expected {published.total} as published")
    for column, counts in published.counts.items():
        there = Counter(table[column].tolist()) if column in table.columns else Counter()
        lines += [
            f"found {there[value]} utterances of {column} {value!r}, expected {expected} as published"
            for value, expected in counts.items()
            if there[value] != expected
        ]
    return lines


def _why_not(row: Mapping[str, Any], name: str, label_set: LabelSet) -> str:
    for column, value in label_set.only.items():
        if row.get(column) != value:
            return f"{column} {row.get(column)!r} is not {value!r}, which label set {name} asks for"
    if label_set.keep_all or _class_of(row, label_set):
        return ""
    told = row.get(label_set.column, "")
    return f"label {told!r} is no class of label set {name}" if told else "it has no label"


def _class_of(row: Mapping[str, Any], label_set: LabelSet) -> str:
    told = str(row.get(label_set.column, ""))
    return told if label_set.classes is None else label_set.classes.get(told, "")


def _labelled(row: Mapping[str, Any], label_set: LabelSet) -> dict[str, Any]:
    told = {name: value for name, value in row.items() if name != "votes"}
    told["label"] = _class_of(row, label_set)
    if "votes" in row and label_set.classes is not None:
        votes = Counter[str]()
        for emotion, number in row["votes"].items():
            votes[label_set.classes.get(emotion, OTHER)] += number
        for name in dict.fromkeys([*label_set.classes.values(), OTHER]):
            told[VOTES + name] = votes[name]
    return told


def excluded_path(manifest: Path) -> Path:
    """Where the utterances that a manifest leaves out are named.

    >>> excluded_path(Path("tables/iemocap.csv")).as_posix()
    'tables/iemocap.excluded.csv'
    """
    return manifest.with_name(f"{manifest.stem}.excluded.csv")


def write_excluded(excluded: Mapping[str, str], manifest: Path) -> None:
    """Write what a manifest leaves out beside it; an old file goes where there is nothing to write."""
    path = excluded_path(manifest)
    if not excluded:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("utterance_id", "reason"))
    rows.writerows(excluded.items())
    with replacing(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def read_excluded(manifest: Path) -> dict[str, str]:
    """What a manifest leaves out, by the file beside it; empty where there is none.

    Raises:
        ManifestError: it is not as :func:`write_excluded` writes it.
    """
    path = excluded_path(manifest)
    if not path.is_file():
        return {}
    try:
        rows = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""))
        if missing := {"utterance_id", "reason"} - set(rows.fieldnames or ()):
            raise ManifestError(f"{path}: has no column {min(missing)!r}; make it again with: mmser manifest")
        return {row["utterance_id"]: row["reason"] for row in rows}
    except (UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path}: not readable ({error}); make it again with: mmser manifest") from error
