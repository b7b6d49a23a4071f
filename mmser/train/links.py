"""Which word of the transcript each state belongs to, and when it was spoken: the alignment ties speech to text."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mmser.cache import Cache, PackedColumn, Stream
from mmser.errors import ProtocolError
from mmser.train.columns import DESCRIPTORS, stored_column
from mmser.units import FrameGrid


def alignments(cache: Cache, speech: Mapping[str, Stream]) -> Stream:
    """The alignments that the pooled states were made from; for frames alone, the only ones that there are.

    Raises:
        ProtocolError: there is none, or no single one, or the states were made elsewhere and nobody knows when.
    """
    other = [stream.name for stream in speech.values() if stream.name.startswith(f"{DESCRIPTORS}/")]
    if other:
        raise ProtocolError(f"a head that reads words or positions takes an encoder's states, not those of {other[0]}")
    imported = [stream.name for granularity, stream in speech.items() if granularity == "frame" and stream.imported]
    if imported:
        raise ProtocolError(
            f"{imported[0]} was imported, and how long each of its frames lasts is not known; a head that links speech "
            "and text by words or times needs frames of mmser extract --keep frame"
        )
    names = sorted({f"align/{s.name.rpartition('@')[2]}" for s in speech.values() if s.name.startswith("pooled/")})
    names = names or [name for name in cache.stream_names if name.startswith("align/")]
    if len(names) != 1:
        raise ProtocolError(
            f"{cache.path}: a head that reads words or positions needs one alignment to link frames to words; there "
            f"are {', '.join(names) or 'none'}. Name pooled speech beside the frames (--granularity frame,word), or "
            "extract with --align"
        )
    if names[0] not in cache.stream_names:
        raise ProtocolError(
            f"{cache.path}: a head that reads words or positions needs the alignments {names[0]}, which are not there; "
            "extract with --align"
        )
    return cache.stream(names[0])


class Linker:
    """The alignment of some utterances, ready to be asked. Not to be had: -1, for words and times alike.

    Args:
        align: the stream of alignments.
        utterance_ids: the utterances, in the order in which all that is asked about lies.
    """

    def __init__(self, align: Stream, utterance_ids: Sequence[str]) -> None:
        self.align, self.ids = align, list(utterance_ids)
        parents = self._column("word", "parent")
        self.offsets, self.word = parents.offsets, parents.values.astype(np.int64)
        self.start_s, self.end_s = self._column("word", "start_s").values, self._column("word", "end_s").values

    def of_segments(self, stream: Stream, granularity: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Words (N,) and middles in seconds (N,) of the pooled states of a granularity.

        Raises:
            ProtocolError: the states were pooled over another alignment.
        """
        self._check_same(stream)
        segments = stored_column(stream, granularity, "segment", self.ids)
        tier = self._column(granularity, "parent")
        index = tier.offsets[:-1].repeat(np.diff(segments.offsets)) + segments.values
        middle = (self._column(granularity, "start_s").values + self._column(granularity, "end_s").values) / 2
        parent = tier.values.astype(np.int64)
        if granularity != "word":  # a phone's parent is a segment, whose parent is a word of the transcript
            above = self.offsets[:-1].repeat(np.diff(tier.offsets)) + parent
            parent = np.append(self.word, -1)[np.where(parent >= 0, above, -1)]
        return parent[index], middle[index].astype(np.float32)

    def of_frames(self, offsets: NDArray[np.int64], grid: FrameGrid) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Words (N,) and centres in seconds (N,) of frames on a grid, utterance i's from ``offsets[i]``."""
        words, centres = [], []
        for i, count in enumerate(np.diff(offsets)):
            own = slice(self.offsets[i], self.offsets[i + 1])
            centre = grid.centres_s(int(count))
            segment = np.searchsorted(self.start_s[own], centre, side="right") - 1
            inside = (segment >= 0) & (centre < np.append(self.end_s[own], -np.inf)[segment])
            words.append(np.where(inside, np.append(self.word[own], -1)[segment], -1))
            centres.append(centre.astype(np.float32))
        empty = np.zeros(0)
        return np.concatenate([empty.astype(np.int64), *words]), np.concatenate([empty.astype(np.float32), *centres])

    def of_tokens(self, words: PackedColumn) -> NDArray[np.float32]:
        """When each token was spoken, (N,) seconds: the middle of its word; the mean where it was said in parts."""
        spoken = self.word >= 0
        width = 1 + max(self.word.max(initial=-1), words.values.max(initial=-1))
        place = np.arange(len(self.ids)).repeat(np.diff(self.offsets)) * width + self.word
        asked = np.arange(len(self.ids)).repeat(np.diff(words.offsets)) * width + words.values
        middle = (self.start_s + self.end_s) / 2
        size = len(self.ids) * width
        counts = np.bincount(place[spoken], minlength=size)
        sums = np.bincount(place[spoken], weights=middle[spoken], minlength=size)
        means = np.append(np.where(counts > 0, sums / np.maximum(counts, 1), -1.0), -1.0)
        return means[np.where(words.values >= 0, asked, size)].astype(np.float32)

    def check_recordings(self, frames: Stream) -> None:
        """Make sure that frames and alignment are of one recording.

        Raises:
            ProtocolError: the frames are of another one.
        """
        uid = self._differing(frames, "audio")
        if uid is not None:
            raise ProtocolError(
                f"utterance {uid!r}: {frames.name} is of another recording than {self.align.name}; extract both again "
                "with --refresh"
            )

    def check_transcript(self, text: Stream) -> None:
        """Make sure that tokens and alignment are of one transcript: the words of another have other numbers.

        Raises:
            ProtocolError: the tokens are of another one, such as that of a speech recogniser.
        """
        uid = self._differing(text, "text")
        if uid is not None:
            raise ProtocolError(
                f"utterance {uid!r}: {text.name} was made from another transcript than {self.align.name}, and a "
                "head that reads words or positions needs both of one; choose the text of the aligned transcript "
                "(--text-stream), or, where the manifest has changed since, extract both again with --refresh"
            )

    def _differing(self, stream: Stream, source: str) -> str | None:
        """The first utterance of which a stream and the alignment are known to be made from different sources."""
        then, now = stream.digests(source), self.align.digests(source)
        known = (uid for uid in self.ids if then.get(uid) and now.get(uid))  # empty where not known
        return next((uid for uid in known if then[uid] != now[uid]), None)

    def _column(self, tier: str, name: str) -> PackedColumn:
        return stored_column(self.align, tier, name, self.ids)

    def _check_same(self, stream: Stream) -> None:
        pooled_over, now = stream.digests("alignment"), self.align.digests("alignment")
        for uid in self.ids:
            if uid in pooled_over and pooled_over[uid] != now.get(uid, ""):  # empty: without an alignment
                raise ProtocolError(
                    f"utterance {uid!r}: {stream.name} was pooled over another alignment than {self.align.name} holds "
                    "now; extract again with --refresh"
                )
