"""Arrays out of a pickle, without unpickling it.

A pickle is a program, and :mod:`pickle` runs it: it imports what the file names and calls it. Here nothing of the file
is ever imported, looked up or called. A loop of its own reads the few opcodes that plain data need (protocols 2 to 5)
and builds dicts with text as keys, lists, tuples, text, bytes, numbers, None and booleans. A name is compared with
those that numpy writes for an array, and answered by code that is in this file: the array is made from its stated
type, shape and bytes with :func:`numpy.frombuffer`, and only where the bytes are as many as the shape needs. Any other
name, opcode, persistent id, extension or buffer from outside ends the reading with an error that says what it was.

The file is mapped, so arrays lie where the file lies; nothing is reserved that the file does not hold. Depth costs no
recursion, memo numbers are keys of a dict, and the number of opcodes is limited.
"""

import math
import mmap
import re
import struct
from collections.abc import Callable
from pathlib import Path
from pickletools import opcodes
from typing import Any, Final

import numpy as np

from mmser.errors import CacheError

MAX_OPCODES: Final = 20_000_000
"""Opcodes of a file at most: it bounds the objects that are made. An array alone in a dict takes 55 to 68."""

_NAMES = {
    f"{core}.{name}": kind
    for core in ("numpy.core", "numpy._core")
    for name, kind in (
        ("multiarray._reconstruct", "reconstruct"),
        ("multiarray.scalar", "scalar"),
        ("numeric._frombuffer", "frombuffer"),
    )
} | {"numpy.ndarray": "ndarray", "numpy.dtype": "dtype"}
"""The names that are admitted, each for what it means; numpy 2 moved ``core`` to ``_core``."""

_PLAIN_TYPE = re.compile(r"[biufSUO]\d{1,9}")
_CALLED = {op.code.encode("latin-1"): op.name for op in opcodes}


class _RefusedError(Exception):
    """What is wrong with the file; ``read_pickle`` adds which."""


