"""The HDF5 cache: streams of immutable shards. The only importer of h5py; :mod:`mmser.cache.schema` is the layout."""

from mmser.cache.schema import SCHEMA, STATES, Column, stream_folder_name
from mmser.cache.store import Cache, PackedColumn, Stream, Unit
from mmser.cache.verify import verify
from mmser.cache.writer import StreamWriter

__all__ = [
    "SCHEMA",
    "STATES",
    "Cache",
    "Column",
    "PackedColumn",
    "Stream",
    "StreamWriter",
    "Unit",
    "stream_folder_name",
    "verify",
]
