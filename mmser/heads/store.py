"""A head on disk: ``model.safetensors`` (nothing to unpickle) and ``config.json``."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from mmser.errors import MmserError
from mmser.files import replacing
from mmser.heads import HEADS
from mmser.heads.batch import Inputs

FORMAT = 1
"""Version of ``config.json``; raised when old readers would misread a new file."""

_OWN = ("format", "kind", "inputs", "num_outputs", "options")


def save_head(head: nn.Module, folder: Path, config: Mapping[str, Any]) -> None:
    """Write a head of :data:`~mmser.heads.HEADS` to ``folder``, which is made if need be.

    Each file appears whole or not at all, ``config.json`` last: a folder that has one is complete.

    Args:
        head: the head; its weights and buffers are stored as they are.
        folder: where to.
        config: what else a user of the head must know (labels, encoder, layer, ...), as JSON types. It may not use
            the names that are the head's own: format, kind, inputs, num_outputs, options.

    Raises:
        MmserError: a name that is the head's own, a value that JSON cannot hold, or a class that is not in ``HEADS``.
            Nothing is written then.
    """
    clash = [name for name in _OWN if name in config]
    if clash:
        raise MmserError(f"config may not set {', '.join(clash)}: the head itself says it; choose another name")
    kind = next((name for name, kind in HEADS.items() if kind.module is type(head)), None)
    if kind is None:
        raise MmserError(
            f"{type(head).__name__} cannot be saved, for nothing could load it: it is no head of mmser.heads.HEADS; "
            "give it an entry there"
        )
    about = {
        "format": FORMAT,
        "kind": kind,
        "inputs": asdict(head.inputs),  # type: ignore[call-overload]
        "num_outputs": head.num_outputs,
        "options": asdict(head.options),  # type: ignore[call-overload]
    }
    text = _as_json({**about, **config})  # before a weight is replaced
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().cpu().contiguous() for name, value in head.state_dict().items()}
    write_bytes(folder / "model.safetensors", save(weights))
    write_bytes(folder / "config.json", text.encode())


def _as_json(config: Mapping[str, Any]) -> str:
    for name, value in config.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise MmserError(
                f"config: {name} cannot be kept as JSON ({error}); expected text, finite numbers, True, False, None, "
                "or lists and dicts of those"
            ) from None
    return json.dumps(config, indent=2) + "\n"


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, for whom the umask says.

    The writer of safetensors itself makes files that their owner alone may read, and its errors are no OSErrors.

    Raises:
        OSError: the disk is full, or the folder may not be written to.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def check_readable(path: Path) -> None:
    """Raise OSError, with the reason, where a file cannot be read: to safetensors every reason is a missing file."""
    with path.open("rb"):
        pass


def load_head(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Read what :func:`save_head` wrote.

    The head is built without memory and takes its tensors from the file, so that a config cannot ask for more memory
    than the file fills.

    Returns:
        The head on the CPU, in evaluation mode, and the whole config.

    Raises:
        MmserError: a file is missing or damaged, of another format, names an unknown kind of head or an unknown
            option, or its tensors are not those of such a head.
    """
    path = folder / "config.json"
    config = _read_config(path)
    name = config.get("kind")
    if not isinstance(name, str) or name not in HEADS:
        raise MmserError(f"{path}: unknown kind of head {name!r}; known: {', '.join(HEADS)}")
    kind = HEADS[name]
    inputs = _make(Inputs, config.get("inputs"), f"{path}: inputs")
    options = _make(kind.options, config.get("options"), f"{path}: options of {name}")
    outputs = config.get("num_outputs")
    if type(outputs) is not int:
        raise MmserError(f"{path}: num_outputs is {outputs!r}; expected a whole number")
    with torch.device("meta"):
        head = kind.build(inputs, outputs, options)
    _fill(head, folder / "model.safetensors")
    return head.eval(), config


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MmserError(f"{path}: no such file; expected the folder of a trained head") from None
    except (ValueError, OSError) as error:
        raise MmserError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else config
        raise MmserError(f"{path}: format {found!r}; this version of mmser reads format {FORMAT}")
    return config


def _make(cls: type[Any], values: object, where: str) -> Any:
    """An instance of dataclass ``cls`` from JSON, every name known and every value of its field's type."""
    if not isinstance(values, dict):
        raise MmserError(f"{where}: found {values!r}, expected a JSON object")
    known = {field.name: field for field in fields(cls)}
    unknown = [name for name in values if name not in known]
    if unknown:
        raise MmserError(f"{where}: unknown {', '.join(unknown)}; known: {', '.join(known)}")
    needed = [name for name, field in known.items() if field.default is MISSING and name not in values]
    if needed:
        raise MmserError(f"{where}: {', '.join(needed)} missing")
    for name, value in values.items():
        if not _fits(value, known[name].type):
            raise MmserError(f"{where}: {name} is {value!r}; expected {known[name].type}")
    return cls(**values)


def _fits(value: object, kind: Any) -> bool:
    if kind is float:
        return type(value) in (int, float)
    if kind in (int, bool, str):
        return type(value) is kind
    assert kind == tuple[str, ...], f"no check for fields of type {kind}"
    return isinstance(value, list) and all(type(item) is str for item in value)


def _fill(head: nn.Module, path: Path) -> None:
    """Give a head without memory the tensors in ``path``."""
    try:
        check_readable(path)
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise MmserError(f"{path}: not readable as safetensors: {error}") from None
    expected = {name: _describe(value) for name, value in head.state_dict().items()}
    found = {name: _describe(value) for name, value in weights.items()}
    if found != expected:
        name = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))[0]
        raise MmserError(
            f"{path}: tensor {name} is {found.get(name, 'missing')}, expected {expected.get(name, 'none')}; "
            "the file does not belong to the config beside it, or an older mmser wrote both: train the head anew"
        )
    head.load_state_dict(weights, assign=True)


def _describe(value: torch.Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
