"""Forced alignment by the Montreal Forced Aligner, a program of its own (:mod:`~mmser.extract.align.mfa_program`).

MFA aligns a folder: the recordings and transcripts that are given at once are written as one, MFA is run over it, and
its TextGrids are read. A file that MFA cannot align has no TextGrid and MFA still ends well, so what came out is
compared with what went in; what is missing is tried once more with wide beams.
"""

import csv
import hashlib
import math
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version as installed
from pathlib import Path

import soundfile

from mmser.errors import AlignmentError
from mmser.extract.align import Closing, Failed, Spoken
from mmser.extract.align.mfa_program import Finished, Models, align_command, call, check_usable, split_command
from mmser.extract.align.textgrid import TextGridSettings, read_textgrid
from mmser.extract.align.words import spoken_words
from mmser.records import Alignment, Kind
from mmser.units import SAMPLE_RATE


@dataclass(frozen=True)
class MfaSettings:
    """What decides an alignment besides MFA and its models."""

    beam: int = 100
    """Beam of the second try, whose results are flagged ``wide-beam``. MFA's own, of the first, is 10."""
    retry_beam: int = 400
    """MFA's retry beam of the second try; 40 in the first."""
    patience_s: float = 1800.0
    """MFA is taken for hung after this, and ``patience_per_second`` for every second of audio."""
    patience_per_second: float = 10.0


class MfaAligner(Closing):
    """Runs ``mfa`` over what it is given."""

    name = "mfa"

    def __init__(
        self, command: str, models: Models, *, jobs: int | None = None, settings: MfaSettings = MfaSettings()
    ) -> None:
        """Ask MFA for its version.

        Args:
            command: how MFA is called, e.g. ``conda run -n aligner mfa``.
            models: what it aligns with.
            jobs: its processes; None is one per CPU.
            settings: everything else.

        Raises:
            AlignmentError: MFA cannot be used, is too old, or has no command for such models.
        """
        self._command = split_command(command)
        self._models = models
        self._jobs = jobs or os.cpu_count() or 1
        self._settings = settings
        self._version = check_usable(command)
        self.waiting: Callable[[int], object] = lambda _done: None
        nowhere = Path()
        align_command(self._version, models, corpus=nowhere, output=nowhere, temporary=nowhere, jobs=1)

    @property
    def recipe(self) -> dict[str, object]:
        """MFA's version, its models with the digest of what of them lies here, and the settings; not the processes."""
        kinds = {"dictionary": self._models.dictionary, "acoustic": self._models.acoustic, "g2p": self._models.g2p}
        models = {kind: _identity(kind, name) for kind, name in kinds.items()}
        return {
            "aligner": self.name,
            "rules": 2,  # raise when corpora, tiers, matches or syllables come out differently
            "mfa": ".".join(map(str, self._version)),
            "models": {"combined": self._models.combined} if self._models.combined is not None else models,
            "num2words": installed("num2words"),
            "praatio": installed("praatio"),
            "beam": self._settings.beam,
            "retry_beam": self._settings.retry_beam,
        }

    def align(self, spoken: Iterable[Spoken]) -> Iterator[Alignment | Failed]:
        """One result for each utterance, in their order, once MFA has gone through all of them.

        Flags: those of :func:`~mmser.extract.align.textgrid.read_textgrid`, and ``wide-beam``. The score of every word
        is the utterance's mean log-likelihood of speech, where MFA gives it.

        Raises:
            AlignmentError: MFA stopped; says what it said.
        """
        everything = list(spoken)
        with tempfile.TemporaryDirectory(prefix="mmser-mfa-") as folder:
            found = self._align(everything, Path(folder))
        for one in everything:
            yield found[one.utterance_id]

    def _align(self, spoken: Sequence[Spoken], folder: Path) -> dict[str, Alignment | Failed]:
        found: dict[str, Alignment | Failed] = {}
        to_do: dict[str, Spoken] = {}
        for number, one in enumerate(spoken):
            if spoken_words(one.text):
                to_do[f"u{number:06d}"] = one
            else:
                found[one.utterance_id] = _failed(one, "its transcript holds no spoken word")
        last = Finished(0, "")
        for beams in (None, (self._settings.beam, self._settings.retry_beam)):
            if not to_do:
                break
            last, outputs = self._run(to_do, folder / ("first" if beams is None else "second"), beams)
            for name, (path, score) in outputs.items():
                one = to_do.pop(name)
                found[one.utterance_id] = _read(path, one, score, wide=beams is not None)
        for one in to_do.values():
            found[one.utterance_id] = _failed(
                one,
                "MFA gave no TextGrid for it, with wide beams neither; check that recording and transcript belong "
                "together" + (f" (MFA: {last.last_words})" if last.code else ""),
            )
        return found

    def _run(
        self, spoken: dict[str, Spoken], folder: Path, beams: tuple[int, int] | None
    ) -> tuple[Finished, dict[str, tuple[Path, float]]]:
        """MFA over some utterances, and by name the TextGrids that it wrote, each with its utterance's score."""
        corpus, output, temporary = (folder / part for part in ("corpus", "output", "temporary"))
        for made in (corpus, output, temporary):
            made.mkdir(parents=True)
        write_corpus(spoken, corpus, english=_is_english(self._models))
        arguments = align_command(
            self._version, self._models, corpus=corpus, output=output, temporary=temporary, jobs=self._jobs,
            single_speaker=not any(one.speaker for one in spoken.values()), beams=beams,
        )  # fmt: skip
        seconds = sum(len(one.samples) for one in spoken.values()) / SAMPLE_RATE
        patience = self._settings.patience_s + self._settings.patience_per_second * seconds
        try:
            finished = call([*self._command, *arguments], patience, lambda: self.waiting(len(_textgrids(output))))
        except subprocess.TimeoutExpired as error:
            raise AlignmentError(
                f"MFA was stopped: it did not align {len(spoken)} utterances ({seconds:.0f} s of audio) within "
                f"{patience:.0f} s; see whether it works on one recording: mfa align_one"
            ) from error
        # Where MFA can align none of the files, it says so and fails; that is no reason to lose the other shards.
        if finished.code != 0 and "no successful alignments" not in " ".join(finished.output.split()):
            raise AlignmentError(
                f"MFA stopped with exit code {finished.code}: {finished.last_words or 'it said nothing'}. If it lacks "
                "a model, fetch it: mfa model download dictionary|acoustic|g2p NAME"
            )
        scores = read_scores(output / "alignment_analysis.csv")
        paths = {path.stem: path for path in _textgrids(output)}
        return finished, {n: (paths[n], scores.get(n, math.nan)) for n in spoken if n in paths}


