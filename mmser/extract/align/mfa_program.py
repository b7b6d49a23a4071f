"""The program ``mfa``: whether it can be used, how it is called, and what to do where it cannot.

Written from the source and documentation of MFA 3.4 (https://montreal-forced-aligner.readthedocs.io). MFA's parts in
Kaldi come with conda alone; installed from PyPI it has a program ``mfa`` that stops with "No module named '_kalpy'".
So MFA is there where ``mfa version`` succeeds, not where a file of that name is.
"""

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mmser.errors import AlignmentError

Version = tuple[int, int, int]

OLDEST: Version = (3, 2, 0)
"""The oldest release that is run. Those before 3.1.1 left intervals out of TextGrids, those before 3.0.7 cannot clean
up behind themselves; 3.2 is what ``environment.yml`` asks conda for at least."""

_LEGACY: Version = (3, 4, 3)
"""From here on the command with dictionary and acoustic model apart is also called ``align_legacy``."""
_ONE_MODEL: Version = (3, 4, 0)
"""From here on ``align_hf`` takes one model that holds dictionary, acoustic and G2P model."""
_RENAMED: Version = (4, 0, 0)
"""From here on that command is ``align``, and the older one ``align_legacy`` alone."""

_LOOK_S = 180.0
"""Seconds that ``mfa version`` may take: ``conda run`` on a slow disk needs tens of them."""

_BETWEEN_S = 1.0
"""Seconds between two signs of life, and at most until Ctrl-C is heard."""

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_FRAME = re.compile("[╭╮╰╯│─━]+")
"""What MFA draws round its errors."""


@dataclass(frozen=True)
class Models:
    """What MFA is to align with: names that it knows, or files."""

    dictionary: str
    acoustic: str
    g2p: str | None
    """None leaves words unknown that the dictionary lacks."""
    combined: str | None
    """Folder or Hugging Face id of a model that holds the three, which are then not used; None for none."""


@dataclass(frozen=True)
class Finished:
    """How a call of ``mfa`` ended."""

    code: int
    output: str
    """What it wrote on both channels, without colours and frames."""

    @property
    def last_words(self) -> str:
        """The end of its output on one line, for an error."""
        said = " ".join(self.output.split())
        return said if len(said) <= 400 else "…" + said[-399:]


def how_to_install(command: str) -> str:
    """The lines to type, for errors."""
    return (
        'MFA comes with conda: conda create -n aligner -c conda-forge "montreal-forced-aligner>=3.2", then in it '
        "mfa model download dictionary english_us_arpa, mfa model download acoustic english_us_arpa and "
        "mfa model download g2p english_us_arpa, and give mmser "
        '--mfa-command "conda run -n aligner mfa"' + ("" if command == "mfa" else f" (now: {command!r})")
    )


def split_command(command: str) -> list[str]:
    """The words of ``--mfa-command``, split as a shell does.

    >>> split_command("conda run -n 'my env' mfa")
    ['conda', 'run', '-n', 'my env', 'mfa']

    Raises:
        AlignmentError: empty, or a quotation mark is left open.
    """
    try:
        # On Windows a backslash is part of a path.
        words = shlex.split(command, posix=os.name == "posix")
    except ValueError as error:
        raise AlignmentError(f"--mfa-command {command!r} cannot be split into words: {error}") from error
    if not words:
        raise AlignmentError("--mfa-command is empty; expected e.g. mfa, or conda run -n aligner mfa")
    return words


def read_version(output: str) -> Version | None:
    """The version that ``mfa version`` prints; None where there is none in it.

    >>> read_version("3.4.3"), read_version("4.0.0rc1"), read_version("None")
    ((3, 4, 3), (4, 0, 0), None)
    """
    for line in reversed(output.splitlines()):
        match = re.match(r"\s*v?(\d+)\.(\d+)(?:\.(\d+))?", line)
        if match:
            return int(match[1]), int(match[2]), int(match[3] or 0)
    return None


def check_usable(command: str) -> Version:
    """The version of MFA, once it has said so itself.

    Raises:
        AlignmentError: it is not there, does not run, or is too old; says what to type.
    """
    words = split_command(command)
    try:
        finished = call([*words, "version"], _LOOK_S)
    except subprocess.TimeoutExpired as error:
        raise AlignmentError(f"{command!r} version did not answer within {_LOOK_S:.0f} s") from error
    if finished.code != 0:
        why = f"ends with exit code {finished.code}: {finished.last_words or 'it said nothing'}"
        if "_kalpy" in finished.output:
            why += ". It was installed with pip, which does not bring its part in Kaldi"
        raise AlignmentError(f"MFA cannot be used: {command!r} version {why}. {how_to_install(command)}")
    version = read_version(finished.output)
    if version is None:
        raise AlignmentError(
            f"MFA cannot be used: {command!r} version printed {finished.last_words!r}, expected e.g. 3.4.3; is it the "
            f"Montreal Forced Aligner? {how_to_install(command)}"
        )
    if version < OLDEST:
        raise AlignmentError(
            f"MFA {_dotted(version)} is too old, {_dotted(OLDEST)} is the oldest that mmser runs (earlier ones wrote "
            "TextGrids with intervals missing, and left their temporary files). Bring it up to date: "
            "conda update -c conda-forge montreal-forced-aligner"
        )
    return version


