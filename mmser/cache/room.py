"""Room on the disk is asked for before HDF5 writes: HDF5 2.0.0 crashes as it closes a file on a full disk."""

import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mmser.cache.schema import Column

_MARGIN = 1 << 18
"""Bytes that must be left besides the columns of a shard: ids, digests and what HDF5 itself keeps."""


def check_room(folder: Path, tables: Mapping[str, tuple[Sequence[int], Mapping[str, Column]]]) -> None:
    """Refuse to begin a shard that the disk cannot hold, with the error that writing it would give.

    Raises:
        OSError: ENOSPC.
    """
    size = sum(
        int(np.prod(column.shape(int(sum(lengths))))) * np.dtype(column.dtype).itemsize
        for lengths, columns in tables.values()
        for column in columns.values()
    )
    if shutil.disk_usage(folder).free < size + _MARGIN:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def reserve(path: Path) -> None:
    """Have the disk set aside what a file will fill, where the system can; what is in it stays.

    Raises:
        OSError: full, or over quota.
    """
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
