"""``mmser align`` and the options of aligners."""

from functools import partial
from pathlib import Path
from typing import Any

import click

from mmser.commands.defaults import default_of
from mmser.extract.align import AlignerOptions


def aligner_options() -> list[Any]:
    """The options of :class:`~mmser.extract.align.AlignerOptions` but the aligner's name, with their defaults."""
    default = partial(default_of, AlignerOptions)
    path = click.Path(path_type=Path)
    return [
        click.option("--textgrids", type=path, help="textgrid: folder of <utterance_id>.TextGrid, at any depth."),
        click.option("--release", type=path, help="iemocap: folder of the release, which holds Session1."),
        click.option("--ctc-model", help="ctc: ID, ID@REVISION or FOLDER of a transformers model for CTC."),
        click.option("--lexicon", type=path, help="pocketsphinx: pronunciations in CMU format."),
        click.option("--device", default=default("device"), help="auto, cpu, cuda, cuda:1, mps."),
        click.option("--jobs", type=click.IntRange(min=1), help="Aligners and decoders. [default: one a core]"),
    ]
