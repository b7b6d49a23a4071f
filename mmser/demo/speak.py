"""Text becomes speech, by espeak-ng from the package ``espeakng-loader``."""

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mmser.errors import MmserError

_PROGRAM = Path(__file__).with_name("espeak.py")
_PACKAGE = "espeakng-loader"


@dataclass(frozen=True)
class Prosody:
    """How a sentence is said, on espeak-ng's own scales; the defaults are its own."""

    pitch: int = 50
    """Base pitch, 0 to 99."""
    range: int = 50
    """How far the pitch moves, 0 (monotone) to 100."""
    rate: int = 175
    """Words a minute, 80 to 450."""
    volume: int = 100
    """Loudness, 0 to 200; loud voices clip above 100."""


@dataclass(frozen=True)
class Line:
    """One sentence to be said."""

    text: str
    voice: str
    """espeak-ng's name of a voice, with a variant after ``+``: ``en-us+f2``."""
    prosody: Prosody = Prosody()


def synthesizer() -> str:
    """Name and version of what speaks, for the recipe of a corpus.

    Raises:
        MmserError: the package is not installed.
    """
    try:
        return f"{_PACKAGE} {importlib.metadata.version(_PACKAGE)}"
    except importlib.metadata.PackageNotFoundError:
        raise MmserError(
            f"speaking the demo's corpus needs espeak-ng, from the package {_PACKAGE}, which is not installed: "
            'pip install "mmser[demo]"'
        ) from None


def speak(lines: Mapping[Path, Line]) -> None:
    """Write each line as a WAV file: 16 bit, mono, 22,050 Hz.

    The same lines in the same order give the same files: all are said by one fresh process.

    Raises:
        MmserError: the package is not installed, or espeak-ng refuses a voice or cannot start.
    """
    synthesizer()
    import espeakng_loader

    order = {
        "library": str(espeakng_loader.get_library_path()),
        "data": str(espeakng_loader.get_data_path()),
        "lines": [
            {
                "path": str(path.absolute()),
                "text": line.text,
                "voice": line.voice,
                "parameters": vars(line.prosody),
            }
            for path, line in lines.items()
        ],
    }
    # isolated: the program imports nothing from the working directory or the environment
    done = subprocess.run(  # noqa: S603  # our own program, no shell
        [sys.executable, "-I", str(_PROGRAM)], input=json.dumps(order), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise MmserError(
            f"espeak-ng could not speak ({reason}); reinstall it: pip install --force-reinstall {_PACKAGE}"
        )
