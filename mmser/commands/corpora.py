"""``mmser manifest``: corpora as downloaded become tables."""

# ruff: noqa: D301 - click keeps the lines of a paragraph that begins with the control character \b, not with its name

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmser.commands.output import Output, with_output
from mmser.errors import MmserError
from mmser.records import TIERS, Alignment

if TYPE_CHECKING:
    from mmser.corpora.corpus import Reading
    from mmser.manifest import Manifest


@click.command()
@click.argument("corpus")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Manifest to write (.csv, ...). [default: CORPUS.csv]",
)
@click.option(
    "--textgrids",
    type=click.Path(path_type=Path),
    help="Also write the corpus's own labels as TextGrids into this folder, for --align textgrid.",
)
@click.option("--labels", metavar="SET", help="Label set of the corpus (docs/corpora.md). [default: its first]")
@click.option("--audio", type=click.Path(path_type=Path), help="Folder for the sound of corpora that are videos.")
@click.option("--tables", default="", show_default=False, help="Of audformat: tables of utterances, comma-separated.")
@with_output
def manifest(
    corpus: str,
    folder: Path,
    out: Path | None,
    textgrids: Path | None,
    labels: str | None,
    audio: Path | None,
    tables: str,
    output: Output,
) -> None:
    """Write the manifest of a known CORPUS from its FOLDER, as downloaded.

    What is left out is named with its reason in a file beside it (OUT.excluded.csv); mmser doctor looks closer.

    \b
    mmser manifest emodb ~/corpora/emodb --out emodb.csv
    mmser manifest emodb ~/corpora/emodb --out emodb.csv --textgrids emodb-labels
    mmser manifest iemocap ~/corpora/IEMOCAP_full_release --labels 6class --out iemocap.csv
    mmser manifest meld ~/corpora/MELD.Raw --audio ~/corpora/meld-audio --out meld.csv
    """
    from collections import Counter

    from mmser.corpora import CORPORA, HAND_LABELS, Request, read_corpus
    from mmser.corpora.corpus import write_excluded
    from mmser.manifest import write_manifest
    from mmser.show import counted

    if textgrids is not None and corpus in CORPORA and corpus not in HAND_LABELS:
        raise MmserError(f"--textgrids: no labels are known to come with {corpus}, only with: {', '.join(HAND_LABELS)}")
    names = tuple(part.strip() for part in tables.split(",") if part.strip())
    with output.meter() as progress:
        reading = read_corpus(corpus, Request(folder, audio, progress, names), labels)
    found = reading.manifest
    out = out or Path(f"{corpus}.csv")
    write_manifest(found, out)
    write_excluded(reading.excluded, out)
    classes = Counter(label or "without a label" for label in found.column("label"))
    lines = [f"{out}: {len(found)} utterances ({counted(classes)})"]
    notes = _notes(corpus, reading, out)
    if textgrids is not None:
        written, odd = _write_labels(corpus, folder, found, textgrids)
        lines.append(written)
        notes += odd
    for note in notes:
        output.say(f"Note: {note}", err=True)
    told = {
        "manifest": str(out),
        "utterances": len(found),
        "label_set": found.column("label_set")[0],
        "labels": dict(Counter(found.column("label"))),
        "left_out": len(reading.excluded),
        "notes": notes,
    }
    output.give(told, lambda: click.echo("\n".join(lines)))


def _notes(corpus: str, reading: "Reading", out: Path) -> list[str]:
    """What the user should know of the manifest besides."""
    from mmser.corpora import CORPORA
    from mmser.corpora.corpus import excluded_path

    known, name = CORPORA[corpus], reading.manifest.column("label_set")[0]
    notes = list(reading.manifest.warnings)
    if reading.excluded:
        notes.append(f"{len(reading.excluded)} left out; {excluded_path(out)} says why")
    if known.label_sets[name].note:
        notes.append(f"label set {name}: {known.label_sets[name].note}")
    if known.protocol and name == next(iter(known.label_sets)):
        notes.append(f"to train on it: mmser train-head CACHE --protocol {known.protocol}")
    return notes


def _write_labels(corpus: str, folder: Path, table: "Manifest", out: Path) -> tuple[str, list[str]]:
    """Write the labels that come with a corpus, one TextGrid an utterance; say what, and what could not be used."""
    from mmser.audio import duration_s
    from mmser.corpora import HAND_LABELS
    from mmser.extract.align.textgrid import write_textgrid

    labels = HAND_LABELS[corpus](folder)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MmserError(f"--textgrids {out}: the folder cannot be made ({error.strerror}); give another") from error
    notes = list(labels.notes)
    written: list[Alignment] = []
    for utterance in table.utterances():
        alignment = labels.alignments.get(utterance.utterance_id)
        if alignment is None:
            continue
        try:
            write_textgrid(alignment, duration_s(utterance.audio), out / f"{utterance.utterance_id}.TextGrid")
            written.append(alignment)
        except MmserError as error:
            notes.append(str(error))
    sizes = ", ".join(f"{sum(len(alignment.tier(tier)) for alignment in written)} {tier}s" for tier in TIERS)
    return f"{out}: TextGrids of {len(written)} of {len(table)} utterances ({sizes})", notes
