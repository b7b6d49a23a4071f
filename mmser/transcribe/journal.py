"""Transcripts as they are finished, a line each: a transcription that is killed goes on from there.

::

    {"recipe": {...}}
    {"utterance_id": "u1", "audio_sha256": "...", "text": "..."}

A text counts for the recipe and the recording it was made from, and for no others. The name of the file holds the first
digits of the recipe's digest, so that a run by another recipe takes nothing from this one.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmser.errors import MmserError
from mmser.files import alone, replacing

_FIELDS = ("utterance_id", "audio_sha256", "text")


class Journal:
    """An open journal; :func:`open_journal` makes it.

    Args:
        path: the file, which holds the recipe and the lines of ``finished``.
        finished: text by utterance and digest of its recording.
    """

    def __init__(self, path: Path, finished: dict[tuple[str, str], str]) -> None:
        self._path, self._finished = path, finished

    def text_of(self, utterance_id: str, digest: str) -> str | None:
        """The text of a recording, if it was finished before; None if it was not."""
        return self._finished.get((utterance_id, digest))

    def add(self, texts: Mapping[tuple[str, str], str]) -> None:
        """Keep the texts of a batch, by utterance and digest: they are on the disk on return."""
        with self._path.open("ab") as file:
            file.write("".join(_line(*key, text) for key, text in texts.items()).encode())
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def open_journal(path: Path, recipe: Mapping[str, Any]) -> Iterator[Journal]:
    """The journal of a recipe at a place, for one process at a time; those of other recipes stay.

    Args:
        path: the place: ``X.jsonl`` becomes ``X.DIGEST.jsonl``.
        recipe: everything that decides the texts.

    Raises:
        MmserError: another process is at work with it.
    """
    busy = f"{path}: another mmser is transcribing into this place; wait for it to end, or give another --out"
    with alone(path.with_name(f".{path.name}.lock"), MmserError(busy)):
        head = json.loads(json.dumps(recipe))
        digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode()).hexdigest()
        path = path.with_name(f"{path.stem}.{digest[:8]}{path.suffix}")
        finished = _read(path, head)
        # written anew: a line that was cut off by a kill would swallow the next one
        lines = [json.dumps({"recipe": head}, ensure_ascii=False) + "\n"]
        lines += [_line(*key, text) for key, text in finished.items()]
        with replacing(path) as temporary:
            temporary.write_bytes("".join(lines).encode())
        yield Journal(path, finished)


def _read(path: Path, recipe: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """The whole lines of a journal of this recipe; nothing of another's."""
    if not path.exists():
        return {}
    records = [_record(line) for line in path.read_bytes().split(b"\n")]
    if records[0].get("recipe") != recipe:
        return {}
    whole = [r for r in records[1:] if all(isinstance(r.get(name), str) for name in _FIELDS)]
    return {(r["utterance_id"], r["audio_sha256"]): r["text"] for r in whole}


def _record(line: bytes) -> dict[str, Any]:
    """A line as an object; an empty one for a line that was cut off or damaged, whose utterance is then done again."""
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _line(utterance_id: str, digest: str, text: str) -> str:
    return json.dumps(dict(zip(_FIELDS, (utterance_id, digest, text), strict=True)), ensure_ascii=False) + "\n"