class _Name:
    """An admitted name of numpy's: a token, not the thing."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


class _Unbuilt:
    """An array or a type whose contents come later, by the opcode BUILD."""

    def __init__(self, dtype: np.dtype | None) -> None:
        self.dtype = dtype
        """The type so far; None for an array."""
        self.memo: int | None = None


def read_pickle(path: Path) -> Any:
    """What a pickle holds, if that is numpy arrays in plain containers.

    Args:
        path: the file; untrusted.

    Returns:
        The object. Arrays are read-only and paged in from the file when read; arrays of objects hold plain values.

    Raises:
        CacheError: not a pickle of protocol 2 to 5, cut short, or holding anything else; nothing of it was run.
    """
    try:
        with path.open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return _Reader(data).run()
    except _RefusedError as error:
        raise CacheError(
            f"{path}: {error}; only arrays of numbers and text in plain containers are read from a pickle, and nothing "
            "in it is run. If you trust it, take the arrays out yourself and save them with numpy.save"
        ) from None
    except (OSError, ValueError, TypeError, IndexError, KeyError, struct.error, OverflowError) as error:
        raise CacheError(f"{path}: not a pickle that can be read ({type(error).__name__}: {error})") from error


class _Reader:
    def __init__(self, data: memoryview) -> None:
        self.data, self.at = data, 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        if bytes(self.data[:1]) != b"\x80":
            raise _RefusedError("not a pickle of protocol 2 to 5")
        for _ in range(MAX_OPCODES):
            code = bytes(self.take(1))
            if code == b".":
                (value,) = self.stack
                return value
            step = _STEPS.get(code)
            if step is None:
                raise _RefusedError(f"holds the opcode {_CALLED.get(code, code.hex())}, which plain arrays do not need")
            step(self)
        raise _RefusedError(f"has more than {MAX_OPCODES} opcodes")

    def take(self, count: int) -> memoryview:
        """The next bytes of the file, where they lie."""
        if count > len(self.data) - self.at:
            raise _RefusedError("is cut short")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def counted(self, form: str) -> memoryview:
        return self.take(self.number(form))

    def text(self, form: str) -> str:
        return str(self.counted(form), "utf-8")

    def marked(self) -> list[Any]:
        """What lies above the last mark."""
        mark = self.marks.pop()
        values = self.stack[mark:]
        del self.stack[mark:]
        return values

    def last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise _RefusedError("takes from an empty stack")
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return values

    def put(self, key: int) -> None:
        self.memo[key] = top = self.stack[-1]
        if isinstance(top, _Unbuilt):
            top.memo = key

    def name(self, module: Any, name: Any) -> None:
        kind = _NAMES.get(f"{module}.{name}") if isinstance(module, str) and isinstance(name, str) else None
        if kind is None:
            raise _RefusedError(f"asks for {str(module)[:80]}.{str(name)[:80]}")
        self.stack.append(_Name(kind))

    def line(self) -> str:
        """Text up to a line feed; names are short."""
        line, found, _ = bytes(self.data[self.at : self.at + 256]).partition(b"\n")
        if not found:
            raise _RefusedError("names something of more than 256 characters")
        self.at += len(line) + 1
        return line.decode("utf-8")

    def extend(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise _RefusedError("appends to what is no list")
        self.stack[-1].extend(values)

    def update(self, items: list[Any]) -> None:
        keys, values = items[::2], items[1::2]
        # only text: hashing tuples of tuples of tuples recurses
        if type(self.stack[-1]) is not dict or len(keys) != len(values) or not all(type(key) is str for key in keys):
            raise _RefusedError("holds a dict whose keys are not all text")
        self.stack[-1].update(zip(keys, values, strict=True))

    def reduce(self) -> None:
        called, arguments = self.last(2)
        if not isinstance(called, _Name) or type(arguments) is not tuple:
            raise _RefusedError("calls what is no name of numpy's")
        made: Any
        if called.kind == "reconstruct" and arguments and getattr(arguments[0], "kind", "") == "ndarray":
            made = _Unbuilt(None)
        elif called.kind == "dtype":
            made = _Unbuilt(_named_type(arguments[0]))
        elif called.kind == "scalar":
            made = _array((), arguments[0], False, arguments[1])[()]
        elif called.kind == "frombuffer" and arguments[3] in ("C", "F") and not any(arguments[4:]):
            made = _array(arguments[2], arguments[1], arguments[3] == "F", arguments[0])
        else:
            raise _RefusedError(f"makes an array by {called.kind} in a way that numpy does not")
        self.stack.append(made)

    def build(self) -> None:
        unbuilt, state = self.last(2)
        if not isinstance(unbuilt, _Unbuilt) or type(state) is not tuple:
            raise _RefusedError("sets the state of what is no array")
        if unbuilt.dtype is None:
            _, shape, dtype, fortran, content = state
            made: Any = _array(shape, dtype, fortran is True, content)
        else:
            if any(part is not None for part in state[2:5]) or state[1] not in ("<", ">", "|", "="):
                raise _RefusedError("holds an array of records")
            made = unbuilt.dtype.newbyteorder(state[1])
        self.stack.append(made)
        if unbuilt.memo is not None:
            self.memo[unbuilt.memo] = made


def _named_type(name: Any) -> np.dtype:
    if type(name) is not str or not _PLAIN_TYPE.fullmatch(name):
        raise _RefusedError(f"holds an array of type {str(name)[:40]!r}")
    return np.dtype(name)


def _array(shape: Any, dtype: Any, fortran: bool, content: Any) -> np.ndarray:
    plain = type(shape) is tuple and all(type(n) is int and n >= 0 for n in shape) and len(shape) <= 8
    if not isinstance(dtype, np.dtype) or not plain or dtype.itemsize == 0:
        raise _RefusedError("holds an array without a plain shape and type")
    size = len(content) if isinstance(content, list | bytes | memoryview) else -1
    if size != math.prod(shape) * (1 if dtype.hasobject else dtype.itemsize) or dtype.hasobject != (
        type(content) is list
    ):
        raise _RefusedError(f"holds an array of shape {shape} and type {dtype} in {size} bytes")
    if dtype.hasobject:
        flat = np.empty(size, object)
        for i, value in enumerate(content):
            flat[i] = value
    else:
        flat = np.frombuffer(content, dtype)
        flat.flags.writeable = False
    return flat.reshape(shape, order="F" if fortran else "C")


def _push(value: Callable[[_Reader], Any]) -> Callable[[_Reader], None]:
    return lambda reader: reader.stack.append(value(reader))


def _constant(value: Any) -> Callable[[_Reader], None]:
    return lambda reader: reader.stack.append(value)


def _protocol(reader: _Reader) -> None:
    version = reader.number("<B")
    if not 2 <= version <= 5:
        raise _RefusedError(f"is a pickle of protocol {version}, expected 2 to 5")


def _frame(reader: _Reader) -> None:
    reader.take(8)  # how much to read ahead, which a mapped file does not need


_STEPS: dict[bytes, Callable[[_Reader], None]] = {
    b"\x80": _protocol,
    b"\x95": _frame,
    b"N": _constant(None),
    b"\x88": _constant(True),
    b"\x89": _constant(False),
    b"J": _push(lambda r: r.number("<i")),
    b"K": _push(lambda r: r.number("<B")),
    b"M": _push(lambda r: r.number("<H")),
    b"\x8a": _push(lambda r: int.from_bytes(r.counted("<B"), "little", signed=True)),
    b"G": _push(lambda r: r.number(">d")),
    b"X": _push(lambda r: r.text("<I")),
    b"\x8c": _push(lambda r: r.text("<B")),
    b"\x8d": _push(lambda r: r.text("<Q")),
    b"B": _push(lambda r: r.counted("<I")),
    b"C": _push(lambda r: r.counted("<B")),
    b"\x8e": _push(lambda r: r.counted("<Q")),
    b"\x96": _push(lambda r: r.counted("<Q")),
    b"]": lambda r: r.stack.append([]),
    b"}": lambda r: r.stack.append({}),
    b")": _constant(()),
    b"(": lambda r: r.marks.append(len(r.stack)),
    b"t": _push(lambda r: tuple(r.marked())),
    b"l": _push(lambda r: r.marked()),
    b"\x85": _push(lambda r: tuple(r.last(1))),
    b"\x86": _push(lambda r: tuple(r.last(2))),
    b"\x87": _push(lambda r: tuple(r.last(3))),
    b"a": lambda r: r.extend(r.last(1)),
    b"e": lambda r: r.extend(r.marked()),
    b"s": lambda r: r.update(r.last(2)),
    b"u": lambda r: r.update(r.marked()),
    b"q": lambda r: r.put(r.number("<B")),
    b"r": lambda r: r.put(r.number("<I")),
    b"\x94": lambda r: r.put(len(r.memo)),
    b"h": _push(lambda r: r.memo[r.number("<B")]),
    b"j": _push(lambda r: r.memo[r.number("<I")]),
    b"c": lambda r: r.name(r.line(), r.line()),
    b"\x93": lambda r: r.name(*r.last(2)),
    b"R": _Reader.reduce,
    b"b": _Reader.build,
}
"""What is admitted. EMPTY_SET, OBJ, INST, NEWOBJ, PERSID, EXT and out-of-band buffers are not here."""
