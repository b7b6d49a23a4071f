"""Aligners: which word, syllable and phone was spoken when.

An aligner is any object with the shape of :class:`Aligner`; :func:`make_aligner` makes the one that
:class:`AlignerOptions` ask for. Its backend (PocketSphinx, praatio) is imported only when it is made, so that importing
this package costs nothing. A new aligner is one file and one entry in :data:`ALIGNERS`; what it alone needs to know is
a field of :class:`AlignerOptions`, named in its entry.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mmser.errors import AlignmentError
from mmser.records import Alignment

NONE = "none"
"""Asked for as an aligner or a model: leave that stream out."""

ENGLISH_MFA = "english_us_arpa"
"""MFA's American English: the name of a dictionary, of an acoustic model and of a G2P model. Its phones keep stress."""


@dataclass(frozen=True)
class Spoken:
    """What an aligner gets: one utterance as it sounds and as it was written down."""

    utterance_id: str
    samples: NDArray[np.float32]
    """Shape (num_samples,): mono, 16 kHz, -1 to 1."""
    text: str
    """Transcript as written; may be empty."""
    speaker: str = ""
    """Who speaks, for aligners that adapt to a speaker; empty where nobody knows."""


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


_Self = TypeVar("_Self", bound="Closing")


class Closing:
    """What every aligner has of a context manager: leaving it closes. Nothing is to be closed unless one says so."""

    def close(self) -> None:
        """Stop worker processes, if there are any. May be called twice."""

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class AlignerOptions:
    """Which aligner, and what it needs to know; every default is here.

    Raises:
        AlignmentError: no such aligner, an option that it does not take, or one that it needs and was not given.
    """

    aligner: str = NONE
    """A key of :data:`ALIGNERS`, or ``none``."""
    textgrids: Path | None = None
    """``textgrid``: folder of ``<utterance_id>.TextGrid``, at any depth."""
    release: Path | None = None
    """``iemocap``: folder of the corpus as released, which holds ``Session1`` to ``Session5``."""
    ctc_model: str | None = None
    """``ctc``: Hugging Face id (ID or ID@REVISION) or local folder of a transformers model for CTC."""
    lexicon: Path | None = None
    """``pocketsphinx``: pronunciations in CMU format that it prefers to its own."""
    mfa_command: str = "mfa"
    """``mfa``: how to call it, e.g. ``conda run -n aligner mfa``; split as a shell does."""
    dictionary: str = ENGLISH_MFA
    """``mfa``: name of an installed dictionary, or a file."""
    acoustic_model: str = ENGLISH_MFA
    """``mfa``: name of an installed acoustic model, or a file."""
    g2p_model: str = ENGLISH_MFA
    """``mfa``: name or file of the model that spells words which the dictionary lacks; ``none`` leaves them unknown."""
    mfa_model: str | None = None
    """``mfa``: folder or Hugging Face id of a model of MFA 3.4's format, which holds all three and replaces them."""
    device: str = "auto"
    """Where models of torch run: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``."""
    jobs: int | None = None
    """Processes that align, and as many that decode; None: one a core."""

    def __post_init__(self) -> None:
        if self.aligner != NONE and self.aligner not in ALIGNERS:
            raise AlignmentError(f"no aligner is called {self.aligner!r}; there are {', '.join(sorted(ALIGNERS))}")
        if self.jobs is not None and self.jobs < 1:
            raise AlignmentError(f"aligning in {self.jobs} processes is impossible; give 1 or more")
        takers = {taken: name for name, backend in ALIGNERS.items() for taken in backend.takes}
        for option in fields(AlignerOptions):
            given = getattr(self, option.name)
            if given != option.default and takers.get(option.name, self.aligner) != self.aligner:
                raise AlignmentError(
                    f"{flag(option.name)} {given} is for --align {takers[option.name]}, but the aligner asked for is "
                    f"{self.aligner!r}; leave one of them out"
                )
        for name, what in ALIGNERS[self.aligner].needs.items() if self.aligner != NONE else ():
            if getattr(self, name) is None:
                raise AlignmentError(f"the aligner {self.aligner!r} needs {what}: add {flag(name)}")


def flag(option: str) -> str:
    """The command line's name of a field of the options.

    >>> flag("mfa_command")
    '--mfa-command'
    """
    return "--" + option.replace("_", "-")


@runtime_checkable
class Waiting(Protocol):
    """An aligner whose results come all at once, long after it was asked."""

    waiting: Callable[[int], object]
    """Called about once a second meanwhile, with how many utterances are aligned so far; may raise to stop it."""


