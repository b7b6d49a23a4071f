"""The reader of pickles: what numpy writes comes back; whatever would run something is refused by name."""

import builtins
import contextlib
import datetime
import functools
import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from mmser.cache import safe_pickle
from mmser.cache.safe_pickle import read_pickle
from mmser.errors import CacheError


def stored(tmp_path: Path, data: bytes) -> Path:
    (tmp_path / "x.pkl").write_bytes(data)
    return tmp_path / "x.pkl"


PLAIN = {
    "f4": np.arange(24, dtype="f4").reshape(2, 3, 4),
    "fortran": np.asfortranarray(np.arange(6, dtype="f8").reshape(2, 3)),
    "big-endian": np.arange(3, dtype=">f4"),
    "bool": np.array([True, False]),
    "int8": np.array([1, -2], "i1"),
    "empty": np.zeros((0, 5), "f2"),
    "text": np.array(["a", "größer"]),
    "bytes": np.array([b"ab", b"c"]),
    "objects": np.array(["a", "bc", None], dtype=object),
    "no axes": np.array(3.5),
    "scalar": np.float64(2.5),
    "list": [1, -1, 2**40, 70000, 1.5, None, True, "x" * 300, ("a", (), ("b", "c", "d", "e"))],
    "twice": [],
}
PLAIN["twice"] = [PLAIN["f4"], PLAIN["f4"]]


def same(a: object, b: object) -> bool:
    if isinstance(b, np.ndarray):
        assert isinstance(a, np.ndarray)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        return bool((a == b).all())
    if isinstance(b, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_numpy_writes_comes_back(tmp_path: Path, protocol: int) -> None:
    # Protocol 2 spells bytes as a call of _codecs.encode, so of arrays only those of objects fit
    plain = PLAIN if protocol > 2 else {"list": PLAIN["list"], "objects": PLAIN["list"]}
    data = pickle.dumps(plain, protocol)
    for old, new in ((b"numpy._core", b"numpy.core"), (b"numpy._core", b"numpy._core")):
        # numpy 1 wrote a name that is one letter shorter; text of protocol 3 ends in a line feed, so it can be replaced
        given = data.replace(old, new) if protocol == 3 else data
        read = read_pickle(stored(tmp_path, given))
        assert list(read) == list(plain)
        for name, value in plain.items():
            assert same(read[name], value), name


class Calls:
    def __init__(self, called: object, *arguments: object) -> None:
        self.made = (called, arguments)

    def __reduce__(self):
        return self.made


class WithPersistentId(pickle.Pickler):
    def persistent_id(self, obj: object) -> object:
        return "x" if isinstance(obj, Calls) else None


TOUCH = "open('ran', 'w').close()"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    ("hostile", "message"),
    [
        (Calls(os.system, "touch ran"), r"asks for (posix|nt)\.system"),
        (Calls(eval, TOUCH), r"asks for (__builtin__|builtins)\.eval"),
        (Calls(exec, TOUCH), r"asks for (__builtin__|builtins)\.exec"),
        (Calls(getattr, "x", "load"), r"asks for (__builtin__|builtins)\.getattr"),
        (Calls(Path("ran").touch), r"asks for (__builtin__|builtins)\.getattr"),
        (Calls(np.load, "ran"), r"asks for numpy\.load"),
        (Calls(functools.partial, print), r"asks for functools\.partial"),
        ({"train": {"audio": [Calls(np.dtype, Calls(eval, TOUCH))]}}, r"asks for (__builtin__|builtins)\.eval"),
        (OrderedDict(a=1), r"asks for collections\.OrderedDict"),
        (datetime.date(2020, 1, 1), r"asks for datetime\.date"),
        (np.array([Calls(os.system, "touch ran")], object), r"asks for (posix|nt)\.system|_codecs\.encode"),
        ({("a",): 1}, "keys are not all text"),
        (np.zeros(2, [("a", "f4")]), "type|records|_codecs"),
        (np.zeros(2, "c8"), r"type 'c8'|_codecs\.encode"),
    ],
)
def test_hostile_pickles_do_not_run(tmp_path: Path, monkeypatch, hostile: object, message: str, protocol: int) -> None:
    monkeypatch.chdir(tmp_path)
    path = stored(tmp_path, pickle.dumps(hostile, protocol))
    with pytest.raises(CacheError, match=message):
        read_pickle(path)
    assert not Path("ran").exists()


def test_nothing_is_imported_called_or_looked_up(tmp_path: Path, monkeypatch) -> None:
    path = stored(tmp_path, b"\x80\x02c" + b"this\ns\n.")

    def forbidden(*_a: object, **_k: object) -> None:
        raise AssertionError("imported")

    monkeypatch.setattr(pickle, "Unpickler", forbidden)
    monkeypatch.setattr(pickle, "load", forbidden)
    monkeypatch.setattr(builtins, "__import__", forbidden)
    with pytest.raises(CacheError, match=r"asks for this\.s"):
        read_pickle(path)


