"""``mmser export`` and ``mmser hub``: a trained head for others to use."""

# ruff: noqa: D301 - click keeps the lines of a paragraph that begins with the control character \b, not with its name

from pathlib import Path

import click


@click.command()
@click.argument("head", type=click.Path(path_type=Path))
@click.option(
    "--onnx", "path", required=True, type=click.Path(path_type=Path), metavar="FILE", help="ONNX file to write."
)
def export(head: Path, path: Path) -> None:
    """Write the trained HEAD of a run folder as one ONNX file, checked with onnxruntime.

    It takes the states of the head's encoders, with masks, and gives posteriors and ratings; what they mean is in the
    file. Needs pip install mmser[onnx].

    \b
    mmser export runs/emodb/coattention-word-mix/heads/coattention-fold0-seed0 --onnx emotion.onnx
    """
    from mmser.publish.onnx_file import export_onnx

    written = export_onnx(head, path)
    click.echo(f"takes   {', '.join(written.inputs)}")
    click.echo(f"gives   {', '.join(written.outputs)}")
    click.echo(f"onnxruntime and torch differ by {written.difference:.1e} at most. Written to {written.path}")


@click.group()
def hub() -> None:
    """Share trained heads on the Hugging Face hub.

    \b
    mmser hub push runs/emodb/coattention-word-mix/heads/coattention-fold0-seed0 me/emotion-head --private
    """


@hub.command()
@click.argument("head", type=click.Path(path_type=Path))
@click.argument("repo")
@click.option("--private", is_flag=True, help="Nobody else may see it.")
@click.option("--dry-run", is_flag=True, help="Write the files to hub/REPO, and ask nothing of the hub.")
def push(head: Path, repo: str, private: bool, dry_run: bool) -> None:
    """Push the trained HEAD of a run folder to REPO (OWNER/NAME), with a card that says what it is.

    Up go config.json, model.safetensors and README.md, and nothing else.

    \b
    mmser hub push runs/emodb/coattention-word-mix/heads/coattention-fold0-seed0 me/emotion-head --dry-run
    """
    from mmser.publish import hub as publish

    if dry_run:
        publish.write_repository(head, repo, Path("hub") / repo)
        click.echo(f"Written to {Path('hub') / repo}: {', '.join(publish.FILES)}. Nothing was pushed")
        return
    click.echo(f"Pushed to {publish.push(head, repo, private=private)}")
