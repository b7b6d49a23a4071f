"""An alignment as files for Praat: a manifest in, a folder of TextGrids and a coverage report out.

The folder is a cache with one alignment stream in it, made as :func:`~mmser.extract.run.extract` makes it, so that what
is there is not made again; the TextGrids are written from that stream.
"""

from dataclasses import dataclass
from pathlib import Path

from mmser.cache import Cache, Stream
from mmser.cache.json_files import read_json, write_json
from mmser.errors import CacheError
from mmser.extract.align.textgrid import write_textgrid
from mmser.extract.alignments import read_alignment
from mmser.extract.coverage import COVERAGE_FILE, write_coverage
from mmser.extract.options import NONE, Extraction
from mmser.extract.run import Summary, extract
from mmser.extract.work import Report
from mmser.manifest import Manifest

INDEX = "textgrids.json"
"""Which TextGrids of the folder are mmser's, and the digest of the alignment that each holds."""


@dataclass(frozen=True)
class Written:
    """What :func:`align` did."""

    summary: Summary
    num_written: int
    """TextGrids written in this run; the others were there."""
    num_present: int


def align(manifest: Manifest, folder: Path, options: Extraction, report: Report = lambda *_: None) -> Written:
    """Align a manifest, and write ``<utterance_id>.TextGrid``, ``coverage.json`` and, where any failed, ``failed.csv``.

    Run again, only what is missing is done.

    Args:
        manifest: the utterances.
        folder: made if it is not there; it belongs to one aligner.
        options: the aligner and its options; encoders are not looked at.
        report: told how far it is.

    Raises:
        MmserError: an aligner that cannot be used, or a folder with another aligner's or somebody else's TextGrids.
    """
    assert options.speech_model == options.text_model == NONE != options.aligner
    name = f"align/{options.aligner}"
    if folder.is_dir():
        others = [n for n in Cache(folder).stream_names if n.startswith("align/") and n != name]
        if others:
            raise CacheError(
                f"{folder} holds TextGrids of the aligner {others[0].removeprefix('align/')!r}; give another --out"
            )
        _check_owned(folder, manifest.ids)
    summary = extract(manifest, folder, options, report)
    stream = Cache(folder).stream(name)
    written = write_textgrids(stream, folder)
    assert summary.coverage is not None
    write_coverage(summary.coverage, folder / COVERAGE_FILE)
    return Written(summary, written, len(stream))


def write_textgrids(stream: Stream, folder: Path) -> int:
    """Write the TextGrids of an alignment stream that the folder lacks, or that hold another alignment.

    Returns:
        How many were written.

    Raises:
        CacheError: a file of such a name is there that mmser did not write.
    """
    digests = stream.digests("alignment")
    _check_owned(folder, list(digests))
    before = _owned(folder)
    paths = {uid: _path(folder, uid) for uid in digests}
    pending = [uid for uid, path in paths.items() if before.get(uid) != digests[uid] or not path.exists()]
    # Outdated files go first, then the index is written, then files: whenever this is killed, what is there is listed,
    # and what is listed and there is up to date.
    for uid in pending:
        paths[uid].unlink(missing_ok=True)
    if pending:
        write_json(folder / INDEX, {"stream": stream.name, "alignments": {**before, **digests}})
    for uid in pending:
        alignment, duration_s = read_alignment(stream, uid)
        temporary = folder / ".textgrid.tmp"
        write_textgrid(alignment, duration_s, temporary)
        temporary.replace(paths[uid])
    return len(pending)


def _path(folder: Path, utterance_id: str) -> Path:
    # An id is no path: records.check_utterance_id refused those that could be one.
    return folder / f"{utterance_id}.TextGrid"


def _owned(folder: Path) -> dict[str, str]:
    path = folder / INDEX
    found = read_json(path).get("alignments") if path.exists() else {}
    if not isinstance(found, dict):
        raise CacheError(f"{path} is not mmser's list of TextGrids; delete it, or give another --out")
    return found


def _check_owned(folder: Path, utterance_ids: list[str]) -> None:
    owned = _owned(folder)
    foreign = [uid for uid in utterance_ids if uid not in owned and _path(folder, uid).exists()]
    if foreign:
        raise CacheError(
            f"{_path(folder, foreign[0])} was not written by mmser, nor were {len(foreign) - 1} others; nothing is "
            "overwritten: give another --out"
        )
