"""Aligners: which word, syllable and phone was spoken when.

An aligner is any object with the shape of :class:`Aligner`; :func:`make_aligner` makes one by name. Its backend
(PocketSphinx, praatio) is imported only when it is made, so that importing this package costs nothing.
A new aligner is one file and one entry in :data:`ALIGNERS`.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mmser.errors import AlignmentError
from mmser.records import Alignment


@dataclass(frozen=True)
class Spoken:
    """What an aligner gets: one utterance as it sounds and as it was written down."""

    utterance_id: str
    samples: NDArray[np.float32]
    """Shape (num_samples,): mono, 16 kHz, -1 to 1."""
    text: str
    """Transcript as written; may be empty."""


@dataclass(frozen=True)
class Failed:
    """An utterance that could not be aligned. A value, so that one bad recording never stops the rest."""

    utterance_id: str
    reason: str
    """Names the utterance or file, what was found, what was expected, what to do."""


class Aligner(Protocol):
    """What every aligner offers. Also a context manager: leaving it calls :meth:`close`."""

    @property
    def name(self) -> str:
        """Name of the aligner, and of the stream of the cache that holds its alignments."""
        ...

    @property
    def recipe(self) -> dict[str, object]:
        """Everything that decides the result (versions, models, lexicon, settings), fit for JSON."""
        ...

    def align(self, spoken: Iterable[Spoken]) -> Iterator[Alignment | Failed]:
        """One result for each utterance, in their order; takes no more of them than it needs to stay busy."""
        ...

    def close(self) -> None:
        """Stop worker processes, if there are any. May be called twice."""
        ...

    def __enter__(self) -> "Aligner": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def _make_pocketsphinx(textgrid_folder: Path | None, lexicon: Path | None, jobs: int | None) -> Aligner:
    from mmser.extract.align.pocketsphinx import PocketSphinxAligner

    if textgrid_folder is not None:
        raise AlignmentError(
            f"the aligner 'pocketsphinx' reads no TextGrids, but the folder {textgrid_folder} was given; "
            "to import them, choose the aligner 'textgrid'"
        )
    return PocketSphinxAligner(lexicon=lexicon, jobs=jobs)


def _make_textgrid(textgrid_folder: Path | None, lexicon: Path | None, jobs: int | None) -> Aligner:
    from mmser.extract.align.textgrid import TextGridAligner

    del jobs  # reading takes milliseconds: worker processes would cost more than they give
    if textgrid_folder is None:
        raise AlignmentError("the aligner 'textgrid' needs the folder that holds <utterance_id>.TextGrid files")
    if lexicon is not None:
        raise AlignmentError(
            f"the aligner 'textgrid' takes its phones from the TextGrids, but the lexicon {lexicon} was given; "
            "leave it out, or choose the aligner 'pocketsphinx'"
        )
    return TextGridAligner(textgrid_folder)


ALIGNERS: dict[str, Callable[[Path | None, Path | None, int | None], Aligner]] = {
    "pocketsphinx": _make_pocketsphinx,
    "textgrid": _make_textgrid,
}
"""How to make each aligner, from (textgrid_folder, lexicon, jobs)."""


def make_aligner(
    name: str, *, textgrid_folder: Path | None = None, lexicon: Path | None = None, jobs: int | None = None
) -> Aligner:
    """The aligner of that name.

    Args:
        name: a key of :data:`ALIGNERS`.
        textgrid_folder: where ``textgrid`` looks for ``<utterance_id>.TextGrid``, at any depth.
        lexicon: pronunciations in CMU format that ``pocketsphinx`` prefers to its own.
        jobs: worker processes; None is one per CPU, 1 works in this process.

    Raises:
        AlignmentError: no such aligner, an option that it does not take, or a missing or malformed file.
    """
    if name not in ALIGNERS:
        raise AlignmentError(f"no aligner is called {name!r}; there are {', '.join(sorted(ALIGNERS))}")
    return ALIGNERS[name](textgrid_folder, lexicon, jobs)
