"""``mmser manifest``: corpora as downloaded become tables."""

# ruff: noqa: D301 - click keeps the lines of a paragraph that begins with the control character \b, not with its name

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmser.errors import MmserError
from mmser.records import TIERS, Alignment

if TYPE_CHECKING:
    from mmser.manifest import Manifest


@click.command()
@click.argument("corpus")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Manifest to write (.csv, ...). [default: CORPUS.csv]")
@click.option(
    "--textgrids",
    type=click.Path(path_type=Path),
    help="Also write the corpus's own labels as TextGrids into this folder, for --align textgrid.",
)
def manifest(corpus: str, folder: Path, out: Path | None, textgrids: Path | None) -> None:
    """Write the manifest of a known CORPUS from its FOLDER, as downloaded.

    \b
    mmser manifest emodb ~/corpora/emodb --out emodb.csv
    mmser manifest emodb ~/corpora/emodb --out emodb.csv --textgrids emodb-labels
    """
    from collections import Counter

    from mmser.corpora import CORPORA, HAND_LABELS
    from mmser.manifest import write_manifest
    from mmser.show import counted

    if textgrids is not None and corpus in CORPORA and corpus not in HAND_LABELS:
        raise MmserError(f"--textgrids: no labels are known to come with {corpus}, only with: {', '.join(HAND_LABELS)}")
    if corpus not in CORPORA:
        raise MmserError(f"no corpus is called {corpus!r}; there are: {', '.join(CORPORA)}")
    found = CORPORA[corpus](folder)
    out = out or Path(f"{corpus}.csv")
    write_manifest(found, out)
    for warning in found.warnings:
        click.echo(f"Note: {warning}", err=True)
    click.echo(f"{out}: {len(found)} utterances ({counted(Counter(found.column('label').tolist()))})")
    if textgrids is not None:
        _write_labels(corpus, folder, found, textgrids)


def _write_labels(corpus: str, folder: Path, table: "Manifest", out: Path) -> None:
    """Write the labels that come with a corpus, one TextGrid an utterance, and name what could not be used."""
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
    for note in notes:
        click.echo(f"Note: {note}", err=True)
    sizes = ", ".join(f"{sum(len(alignment.tier(tier)) for alignment in written)} {tier}s" for tier in TIERS)
    click.echo(f"{out}: TextGrids of {len(written)} of {len(table)} utterances ({sizes})")
