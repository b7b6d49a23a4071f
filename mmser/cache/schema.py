"""The layout of a cache, on one page.

A cache is a folder of **streams**, one per thing extracted. A stream is a folder of immutable HDF5 **shards**, with
``stream.json`` (what made it) and ``plan.json`` (which utterances go into which shard)::

    CACHE/
      manifest.csv                          the rows it was made from
      failed.csv                            what could not be extracted, with the reason
      speech/<encoder>/                     frame     layer states of every frame
      text/<encoder>/                       token     layer states of every token, its span and its word
                                                      (imported: states alone)
      align/<aligner>/                      word, syllable, phone     segments in time; utterance: length, flags
      pooled/<encoder>@<aligner>/           word, syllable, phone, utterance     pooled layer states
      mel/<recipe>/                         frame     log-mel spectrogram, a frame every 10 ms
      opensmile/<set>/                      frame, utterance     low-level descriptors and functionals
        stream.json  plan.json
        00000-3f786850e387550f.h5           shard 0; behind the dash, the file's own SHA-256 (its first 16 digits)

Inside a shard, everything that belongs to one **granularity** is packed end to end, utterance after utterance::

    /utterance_id            (n,)           UTF-8, fixed width
    /digest/audio|text|alignment   (n,)     SHA-256 of what each utterance was made from
    /<granularity>/offsets   (n + 1,)       rows of utterance i: offsets[i] to offsets[i + 1]
    /<granularity>/states    (layers, rows, dim)     layer-major, so that one layer is one sequential read
    /<granularity>/<column>  (rows,)        token_id, start, end, word ... segment, start_s, label, ...

Datasets are contiguous and uncompressed, so that they can be memory-mapped; each carries its SHA-256 as an attribute.

A **packed** cache is all of that in one HDF5 file: a shard is a group with the name the shard had as a file, and each
other file is a dataset of bytes::

    CACHE.h5
      (512 bytes before the HDF5)           a magic line, and the SHA-256 of all that follows
      /manifest.csv  /failed.csv            (bytes,)
      /<kind>/<stream>/stream.json  plan.json       (bytes,)
      /<kind>/<stream>/00000-3f786850e387550f/...   as in a shard
"""

import re
from dataclasses import dataclass
from typing import Final

import numpy as np

from mmser.errors import CacheError

SCHEMA: Final = 1
"""Raised whenever a reader of the former number would misread a shard."""

SHARD_NAME = re.compile(r"(\d{5})-([0-9a-f]{16})\.h5")
RECIPE_FILE: Final = "stream.json"
PLAN_FILE: Final = "plan.json"
MANIFEST_FILE: Final = "manifest.csv"
FAILURES_FILE: Final = "failed.csv"
KINDS: Final = ("speech", "text", "align", "pooled", "mel", "opensmile")
"""The first part of a stream's name."""

STATES: Final = "states"
"""The one column that has a leading layer axis."""

IMPORTED: Final = "imported from"
"""The key of a recipe that says that the states were made elsewhere."""

MAX_TEXT: Final = 1 << 12
"""Bytes of one text (an id, a word, a phone) at most: a width that a file claims is a width that readers reserve."""

_ALLOWED_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]*")


@dataclass(frozen=True)
class Column:
    """How one column of a granularity is stored."""

    dtype: str
    """A numpy type: little-endian numbers, or ``S<width>`` for UTF-8 text."""
    layers: int = 0
    """Size of the leading layer axis; 0 for a column without one."""
    dim: int = 0
    """Size of the last axis; 0 for one number a row."""

    def shape(self, rows: int) -> tuple[int, ...]:
        """Shape of the whole dataset for this many rows."""
        return (self.layers,) * bool(self.layers) + (rows,) + (self.dim,) * bool(self.dim)


def check_dtype(dtype: np.dtype, where: str) -> None:
    """Admit numbers of known size and fixed-width text; nothing that HDF5 would resolve by following a reference.

    Raises:
        CacheError: any other type.
    """
    if dtype.hasobject or dtype.kind not in "iufS" or dtype.byteorder == ">" or dtype.subdtype or dtype.names:
        raise CacheError(
            f"{where}: holds {dtype}, expected plain little-endian numbers or fixed-width text; not a shard of mmser"
        )
    if dtype.itemsize > MAX_TEXT:
        raise CacheError(f"{where}: holds texts of {dtype.itemsize} bytes, expected {MAX_TEXT} at most")


def stream_folder_name(identifier: str) -> str:
    """A name for an encoder that is one folder on every system: ``a/b`` becomes ``a--b``, ``builtin:x`` ``builtin-x``.

    >>> stream_folder_name("facebook/wav2vec2-base"), stream_folder_name("builtin:tiny")
    ('facebook--wav2vec2-base', 'builtin-tiny')
    """
    name = re.sub(r"[^A-Za-z0-9._+-]", "-", identifier.replace("/", "--")).strip("-.")
    return name or "encoder"


def check_stream_name(name: str) -> None:
    """Refuse a stream name that is not ``kind/name``.

    Raises:
        CacheError: unknown kind, or a name that could leave the cache's folder.
    """
    kind, _, rest = name.partition("/")
    if kind not in KINDS or not _ALLOWED_NAME.fullmatch(rest):
        raise CacheError(f"{name!r} is no stream name; expected one of {', '.join(KINDS)}, a slash, and a plain name")
