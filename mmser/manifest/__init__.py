"""The table of utterances: which recordings there are, what is said in them, by whom, and how it was rated."""

from mmser.manifest.add_column import add_column, check_new_column
from mmser.manifest.files import parse_manifest, read_manifest, write_manifest
from mmser.manifest.table import NUMBER_COLUMNS, REQUIRED_COLUMNS, Manifest, merge

__all__ = [
    "NUMBER_COLUMNS",
    "REQUIRED_COLUMNS",
    "Manifest",
    "add_column",
    "check_new_column",
    "merge",
    "parse_manifest",
    "read_manifest",
    "write_manifest",
]
