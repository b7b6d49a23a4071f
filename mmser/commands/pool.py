"""``mmser pool``: stored frames and an alignment become pooled states."""

# ruff: noqa: D301 - click keeps the lines of a paragraph that begins with the control character \b, not with its name

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmser.commands.defaults import default_of
from mmser.commands.output import Output, with_output
from mmser.extract.options import Pooling
from mmser.records import POOLINGS

if TYPE_CHECKING:
    from mmser.extract.pool import Pooled

_default = partial(default_of, Pooling)


@click.command()
@click.argument("cache_path", metavar="CACHE", type=click.Path(path_type=Path))
@click.option("--align", "aligner", default=_default("aligner"), help="An alignment of the cache, by its aligner.")
@click.option("--encoder", help="Whose frames, where the cache holds those of several.")
@click.option(
    "--keep",
    default="",
    show_default=False,
    help="phone, syllable, word, utterance (comma-separated). [default: all that the alignment gives]",
)
@click.option("--pooling", type=click.Choice(POOLINGS), default=_default("pooling"), help="Over segments.")
@click.option("--refresh", is_flag=True, help="Pool again where the alignment or the recording changed since.")
@with_output
def pool(
    cache_path: Path, aligner: str, encoder: str | None, keep: str, pooling: str, refresh: bool, output: Output
) -> None:
    """Pool the stored frames of a CACHE over another alignment, without running the encoder again.

    The frames are those of mmser extract --keep frame,... and the result is what extraction would have pooled, up to
    the rounding of frames stored in float16.

    \b
    mmser extract iemocap.csv --cache cache/iemocap --speech-model none --text-model none --align mfa
    mmser pool cache/iemocap --align mfa
    """
    from mmser.extract.pool import pool_frames

    granularities = tuple(part.strip() for part in keep.split(",") if part.strip())
    asked = Pooling(aligner, encoder, granularities, pooling, refresh)
    with output.meter() as progress:
        done = pool_frames(cache_path, asked, progress)
    output.give({"cache": str(cache_path), **asdict(done)}, lambda: _show(done, cache_path))
    if done.changed:
        output.say(
            f"Note: the alignment or the recording of {done.changed} utterances has changed since they were pooled, "
            "and they keep their old states; add --refresh to pool them again"
        )


def _show(done: "Pooled", cache_path: Path) -> None:
    what = f"{done.added} utterances added" if done.added else "nothing was missing"
    click.echo(f"{cache_path / done.stream}: {what}, in {done.wall_s:.1f} s")
    if done.not_aligned:
        click.echo(
            f"{done.not_aligned} of {done.num_frames_stored} utterances have no alignment: they have utterance states, "
            "but no words"
        )
    if done.zero_frame_segments:
        click.echo(f"{done.zero_frame_segments} segments were too short to hold a frame and took the nearest one")