@runtime_checkable
class FromFiles(Protocol):
    """An aligner that takes alignments from files, which may be edited when audio and text stay the same."""

    def file_digest(self, utterance_id: str) -> str | None:
        """SHA-256 of the utterance's file or files, in hex; None where there is none, or no telling which."""
        ...


def digest_files(paths: Iterable[Path]) -> str | None:
    """SHA-256 of files, in hex, in the order given; None where there are none or one cannot be read."""
    digest, any_read = hashlib.sha256(), False
    for path in paths:
        try:
            content = path.read_bytes()
        except OSError:  # whoever reads it for its content says so
            return None
        digest.update(f"{path.suffix}\0{len(content)}\0".encode())
        digest.update(content)
        any_read = True
    return digest.hexdigest() if any_read else None


def _make_pocketsphinx(options: AlignerOptions) -> Aligner:
    from mmser.extract.align.pocketsphinx import PocketSphinxAligner

    return PocketSphinxAligner(lexicon=options.lexicon, jobs=options.jobs)


def _make_textgrid(options: AlignerOptions) -> Aligner:
    from mmser.extract.align.textgrid import TextGridAligner

    assert options.textgrids is not None
    return TextGridAligner(options.textgrids)


def _make_iemocap(options: AlignerOptions) -> Aligner:
    from mmser.extract.align.iemocap import IemocapAligner

    assert options.release is not None
    return IemocapAligner(options.release)


def _make_ctc(options: AlignerOptions) -> Aligner:
    from mmser.devices import pick_device
    from mmser.extract.align.ctc import CtcAligner

    assert options.ctc_model is not None
    return CtcAligner(options.ctc_model, device=pick_device(options.device))


def _make_mfa(options: AlignerOptions) -> Aligner:
    from mmser.extract.align.mfa import MfaAligner
    from mmser.extract.align.mfa_program import Models

    g2p = None if options.g2p_model == NONE else options.g2p_model
    if g2p == ENGLISH_MFA and options.dictionary != ENGLISH_MFA and options.mfa_model is None:
        raise AlignmentError(
            f"--g2p-model {g2p} spells in the phones of --dictionary {g2p}, but the dictionary asked for is "
            f"{options.dictionary}; give the --g2p-model that belongs to it, or none"
        )
    models = Models(options.dictionary, options.acoustic_model, g2p, options.mfa_model)
    return MfaAligner(options.mfa_command, models, jobs=options.jobs)


@dataclass(frozen=True)
class Backend:
    """How to make an aligner, and what to know before it is made."""

    make: Callable[[AlignerOptions], Aligner]
    takes: tuple[str, ...] = ()
    """The fields of :class:`AlignerOptions` that are for it alone."""
    needs: Mapping[str, str] = field(default_factory=dict)
    """Those of them that it cannot do without, and what each is."""
    english_only: bool = False
    """Whether its acoustic model is English, whatever the options."""
    on_device: bool = False
    """Whether it runs where the options' device says, and not on the CPU."""
    shard_seconds: float = 300.0
    """Audio that it is given at once, and that a kill costs. The default is some 20 s of PocketSphinx's work."""


ALIGNERS: dict[str, Backend] = {
    "mfa": Backend(
        _make_mfa,
        takes=("mfa_command", "dictionary", "acoustic_model", "g2p_model", "mfa_model"),
        # MFA takes 10 to 30 s to start, and adapts to speakers the better the more it hears of them; 230 MB decoded.
        shard_seconds=3600.0,
    ),
    "pocketsphinx": Backend(_make_pocketsphinx, takes=("lexicon",), english_only=True),
    "textgrid": Backend(
        _make_textgrid,
        takes=("textgrids",),
        needs={"textgrids": "the folder that holds <utterance_id>.TextGrid files"},
    ),
    "iemocap": Backend(
        _make_iemocap, takes=("release",), needs={"release": "the folder of the IEMOCAP release, as downloaded"}
    ),
    "ctc": Backend(
        _make_ctc,
        takes=("ctc_model",),
        needs={"ctc_model": "a transformers model for CTC that spells the corpus's language"},
        on_device=True,
    ),
}
"""Every aligner, by name."""


def make_aligner(options: AlignerOptions) -> Aligner:
    """The aligner that was asked for.

    Raises:
        AlignmentError: a file or program that it needs is missing or unusable.
    """
    assert options.aligner != NONE
    return ALIGNERS[options.aligner].make(options)
