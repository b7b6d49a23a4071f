"""The TextGrid file format, as far as :mod:`praatio` leaves it open: encodings, truncation, malformed files."""

import re
from dataclasses import dataclass
from pathlib import Path

from praatio.utilities.textgrid_io import parseTextgridStr

from mmser.errors import AlignmentError


@dataclass(frozen=True)
class Interval:
    """A labelled stretch of a tier, as written: it may be empty or lie anywhere."""

    start_s: float
    end_s: float
    label: str


@dataclass(frozen=True)
class Tier:
    """An interval tier."""

    name: str
    end_s: float
    intervals: tuple[Interval, ...]


def _decode(content: bytes) -> str:
    """The text of a TextGrid: UTF-16 or UTF-8 as Praat writes them, else Latin-1, which old ones are in."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def read_tiers(path: Path) -> list[Tier]:
    """The interval tiers of a file; point tiers are left out.

    Args:
        path: long, short or JSON TextGrid in UTF-8, UTF-16 or Latin-1.

    Raises:
        AlignmentError: the file cannot be read, is no TextGrid, or lacks tiers that it announces.
    """
    try:
        text = _decode(path.read_bytes())
        declared = re.search(r"<exists>\s*(?:size\s*=\s*)?(\d+)", text)
        parsed = parseTextgridStr(text, includeEmptyIntervals=True)["tiers"]
        tiers = [
            Tier(
                str(tier["name"]).strip().strip('"'),
                float(tier["xmax"]),
                tuple(Interval(float(start), float(end), str(label).strip()) for start, end, label in tier["entries"]),
            )
            for tier in parsed
            if tier["class"] == "IntervalTier"
        ]
    except OSError as error:
        raise AlignmentError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:
        # praatio meets malformed files with exceptions of many kinds
        raise AlignmentError(
            f"{path} is no TextGrid that can be read ({type(error).__name__}: {error}); "
            "open it in Praat and save it as a text file"
        ) from error
    if declared is not None and int(declared[1]) != len(parsed):
        raise AlignmentError(
            f"{path} is cut short: it announces {declared[1]} tiers and holds {len(parsed)}; copy or export it again"
        )
    return tiers
