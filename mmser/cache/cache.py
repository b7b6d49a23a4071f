"""A cache: its streams, its manifest, and its states as numpy, pandas and torch know them."""

import csv
import io
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mmser.cache.arrays import Features, read_features, read_segments
from mmser.cache.json_files import parse_json
from mmser.cache.packed import PackedFile
from mmser.cache.schema import FAILURES_FILE, KINDS, MANIFEST_FILE, RECIPE_FILE, check_stream_name
from mmser.cache.stream import Stream
from mmser.cache.stream_files import is_headless
from mmser.errors import CacheError, ManifestError
from mmser.manifest import Manifest, parse_manifest

if TYPE_CHECKING:
    import pandas as pd

    from mmser.cache.torch_dataset import UtteranceDataset


class Cache:
    """A folder of streams, or the one file that ``mmser cache pack`` made of it.

    >>> Cache(Path("no/such/folder"))
    Traceback (most recent call last):
    ...
    mmser.errors.CacheError: no/such/folder: no such cache; make one with: mmser extract MANIFEST --cache no/such/folder

    Raises:
        CacheError: there is no such folder or file, or the file is no packed cache.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.packed = PackedFile(self.path) if self.path.is_file() else None
        """Its one file, where it is packed."""
        if self.packed is None and not self.path.is_dir():
            raise CacheError(f"{path}: no such cache; make one with: mmser extract MANIFEST --cache {path}")

    @property
    def manifest_path(self) -> Path:
        """The rows the cache was made from; in a packed cache, what to call them."""
        return self.path / MANIFEST_FILE

    @cached_property
    def manifest(self) -> Manifest:
        """The rows the cache was made from.

        Raises:
            ManifestError: not there, or not a manifest.
        """
        data = self._file(MANIFEST_FILE)
        if data is None:
            raise ManifestError(f"{self.path}: holds no {MANIFEST_FILE}; run the extraction again, or put one there")
        return parse_manifest(data, self.manifest_path)

    def _file(self, name: str) -> bytes | None:
        if self.packed is not None:
            return self.packed.file(name)
        path = self.path / name
        return path.read_bytes() if path.exists() else None

    @property
    def failures_path(self) -> Path:
        """What could not be extracted."""
        return self.path / FAILURES_FILE

    @property
    def failures(self) -> dict[tuple[str, str], str]:
        """Why an utterance could not be extracted, by (utterance, stream); empty where nothing failed."""
        data = self._file(FAILURES_FILE)
        if data is None:
            return {}
        try:
            rows = csv.DictReader(io.StringIO(data.decode(), newline=""))
            if missing := {"utterance_id", "streams", "reason"} - set(rows.fieldnames or ()):
                raise CacheError(
                    f"{self.failures_path}: has no column {min(missing)!r}; delete it; an extraction makes it anew"
                )
            return {(row["utterance_id"], name): row["reason"] for row in rows for name in row["streams"].split()}
        except (UnicodeDecodeError, csv.Error, AttributeError) as error:  # AttributeError: a row that is cut short
            raise CacheError(
                f"{self.failures_path}: not readable ({error}); delete it; an extraction makes it anew"
            ) from error

    @property
    def stream_names(self) -> list[str]:
        """The streams of the cache, by name."""
        if self.packed is not None:
            return sorted(self.packed.streams, key=lambda name: (KINDS.index(name.split("/")[0]), name))
        return [
            f"{kind}/{folder.name}"
            for kind in KINDS
            for folder in sorted((self.path / kind).glob("*"))
            if (folder / RECIPE_FILE).is_file()
        ]

    @property
    def headless(self) -> list[Path]:
        """Folders of streams whose ``stream.json`` is lost: nobody can say what made what they hold."""
        if self.packed is not None:
            return []
        return [folder for kind in KINDS for folder in sorted((self.path / kind).glob("*")) if is_headless(folder)]

    def check(self) -> None:
        """Refuse a folder that is no cache: any folder could be opened as one, and would seem to be empty.

        Raises:
            CacheError: it holds neither a stream nor a manifest; names the caches in it, if there are any.
        """
        if self.stream_names or self.headless or self._file(MANIFEST_FILE) is not None:
            return
        inner = self.caches_below()
        raise CacheError(
            f"{self.path} is no cache, but {', '.join(inner)} in it could be: name one of them"
            if inner
            else f"{self.path} is no cache: it holds neither a stream nor a {MANIFEST_FILE}; name another folder"
        )

    def caches_below(self) -> list[str]:
        """What could have been meant where the folder above a cache is named."""
        return sorted(path.parent.name for path in self.path.glob(f"*/{MANIFEST_FILE}"))

    @property
    def streams(self) -> dict[str, Stream]:
        """Every stream, opened."""
        return {name: self.stream(name) for name in self.stream_names}

    def stream(self, name: str) -> Stream:
        """Open one stream.

        Raises:
            CacheError: not there; names those that are.
        """
        check_stream_name(name)
        if name not in self.stream_names:
            raise CacheError(f"{self.path}: no stream {name!r}; there are: {', '.join(self.stream_names) or 'none'}")
        folder = self.path / name
        if self.packed is None:
            return Stream.open(folder, name)
        head = parse_json(self.packed.file(f"{name}/{RECIPE_FILE}") or b"", str(folder / RECIPE_FILE))
        return Stream(folder, name, head, self.packed.streams[name])

    def to_numpy(
        self,
        granularity: str = "utterance",
        *,
        stream: str | None = None,
        layer: int | Sequence[int] | None = None,
        utterances: Sequence[str] | None = None,
    ) -> Features:
        """States as an array, with the manifest's columns beside them: all that scikit-learn needs.

        Args:
            granularity: e.g. ``"utterance"`` or ``"word"``.
            stream: where from; may be left out where one stream alone holds the granularity's states.
            layer: one encoder layer, for ``values`` (rows, dim); several, or None for all that are stored, for
                ``values`` (layers, rows, dim).
            utterances: ids, in this order; None for those of the manifest that the stream holds, in its order.

        Raises:
            CacheError: no stream, several streams or not the layers or utterances asked for; says what there is.
        """
        return read_features(self._holder(granularity, stream), self.manifest, granularity, layer, utterances)

    def to_pandas(
        self,
        granularity: str = "utterance",
        *,
        stream: str | None = None,
        layer: int | None = None,
        utterances: Sequence[str] | None = None,
    ) -> "pd.DataFrame":
        """A table with one row a segment (or utterance, frame, token), beside the manifest's columns.

        Columns of the segments are called ``<granularity>_<column>``: ``word_segment``, and where the cache holds the
        alignment, ``word_label``, ``word_start_s``, ``word_end_s``, ... An utterance without segments has no row.

        Args:
            granularity: e.g. ``"word"``.
            stream: where from; an ``align/...`` stream gives every segment, a ``pooled/...`` one those with states.
            layer: an encoder layer whose states to add, as columns ``state_0``, ``state_1``, ...; None adds none.
            utterances: ids, in this order; None for those of the manifest that the stream holds, in its order.

        Raises:
            CacheError: as :meth:`to_numpy`.
        """
        holder = self._holder(granularity, stream)
        kind, _, rest = holder.name.partition("/")
        aligner = f"align/{rest.rpartition('@')[2]}"
        aligned = self.stream(aligner) if kind == "pooled" and aligner in self.stream_names else None
        return read_segments(holder, aligned, self.manifest, granularity, layer, utterances)

    def to_torch(
        self,
        granularity: str = "utterance",
        *,
        stream: str | None = None,
        layer: int | Sequence[int] | None = None,
        utterances: Sequence[str] | None = None,
        label: str | None = None,
    ) -> "UtteranceDataset":
        """A torch dataset with one item an utterance, read when asked for; for any number of workers, however started.

        Args:
            granularity: e.g. ``"frame"``.
            stream: as for :meth:`to_numpy`.
            layer: as for :meth:`to_numpy`: one for states (rows, dim), else (layers, rows, dim).
            utterances: as for :meth:`to_numpy`.
            label: a column of the manifest whose values are the classes; utterances without one are left out.

        Raises:
            CacheError: as :meth:`to_numpy`.
            ManifestError: no such column.
        """
        from mmser.cache.torch_dataset import UtteranceDataset

        return UtteranceDataset(self._holder(granularity, stream), self.manifest, granularity, layer, utterances, label)

    def _holder(self, granularity: str, name: str | None) -> Stream:
        if name is not None:
            return self.stream(name)
        streams = self.streams
        found = [n for n, s in streams.items() if granularity in s.granularities and not n.startswith("align/")]
        if not found:
            held = "; ".join(f"{n} holds {', '.join(s.granularities) or 'nothing yet'}" for n, s in streams.items())
            raise CacheError(f"{self.path}: no stream holds {granularity!r} states; {held or 'there are no streams'}")
        if len(found) > 1:
            raise CacheError(
                f"{self.path}: several streams hold {granularity!r} states; choose one: stream={found[0]!r}, or "
                + ", ".join(map(repr, found[1:]))
            )
        return streams[found[0]]