def align_command(
    version: Version,
    models: Models,
    *,
    corpus: Path,
    output: Path,
    temporary: Path,
    jobs: int,
    single_speaker: bool = False,
    beams: tuple[int, int] | None = None,
) -> list[str]:
    """The arguments of ``mfa`` that align a corpus: its form depends on version and models.

    Args:
        version: as :func:`check_usable` gives it.
        models: what to align with.
        corpus: folder of ``speaker/utterance.wav`` and ``.lab``.
        output: folder for the TextGrids; neither it nor ``corpus`` may lie in ``temporary``.
        temporary: where MFA may work. Not ``MFA_ROOT_DIR``, which is where MFA keeps its models.
        jobs: processes.
        single_speaker: nobody knows who speaks: no adaptation to speakers, and utterances are spread over processes.
        beams: beam and retry beam; None leaves MFA's own, 10 and 40.

    Raises:
        AlignmentError: this version has no command for such models.

    >>> names = Models("english_us_arpa", "english_us_arpa", None, None)
    >>> folders = {"corpus": Path("in"), "output": Path("out"), "temporary": Path("tmp"), "jobs": 2}
    >>> align_command((3, 4, 3), names, **folders)[:5]
    ['align_legacy', 'in', 'english_us_arpa', 'english_us_arpa', 'out']
    """
    if models.combined is not None:
        if version < _ONE_MODEL:
            raise AlignmentError(
                f"--mfa-model {models.combined} needs MFA {_dotted(_ONE_MODEL)} or newer, this is {_dotted(version)}; "
                "give --dictionary, --acoustic-model and --g2p-model"
            )
        named = ["align" if version >= _RENAMED else "align_hf", str(corpus), models.combined, str(output)]
        named += ["--use_g2p"]
    else:
        name = "align_legacy" if version >= _LEGACY else "align"
        named = [name, str(corpus), models.dictionary, models.acoustic, str(output)]
        named += ["--g2p_model_path", models.g2p] if models.g2p is not None else []
    named += ["--output_format", "long_textgrid", "-t", str(temporary), "-j", str(jobs)]
    named += ["--clean", "--final_clean", "--overwrite", "-q"]
    named += ["--single_speaker"] if single_speaker else []
    named += ["--beam", str(beams[0]), "--retry_beam", str(beams[1])] if beams else []
    return named


def call(command: Sequence[str], timeout_s: float, waiting: Callable[[], object] = lambda: None) -> Finished:
    """Run a program to its end, without a shell. Whatever stops this, stops the program and all that it started.

    Args:
        command: the program and its arguments.
        timeout_s: how long it may take.
        waiting: called about once a second meanwhile; may raise to stop it.

    Raises:
        AlignmentError: the program is not there or cannot be started.
        subprocess.TimeoutExpired: it took longer; it was killed.
    """
    try:
        process = subprocess.Popen(  # noqa: S603 - the user's own command, and no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # so that its children can be ended with it: conda run starts mfa as one
        )
    except OSError as error:
        raise AlignmentError(
            f"MFA cannot be used: {command[0]!r} cannot be started ({error.strerror}). {how_to_install(command[0])}"
        ) from error
    try:
        output = _outcome(process, time.monotonic() + timeout_s, waiting)
    except BaseException:  # also Ctrl-C: nothing goes on behind the user's back
        _end(process)
        raise
    return Finished(process.returncode, _FRAME.sub(" ", _ANSI.sub("", output)))


def _outcome(process: "subprocess.Popen[str]", deadline: float, waiting: Callable[[], object]) -> str:
    while True:
        try:
            return process.communicate(timeout=min(_BETWEEN_S, max(0.0, deadline - time.monotonic())))[0]
        except subprocess.TimeoutExpired:
            if time.monotonic() >= deadline:
                raise
        waiting()


def _end(process: "subprocess.Popen[str]") -> None:
    if os.name == "posix":
        with suppress(ProcessLookupError):  # all of them ended meanwhile
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.communicate()


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))
