"""The HDF5 cache: streams of immutable shards. The only importer of h5py; :mod:`mmser.cache.schema` is the layout."""

from mmser.cache.arrays import Features
from mmser.cache.cache import Cache
from mmser.cache.compact import Compacted, compact
from mmser.cache.export import export
from mmser.cache.foreign import Foreign
from mmser.cache.importing import Imported, import_features, told_manifest
from mmser.cache.opening import open_foreign
from mmser.cache.packed import pack
from mmser.cache.schema import SCHEMA, STATES, Column, stream_folder_name
from mmser.cache.stream import PackedColumn, Stream
from mmser.cache.stream_files import Unit
from mmser.cache.verify import verify
from mmser.cache.writer import StreamWriter

__all__ = [
    "SCHEMA",
    "STATES",
    "Cache",
    "Column",
    "Compacted",
    "Features",
    "Foreign",
    "Imported",
    "PackedColumn",
    "Stream",
    "StreamWriter",
    "Unit",
    "compact",
    "export",
    "import_features",
    "open_foreign",
    "pack",
    "stream_folder_name",
    "told_manifest",
    "verify",
]