def write_corpus(spoken: dict[str, Spoken], folder: Path, *, english: bool) -> None:
    """Write a corpus as MFA reads it: ``speaker/utterance.wav`` (16 kHz, 16 bits) and ``.lab``, a folder a speaker.

    Speakers and utterances get numbers for names, so that no id is a hidden file, a duplicate on a system that does
    not tell case apart, or a path. Utterances of nobody known get a folder each, unless that is all of them.

    Args:
        spoken: utterances by the name of their files.
        folder: where to write.
        english: write the words as spoken ("21" as "twenty one": dictionaries have no digits); else the transcript as
            it is, since how numbers are read is known here for English only. MFA drops punctuation and case itself.
    """
    speakers = {name: number for number, name in enumerate(sorted({one.speaker for one in spoken.values()}))}
    for name, one in spoken.items():
        alone = not one.speaker and len(speakers) > 1
        home = folder / (f"s{name}" if alone else f"s{speakers[one.speaker]:05d}")
        home.mkdir(exist_ok=True)
        soundfile.write(home / f"{name}.wav", one.samples.clip(-1.0, 1.0), SAMPLE_RATE, subtype="PCM_16")
        words = (word.form for word in spoken_words(one.text)) if english else one.text.split()
        (home / f"{name}.lab").write_text(" ".join(words) + "\n", encoding="utf-8")


def read_scores(path: Path) -> dict[str, float]:
    """The mean log-likelihood of speech of each file, from MFA's ``alignment_analysis.csv``; those that it gives."""
    if not path.is_file():
        return {}
    scores: dict[str, float] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            name, score = row.get("file"), row.get("speech_log_likelihood")
            try:
                if name and score:
                    scores[name] = float(score)
            except ValueError:
                continue  # a report about the alignment, which is there without it
    return scores


def _textgrids(folder: Path) -> list[Path]:
    return list(folder.rglob("*.TextGrid"))


def _read(path: Path, spoken: Spoken, score: float, *, wide: bool) -> Alignment | Failed:
    duration_s = len(spoken.samples) / SAMPLE_RATE
    try:
        found = read_textgrid(
            path, spoken.utterance_id, duration_s=duration_s, text=spoken.text, settings=TextGridSettings()
        )
    except AlignmentError as error:
        return _failed(spoken, f"MFA's TextGrid cannot be used: {error}")
    words = tuple(w if w.kind is Kind.SILENCE else replace(w, score=score) for w in found.words)
    return replace(found, words=words, flags=(*found.flags, *(["wide-beam"] if wide else [])))


def _failed(spoken: Spoken, reason: str) -> Failed:
    return Failed(spoken.utterance_id, f"utterance {spoken.utterance_id!r}: {reason}")


def _is_english(models: Models) -> bool:
    name = models.dictionary if models.combined is None else models.combined.rsplit("/", 1)[-1]
    return Path(name).name.startswith("english")


def _identity(kind: str, name: str | None) -> dict[str, str | None] | None:
    """A model's name, and the SHA-256 of its file where that can be found; None for no model."""
    if name is None:
        return None
    root = Path(os.environ.get("MFA_ROOT_DIR", "~/Documents/MFA")).expanduser() / "pretrained_models" / kind
    files = [Path(name), *sorted(root.glob(f"{name}.*"))] if Path(name).name == name else [Path(name)]
    found = next((path for path in files if path.is_file()), None)
    return {"name": name, "sha256": hashlib.sha256(found.read_bytes()).hexdigest() if found else None}
