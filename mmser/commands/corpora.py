"""``mmser manifest``: corpora as downloaded become tables."""

# ruff: noqa: D301 - click keeps the lines of a paragraph that begins with the control character \b, not with its name

from pathlib import Path

import click

from mmser.errors import MmserError


@click.command()
@click.argument("corpus")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Manifest to write (.csv, ...). [default: CORPUS.csv]")
def manifest(corpus: str, folder: Path, out: Path | None) -> None:
    """Write the manifest of a known CORPUS from its FOLDER, as downloaded.

    \b
    mmser manifest emodb ~/corpora/emodb --out emodb.csv
    """
    from collections import Counter

    from mmser.corpora import CORPORA
    from mmser.manifest import write_manifest
    from mmser.show import counted

    if corpus not in CORPORA:
        raise MmserError(f"no corpus is called {corpus!r}; there are: {', '.join(CORPORA)}")
    found = CORPORA[corpus](folder)
    out = out or Path(f"{corpus}.csv")
    write_manifest(found, out)
    for warning in found.warnings:
        click.echo(f"Note: {warning}", err=True)
    click.echo(f"{out}: {len(found)} utterances ({counted(Counter(found.column('label').tolist()))})")
