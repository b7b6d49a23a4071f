"""Files that are there whole or not at all, and folders that one process at a time may write to.

A file is written beside its place, as ``.NAME.PID.tmp``, and takes its name at the end. A writer that is killed leaves
that behind, for the next one that is :func:`alone` there to :func:`sweep`.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from mmser.errors import MmserError

_LEFTOVER = re.compile(r"\..+\.[0-9]+\.tmp", re.DOTALL)


def name_of(path: Path) -> str:
    """What a folder or file is called, also where it is given as ``.`` or ``..``, which are no names.

    >>> name_of(Path("cache/emodb")), name_of(Path("cache/emodb/sub/..")), name_of(Path(".")) == Path.cwd().name
    ('emodb', 'emodb', True)
    """
    return os.path.basename(os.path.abspath(path))


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Where to write a file that takes its place when the block ends, and leaves the old one if the block fails.

    Args:
        path: the place.
        durable: whether the file shall outlive a power cut from then on.

    Raises:
        OSError: the file cannot be flushed to the disk, or may not be replaced.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if durable:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system can (Windows has no such call)."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def alone(lock: Path, busy: MmserError | None = None) -> Iterator[None]:
    """Keep other processes out until the block ends. Whoever is killed lets go.

    Args:
        lock: a file that stands for what is to be written; it is made, and stays.
        busy: raised where another process is inside; None waits for it.
    """
    held = FileLock(lock)
    try:
        held.acquire(timeout=-1 if busy is None else 0)
    except Timeout:
        assert busy is not None
        raise busy from None
    try:
        yield
    finally:
        held.release()


def sweep(folder: Path, *names: str) -> None:
    """Remove what writers of :func:`replacing` that were killed left; nobody else may be writing there.

    Args:
        folder: where to look.
        names: the files that they were to write, below the folder; ``*`` in them stands for any.
    """
    for name in names:
        place = Path(name)
        for leftover in folder.glob(str(place.with_name(f".{place.name}.*.tmp"))):
            if _LEFTOVER.fullmatch(leftover.name):
                leftover.unlink()
