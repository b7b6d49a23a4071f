"""What to extract from new recordings so that a head sees states made as those that it was trained on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmser.errors import MmserError, ProtocolError
from mmser.extract.align import ALIGNERS, NONE
from mmser.extract.options import DTYPES, Extraction
from mmser.extract.work import DTYPES as STORED
from mmser.records import TIERS
from mmser.train.about import About

_OF_MACHINE = ("batch_seconds", "device", "jobs")
_OF_ALIGNERS = tuple(name for backend in ALIGNERS.values() for name in backend.takes)

GIVEN = ("speech_model", "text_model", *_OF_MACHINE, *_OF_ALIGNERS)
"""Fields of :class:`~mmser.extract.options.Extraction` that recipes do not hold: where files lie, and the machine."""


def extractions(heads: Sequence[About], given: Mapping[str, Any]) -> list[Extraction]:
    """One extraction for each stream that some of the heads read, as it was made when they were trained.

    Args:
        heads: the heads.
        given: what recipes do not hold (:data:`GIVEN`), where the defaults will not do.

    Raises:
        MmserError: an option that is not one of these, or one that the aligner needs is missing.
        ProtocolError: the recipes are not known, or their states were imported; an encoder came from a local folder
            and none is given.
    """
    unknown = sorted(set(given) - set(GIVEN))
    if unknown:
        raise MmserError(f"{unknown[0]} is decided by the head's recipes; what can be given is {', '.join(GIVEN)}")
    wanted: dict[str, set[str]] = {}
    owner: dict[str, About] = {}
    for head in heads:
        for name, granularities in _read_by(head).items():
            wanted.setdefault(name, set()).update(granularities)
            owner.setdefault(name, head)
    return [_extraction(owner[name], name, granularities, given) for name, granularities in wanted.items()]


def _read_by(head: About) -> dict[str, set[str]]:
    """The streams that a head reads, with the granularities of speech that it takes from each."""
    if not head.streams:
        raise ProtocolError(
            f"{head.path} does not say what its states were made by: an older mmser trained it. Train it again, into "
            "another folder"
        )
    return {_named(head, kind): granularities for kind, granularities in head.read_kinds.items()}


def _named(head: About, kind: str) -> str:
    name = head.stream(kind)
    if name is None:
        raise MmserError(f"{head.path / 'config.json'}: streams names none of kind {kind!r}, which the head reads")
    return name


def _extraction(head: About, name: str, granularities: set[str], given: Mapping[str, Any]) -> Extraction:
    kind, _, rest = name.partition("/")
    recipe = head.streams[name]["recipe"]
    machine = {key: given[key] for key in _OF_MACHINE if key in given}
    nothing: dict[str, Any] = {"speech_model": NONE, "text_model": NONE, **machine}
    if kind == "align":
        return Extraction(**{**nothing, **_aligner(rest, recipe, given)})
    if kind == "opensmile":
        return Extraction(**{**nothing, "opensmile": rest})
    if kind == "mel":
        return Extraction(**{**nothing, "mel": True, "dtype": _stored(head, recipe.get("dtype"))})
    common = {"dtype": _stored(head, recipe.get("dtype")), "compute": recipe.get("compute", "float32")}
    layers = recipe.get("layers")
    if "encoder" not in recipe or not isinstance(layers, list):
        raise ProtocolError(
            f"{head.path} was trained on {name}, which was imported: mmser cannot make such states of new recordings"
        )
    stored = ",".join(map(str, layers))
    if kind == "text":
        model = _model(head, recipe, given.get("text_model"), "--text-model")
        return Extraction(**{**nothing, **common, "text_model": model, "text_layers": stored})
    model = _model(head, recipe, given.get("speech_model"), "--speech-model")
    speech = {**nothing, **common, "speech_model": model, "layers": stored, "pooling": recipe.get("pooling", "mean")}
    if not granularities & set(TIERS):  # what an alignment is not needed for needs no text either
        return Extraction(**{**speech, "keep": tuple(granularities)})
    keep = tuple(recipe.get("granularities", granularities))
    return Extraction(**{**speech, "keep": keep, **_aligner(rest.rpartition("@")[2], recipe.get("aligner"), given)})


def _stored(head: About, dtype: Any) -> str:
    """The type that states were stored in; a recipe of features has numpy's name of it, by granularity."""
    names = {numpy_name: name for name, numpy_name in STORED.items()}
    found = names.get(next(iter(dtype.values()), "")) if isinstance(dtype, dict) else dtype
    if found not in DTYPES:
        raise MmserError(f"{head.path / 'config.json'}: dtype {dtype!r} of a stream; expected {' or '.join(DTYPES)}")
    return str(found)


def _model(head: About, recipe: Mapping[str, Any], given: str | None, option: str) -> str:
    """The encoder as it can be loaded: what is given, else the one that the recipe names, at its revision."""
    if given is not None:
        return given
    name, revision = str(recipe["encoder"]), recipe.get("revision")
    if name.startswith("builtin:"):
        return name
    if revision is None:
        raise ProtocolError(
            f"{head.path} was trained on states of an encoder in a local folder called {Path(name).name!r}; where it "
            f"lies is not kept: give {option} FOLDER"
        )
    return f"{name}@{revision}"


def _aligner(name: str, recipe: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The aligner that the segments were made by, and where what it needs lies."""
    options = {key: value for key, value in given.items() if key in _OF_ALIGNERS}
    if name == "ctc" and isinstance(recipe, dict) and recipe.get("revision"):
        options = {"ctc_model": f"{recipe.get('model')}@{recipe['revision']}", **options}
    return {"aligner": name, **options}
