"""``mmser export`` and ``mmser hub``: a trained head for others to use."""

# ruff: noqa: D301 - click keeps the lines of a paragraph that begins with the control character \b, not with its name

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmser.commands.output import Output, with_output

if TYPE_CHECKING:
    from mmser.publish.onnx_file import OnnxFile


@click.command()
@click.argument("head", type=click.Path(path_type=Path))
@click.option(
    "--onnx",
    "path",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="ONNX file to write.",
)
@with_output
def export(head: Path, path: Path, output: Output) -> None:
    """Write the trained HEAD of a run folder as one ONNX file, checked with onnxruntime.

    It takes the states of the head's encoders, with masks, and gives posteriors and ratings; what they mean is in the
    file. Needs pip install mmser[onnx].

    \b
    mmser export runs/demo/coattention/heads/coattention-fold0-seed0 --onnx emotion.onnx
    """
    from mmser.publish.onnx_file import export_onnx

    written = export_onnx(head, path)
    told = {"onnx": str(written.path), "inputs": list(written.inputs), "outputs": list(written.outputs)}
    output.give({**told, "difference": written.difference}, lambda: _show_export(written))


def _show_export(written: "OnnxFile") -> None:
    click.echo(f"takes   {', '.join(written.inputs)}")
    click.echo(f"gives   {', '.join(written.outputs)}")
    click.echo(f"onnxruntime and torch differ by {written.difference:.1e} at most. Written to {written.path}")


@click.group()
def hub() -> None:
    """Share trained heads on the Hugging Face hub.

    \b
    mmser hub push runs/demo/coattention/heads/coattention-fold0-seed0 me/emotion-head --private
    """


@hub.command()
@click.argument("head", type=click.Path(path_type=Path))
@click.argument("repo")
@click.option("--private", is_flag=True, help="Nobody else may see it.")
@click.option("--dry-run", is_flag=True, help="Write the files to hub/REPO, and ask nothing of the hub.")
@with_output
def push(head: Path, repo: str, private: bool, dry_run: bool, output: Output) -> None:
    """Push the trained HEAD of a run folder to REPO (OWNER/NAME), with a card that says what it is.

    Up go config.json, model.safetensors and README.md, and nothing else.

    \b
    mmser hub push runs/demo/coattention/heads/coattention-fold0-seed0 me/emotion-head --dry-run
    """
    from mmser.publish import hub as publish

    told = {"repo": repo, "files": list(publish.FILES)}
    if dry_run:
        folder = Path("hub") / repo
        publish.write_repository(head, repo, folder)
        line = f"Written to {folder}: {', '.join(publish.FILES)}. Nothing was pushed"
        output.give({**told, "folder": str(folder), "url": None}, lambda: click.echo(line))
    else:
        url = publish.push(head, repo, private=private)
        output.give({**told, "folder": None, "url": url}, lambda: click.echo(f"Pushed to {url}"))