def array_of(shape: tuple[int, ...], size: int, name: str = "f4") -> bytes:
    """An array that claims ``shape`` and holds ``size`` bytes."""
    whole = pickle.dumps(np.zeros(2, "f4"), 3)
    assert whole.count(b"K\x02\x85") == 1
    numbers = b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", n) for n in shape) + b"t"
    whole = whole.replace(b"K\x02\x85", numbers).replace(b"C\x08" + bytes(8), b"C" + bytes([size]) + bytes(size))
    return whole.replace(b"X\x02\x00\x00\x00f4", b"X" + struct.pack("<I", len(name)) + name.encode())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a pickle that can be read"),
        (b"I1\n.", "protocol 2 to 5"),
        (b"\x80\x07N.", "protocol 7"),
        (b"\x80\x02Pabc\n.", "PERSID"),
        (b"\x80\x02X\x01\x00\x00\x00aQ.", "BINPERSID"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (b"\x80\x04\x8f.", "EMPTY_SET"),
        (b"\x80\x02(ios\nsystem\n.", "INST"),
        (b"\x80\x02cnumpy\nndarray\n)\x81.", "NEWOBJ"),
        (b"\x80\x02cnumpy\ndtype\n)\x8f.", "EMPTY_SET"),
        (b"\x80\x02cnumpy\nndarray\n)R.", "in a way that numpy does not"),
        (b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R.", "in a way that numpy does not"),
        (b"\x80\x02X\x01\x00\x00\x00a)R.", "calls what is no name"),
        (b"\x80\x02]}b.", "sets the state of what is no array"),
        (b"\x80\x02r\xff\xff\xff\xff.", "not a pickle that can be read"),
        (b"\x80\x02Nr\xff\xff\xff\xffj\x00\x00\x00\x00.", "not a pickle that can be read"),
        (b"\x80\x04\x8e" + b"\xff" * 8 + b".", "cut short"),
        (b"\x80\x02B\xff\xff\xff\x7f.", "cut short"),
        (b"\x80\x02N", "cut short"),
        (b"\x80\x02NN.", "not a pickle that can be read"),
        (b"\x80\x02a.", "takes from an empty stack"),
        (b"\x80\x02t.", "not a pickle that can be read"),
        (b"\x80\x02c" + b"a" * 300 + b"\nb\n.", "more than 256 characters"),
        (b"\x80\x04\x8c\x02\xff\xfe.", "not a pickle that can be read"),
        (array_of((1 << 40,), 8), "holds an array of shape"),
        (array_of((-1, -2), 8), "without a plain shape"),
        (array_of((1 << 62, 1 << 62, 0), 0), "not a pickle that can be read"),
        (array_of((1 << 40,), 0, "S0"), "without a plain shape"),
        (array_of((1,), 8, "O8"), "holds an array of shape"),
        (array_of((1,), 16, "V16"), "type 'V16'"),
        (array_of((2,), 8, "f4,f4"), "type 'f4,f4'"),
    ],
)
def test_crafted_bytes_are_one_clear_error(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(CacheError, match=message):
        read_pickle(stored(tmp_path, data))


def test_a_huge_memo_number_reserves_nothing(tmp_path: Path) -> None:
    assert read_pickle(stored(tmp_path, b"\x80\x02K\x05r\xff\xff\xff\xff.")) == 5


def test_depth_costs_no_recursion_and_opcodes_are_limited(tmp_path: Path, monkeypatch) -> None:
    deep = b"\x80\x02" + b"N" + b"\x85" * 300_000 + b"."
    assert isinstance(read_pickle(stored(tmp_path, deep)), tuple)
    monkeypatch.setattr(safe_pickle, "MAX_OPCODES", 1000)
    with pytest.raises(CacheError, match="more than 1000 opcodes"):
        read_pickle(stored(tmp_path, deep))


def test_every_cut_and_every_changed_byte_is_an_error_or_plain_data(tmp_path: Path) -> None:
    whole = pickle.dumps({"a": np.arange(6, dtype="f4").reshape(2, 3), "b": ["x", 1.5]}, 4)
    rng = np.random.default_rng(0)
    for i in range(len(whole)):
        with pytest.raises(CacheError):
            read_pickle(stored(tmp_path, whole[:i]))
        changed = bytearray(whole)
        changed[i] = rng.integers(256)
        with contextlib.suppress(CacheError):
            read_pickle(stored(tmp_path, bytes(changed)))
