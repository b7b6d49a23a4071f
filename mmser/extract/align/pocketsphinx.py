"""The embedded aligner: English words, syllables and phones with nothing but a wheel from PyPI."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from pocketsphinx import get_model_path

from mmser.errors import AlignmentError
from mmser.extract.align import Closing, Failed, Spoken
from mmser.extract.align.lexicon import Lexicon, read_lexicon
from mmser.extract.align.sphinx_utterance import SphinxSettings, UtteranceAligner
from mmser.extract.align.workers import Workers
from mmser.records import Alignment

_worker: UtteranceAligner | None = None
"""The decoder of this worker process; never set in the process that starts the workers."""


def _start_worker(settings: SphinxSettings, lexicon: Lexicon) -> None:
    global _worker
    _worker = UtteranceAligner(settings, lexicon)


def _work(spoken: Spoken) -> Alignment | Failed:
    assert _worker is not None, "the worker was not started by _start_worker"
    return _worker.align(spoken)


def _lost(spoken: Spoken) -> Failed:
    return Failed(
        spoken.utterance_id,
        f"utterance {spoken.utterance_id!r}: the process that aligned it died, twice, the second time with no other "
        "work beside it; look at the recording, or at the machine's memory",
    )


def _digest(folder: Path) -> str:
    """SHA-256 over names and bytes of a folder's files."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


class PocketSphinxAligner(Closing):
    """English forced alignment with PocketSphinx's embedded model, in several processes."""

    name = "pocketsphinx"

    def __init__(
        self,
        *,
        lexicon: Path | None = None,
        jobs: int | None = None,
        settings: SphinxSettings | None = None,
    ) -> None:
        """Read the lexicon; processes start with the first utterance.

        Args:
            lexicon: pronunciations in CMU format, preferred to the model's own dictionary.
            jobs: worker processes; None is one per CPU, 1 works in this process (where a crash of PocketSphinx,
                which never happened with the checks made here, would end it).
            settings: everything else that decides the result; None is the defaults.

        Raises:
            AlignmentError: the lexicon is unusable, or ``jobs`` is below 1.
        """
        if jobs is not None and jobs < 1:
            raise AlignmentError(f"aligning in {jobs} processes is impossible; give 1 or more")
        self._settings = settings or SphinxSettings()
        self._lexicon = read_lexicon(lexicon) if lexicon is not None else Lexicon()
        self._jobs = jobs or os.cpu_count() or 1
        self._here = UtteranceAligner(self._settings, self._lexicon)
        self._workers: Workers[Spoken, Alignment | Failed] = Workers(
            self._jobs, _work, _lost, prepare=_start_worker, arguments=(self._settings, self._lexicon)
        )

    @property
    def recipe(self) -> dict[str, object]:
        """Versions, digests of model, dictionary and lexicon, and the settings; not the number of processes."""
        model = Path(get_model_path("en-us"))
        return {
            "aligner": self.name,
            "rules": 2,  # raise when words, letters or syllables come out differently
            "pocketsphinx": version("pocketsphinx"),
            "num2words": version("num2words"),
            "acoustic_model": _digest(model / "en-us"),
            "dictionary": hashlib.sha256((model / "cmudict-en-us.dict").read_bytes()).hexdigest(),
            "lexicon": self._lexicon.digest,
            **asdict(self._settings),
        }

    def align(self, spoken: Iterable[Spoken]) -> Iterator[Alignment | Failed]:
        """One result for each utterance, in their order, the same whatever the number of processes."""
        if self._jobs == 1:
            return map(self._here.align, spoken)
        return self._workers.map(spoken)

    def close(self) -> None:
        """Stop the worker processes."""
        self._workers.close()
