"""The grids that come with mmser: files of the package, to be used as they are or printed and edited."""

from importlib.resources import files

from mmser.checks import did_you_mean
from mmser.errors import ProtocolError


def preset_names() -> list[str]:
    """Their names, sorted."""
    found = (path.name for path in (files("mmser.ablate") / "grids").iterdir())
    return sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml"))


def preset_text(name: str) -> str:
    """A preset as TOML.

    Raises:
        ProtocolError: there is none of that name.
    """
    names = preset_names()
    if name not in names:
        raise ProtocolError(f"no preset {name!r}{did_you_mean(name, names)}; there are {', '.join(names)}")
    return (files("mmser.ablate") / "grids" / f"{name}.toml").read_text(encoding="utf-8")


def preset_purpose(name: str) -> str:
    """The first line of a preset: what it is for."""
    return preset_text(name).splitlines()[0].removeprefix("#").strip()
