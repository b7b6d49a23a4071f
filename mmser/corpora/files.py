"""Files as corpora come: hidden twins, byte order marks, carriage returns, old encodings, copies of copies."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from mmser.errors import ManifestError

_NAMED = 3
"""How many offenders a message names."""

_LFS_STUB = b"version https://git-lfs"


def files_below(folder: Path, suffix: str) -> list[Path]:
    """Files with a suffix (in any case) anywhere below a folder, sorted; hidden ones and ``__MACOSX`` are skipped.

    ``._name`` is what macOS writes beside ``name`` on foreign disks, and what its archives bring along.
    """
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() == suffix
        and not path.name.startswith(".")
        and "__MACOSX" not in path.parts
        and path.is_file()
    )


def files_in(folder: Path, suffix: str) -> dict[str, Path]:
    """Files with a suffix directly in a folder, by stem; none where there is no such folder."""
    if not folder.is_dir():
        return {}
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() == suffix and not p.name.startswith("."))
    return {path.stem: path for path in paths}


def by_stem(paths: Iterable[Path], warnings: list[str], title: str) -> dict[str, Path]:
    """Files by stem. Of several with one stem, which copies of a corpus have, the one nearest the top is taken."""
    taken: dict[str, Path] = {}
    again = []
    for path in sorted(paths, key=lambda path: (len(path.parts), path)):
        if path.stem in taken:
            again.append(path.stem)
        else:
            taken[path.stem] = path
    if again:
        warnings.append(f"{title}: {len(again)} recordings lie there twice, one of each is taken: {listed(again)}")
    return dict(sorted(taken.items()))


def named_recordings(
    folder: Path, pattern: re.Pattern[str], title: str, example: str, warnings: list[str], excluded: dict[str, str]
) -> list[tuple[Path, re.Match[str]]]:
    """Recordings (``.wav``) below a folder whose stem is a corpus's name of one; the others are excluded.

    Raises:
        ManifestError: not one is, or all are git-lfs pointers.
    """
    paths = by_stem(files_below(folder, ".wav"), warnings, title)
    named = []
    for stem, path in paths.items():
        if match := pattern.fullmatch(stem):
            named.append((path, match))
        else:
            excluded[path.name] = f"not named like {example!r}"
    if not named:
        found = listed(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise ManifestError(
            f"{title}: folder {str(folder)!r} holds no recording named like {example!r}; found {found}: "
            "give the corpus's own folder"
        )
    whole = [(path, match) for path, match in named if not is_lfs_stub(path)]
    if not whole:
        raise ManifestError(
            f"{title}: the recordings in {str(folder)!r} are git-lfs pointers, not sound: run 'git lfs pull' in a "
            "clone of the corpus's repository (its zip download holds pointers alone)"
        )
    for path, _ in set(named) - set(whole):
        excluded[path.stem] = "a git-lfs pointer, not a recording: run 'git lfs pull'"
    return whole


def is_lfs_stub(path: Path) -> bool:
    """Whether a file stands for one that git-lfs has not fetched."""
    if path.stat().st_size > 1024:  # a pointer has three lines
        return False
    return path.read_bytes().startswith(_LFS_STUB)


def text_of(path: Path, encodings: Sequence[str] = ("utf-8-sig", "latin-1")) -> str:
    """A text file in the first encoding that fits, its lines ended by line feeds alone.

    Raises:
        ManifestError: it cannot be read, or no encoding fits.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror}") from None
    for encoding in encodings:
        try:
            return data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeError:
            continue
    raise ManifestError(f"{path}: is in none of the encodings {', '.join(encodings)}; copy or download it again")


class _Unquoted(csv.excel_tab):
    """TSV files of corpora are not quoted: a quotation mark there is a quotation mark."""

    quoting = csv.QUOTE_NONE


def rows_of(path: Path, columns: Sequence[str], *, tabs: bool = False) -> list[dict[str, str]]:
    """The rows of a CSV file, or with ``tabs`` of a TSV file, cells stripped, short rows filled with "".

    Raises:
        ManifestError: it cannot be read, or lacks one of ``columns``.
    """
    dialect = _Unquoted if tabs else csv.excel
    reader = csv.DictReader(io.StringIO(text_of(path)), dialect=dialect, restval="")
    try:
        names = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = names
        missing = [column for column in columns if column not in names]
        if missing:
            raise ManifestError(
                f"{path}: has no column {missing[0]!r}; it has {', '.join(names) or 'none'}: expected the corpus's own "
                "file, unchanged"
            )
        return [{name: (cell or "").strip() for name, cell in row.items() if name is not None} for row in reader]
    except csv.Error as error:
        raise ManifestError(f"{path}: not readable ({error}); copy or download it again") from error


def relative(path: Path, folder: Path) -> str:
    """A path as a manifest has it: relative to the corpus's folder where it lies in it, else absolute."""
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path.absolute())


def present(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of some names that lies in a folder."""
    return next((folder / name for name in names if (folder / name).exists()), None)


def number(text: str) -> str:
    """A rating as a manifest has it: "" for what corpora write where there is none.

    >>> number("NaN"), number("3.5")
    ('', '3.5')
    """
    return "" if text.strip().lower() in ("", "nan", "none", "null") else text.strip()


def listed(names: Sequence[str]) -> str:
    """The first few names, quoted.

    >>> listed(["a", "b", "c", "d"])
    "'a', 'b', 'c', ..."
    """
    return ", ".join(repr(name) for name in names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
