"""Pickles of strangers: what they hold comes out, what they try does not happen."""

from __future__ import annotations

import builtins
import copyreg
import io
import os
import pickle
import random
import struct
import sys
import tracemalloc
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geomformer.errors import DataError
from geomformer.io.lmdb import count_values, read_value
from geomformer.io.torch_pickles import read_data, read_integer

SAMPLES = Path(__file__).parents[3] / "data" / "samples" / "oc20"
FILES = ("is2re_oc20_derived.lmdb", "is2re_oc20_derived_pyg1.lmdb")
FIELDS = {"pos", "cell", "atomic_numbers", "natoms", "tags", "fixed", "pos_relaxed", "y_init", "y_relaxed", "sid"}


class Calls:
    """An object whose pickle calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


@pytest.fixture
def data_class(monkeypatch: pytest.MonkeyPatch) -> Iterator[type]:
    """A stand-in for torch_geometric's Data, under its name, as it pickles itself in version 1."""
    module = types.ModuleType("torch_geometric.data.data")
    kind = type("Data", (), {"__module__": module.__name__})
    module.Data = kind  # type: ignore[attr-defined]
    for name in ("torch_geometric", "torch_geometric.data"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return kind


def pickled(kind: type, protocol: int = 4, **fields: Any) -> bytes:
    data = kind()
    data.__dict__.update(fields)
    return pickle.dumps(data, protocol)


def values(name: str) -> list[bytes]:
    path = SAMPLES / name
    return [read_value(str(path), str(key)) for key in range(count_values(path))]


def test_both_generations_hold_the_same() -> None:
    new, old = ([read_data(value, "x") for value in values(name)] for name in FILES)
    assert len(new) == len(old) == 26
    for first, second in zip(new, old, strict=True):
        assert first.keys() == second.keys() == FIELDS
        for name in FIELDS:
            np.testing.assert_array_equal(first[name], second[name])
    assert sum(len(fields["pos"]) for fields in new) == 1997
    assert sum(fields["y_relaxed"] for fields in new) == pytest.approx(-9498.24446492, abs=1e-6)


@pytest.mark.parametrize("protocol", range(6))
def test_tensors_and_numpy_values(data_class: type, protocol: int) -> None:
    tensors = {
        "a": torch.arange(24, dtype=torch.float64).reshape(2, 3, 4),
        "view": torch.arange(24).reshape(4, 6)[1:, ::2].T,
        "flags": torch.tensor([True, False]),
        "half": torch.tensor([1.5], dtype=torch.float16),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5),
        "small": torch.tensor([-3], dtype=torch.int8),
    }
    arrays = {
        "array": np.arange(6, dtype=np.float32).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "big": np.arange(3, dtype=">i4"),
        "truth": np.array([True, False]),
    }
    plain = {"n": np.float64(1.25), "sid": 10**30, "text": "Å", "list": [1, (2, None)], "dict": {"a": -1.5}}
    found = read_data(pickled(data_class, protocol, none=None, **tensors, **arrays, **plain), "x")
    assert found.keys() == tensors.keys() | arrays.keys() | plain.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())
        assert found[name].dtype == tensor.numpy().dtype
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    assert {name: found[name] for name in plain} == plain


def test_a_tensor_in_the_zip_format(data_class: type) -> None:
    tensor = torch.arange(6, dtype=torch.float32)
    buffer = io.BytesIO()
    torch.save(tensor.untyped_storage(), buffer)
    storage = Calls(torch.storage._load_from_bytes, buffer.getvalue())
    found = read_data(pickled(data_class, x=storage, pos=tensor), "x")
    np.testing.assert_array_equal(found["pos"], tensor.numpy())


def nested(value: Any, zipped: bool) -> Calls:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
    return Calls(torch.storage._load_from_bytes, buffer.getvalue())


def hostile(tmp_path: Path) -> dict[str, tuple[Any, str]]:
    touch = Calls(os.system, f"touch {tmp_path / 'owned'}")
    system = f"{os.system.__module__}.system"
    return {
        "plain": (touch, system),
        "in a list": ([[[{"a": ("b", [touch])}]]], system),
        "eval": (Calls(eval, "1"), "eval"),
        "getattr": (Calls(getattr, "x", "upper"), "getattr"),
        "import": (Calls(builtins.__import__, "os"), "__import__"),
        "nested, zip": (nested(touch, True), system),
        "nested, legacy": (nested(touch, False), system),
        "nested twice": (nested(nested(touch, True), True), "torch.storage._load_from_bytes"),
        "torch.load": (Calls(torch.load, "x"), "torch.serialization.load"),
        "any class": (Calls(copyreg._reconstructor, Path, object, None), "pathlib.Path"),
        "numpy objects": (np.array([touch, None], dtype=object), "other than numbers"),
        "numpy file": (Calls(np.load, "x"), "numpy.load"),
        "dictionary of a call": (OrderedDict(a=touch), system),
    }


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
@pytest.mark.parametrize("kind", hostile(Path("x")))
def test_hostile_pickles_are_refused_by_name(data_class: type, tmp_path: Path, kind: str, protocol: int) -> None:
    value, name = hostile(tmp_path)[kind]
    for content in (pickled(data_class, protocol, unused=value), pickle.dumps(value, protocol)):
        with pytest.raises(DataError, match=r"Refused: the value of key '0' in FILE") as caught:
            read_data(content, "the value of key '0' in FILE")
        assert name in str(caught.value)
        assert caught.value.exit_code == 3
    assert not (tmp_path / "owned").exists()


def rebuilt(offset: int, size: Any, stride: Any) -> Calls:
    storage = torch.arange(10, dtype=torch.float32).untyped_storage()
    typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
    return Calls(torch._utils._rebuild_tensor_v2, typed, offset, size, stride, False, OrderedDict())


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (11,), (1,)),
        (5, (6,), (1,)),
        (0, (2, 5), (6, 1)),
        (0, (10,), (1 << 39,)),
        (0, (1 << 30,), (0,)),
        (0, (2,), (-1,)),
        (-1, (2,), (1,)),
        (0, (2,), (1, 1)),
        (0, (2.0,), (1,)),
        (0, [2], [1]),
        (0, (1,) * 40, (1,) * 40),
        ("0", (2,), (1,)),
    ],
)
def test_tensors_beyond_their_numbers_are_refused(data_class: type, offset: Any, size: Any, stride: Any) -> None:
    with pytest.raises(DataError, match="describes a tensor"):
        read_data(pickled(data_class, pos=rebuilt(offset, size, stride)), "x")
    fine = read_data(pickled(data_class, pos=rebuilt(1, (3, 3), (3, 1))), "x")["pos"]
    np.testing.assert_array_equal(fine, np.arange(1, 10, dtype=np.float32).reshape(3, 3))


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"ctorch_geometric.data.data\nData\n}(X\x01\x00\x00\x00aK\x01ub.", "changes torch_geometric.data.data.Data"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n}b.", "changes torch._utils._rebuild_tensor_v2"),
        (b"ccollections\nOrderedDict\n)\x81.", "makes an object of collections.OrderedDict"),
        (b"ctorch_geometric.data.data\nData\n)R.", "calls torch_geometric.data.data.Data"),
        (b"K\x01)R.", "calls a int"),
        (b"(iposix\nsystem\n.", "posix.system"),
        (b"(cposix\nsystem\nX\x01\x00\x00\x00ao.", "posix.system"),
        (b"Pos.system\n.", "refers to os.system outside itself"),
        (b"X\x09\x00\x00\x00os.systemQ.", "refers to os.system outside itself"),
        (b"K\x01Q.", "refers to a int outside itself"),
        (b"\x82\x01.", "the extension 1 of"),
        (b"\x83\x01\x02.", "the extension 513 of"),
        (b"\x84\x01\x00\x00\x01.", "the extension 16777217 of"),
        (b"ctorch_geometric.data.data\nData\n)}\x92.", "instruction b'\\x92'"),
        (b"(ctorch_geometric.data.data\nData\no.", "instruction b'o'"),
        (b"\x97.", "instruction b'\\x97'"),
        (b"\xff.", "instruction b'\\xff'"),
        (b"cos\x1b[2J\rx\nsystem\n.", r"asks for os\x1b[2J\rx.system, which"),
        (b"}\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x1fNs.", "has a int for a key"),
        (b"}))s.", "has a tuple for a key"),
        (b")K\x01a.", "changes a tuple as if it were a list"),
        (b"ctorch.storage\n_load_from_bytes\nK\x01\x85R.", "something other than bytes"),
        (b"cnumpy\ndtype\nX\x01\x00\x00\x00O\x85R.", "other than numbers"),
        (b"X\x01\x00\x00\x00aX\x01\x00\x00\x00b\x93.", "asks for a.b"),
    ],
)
def test_instructions_out_of_place_are_refused(program: bytes, message: str) -> None:
    with pytest.raises(DataError, match="Refused") as caught:
        read_data(program, "it")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "program",
    [
        b"",
        b".",
        b"K\x01",
        b"(lq\x00.",
        b"\x8e" + b"\xff" * 8,
        b"B\xff\xff\xff\x7fabc.",
        b"h\x05.",
        b"K\x01.",
        b"}.",
        b"e.",
        b"\x85.",
        b"X\x02\x00\x00\x00\xff\xfe.",
        b"g" + b"9" * 10000 + b"\n.",
    ],
)
def test_damaged_pickles_are_data_errors(program: bytes) -> None:
    with pytest.raises(DataError, match="damaged"):
        read_data(program, "it")


def test_a_memo_index_reserves_no_memory(data_class: type) -> None:
    content = pickled(data_class, a=1)
    assert read_data(content[:-1] + b"r\xff\xff\xff\xff.", "x") == {"a": 1}


def test_nesting_does_not_end_the_process(data_class: type) -> None:
    """The hash of such a tuple would overflow the stack of C."""
    with pytest.raises(DataError, match="has a tuple for a key"):
        read_data(b"})" + b"\x85" * 1_000_000 + b"K\x01s.", "x")


def test_many_calls_are_refused() -> None:
    with pytest.raises(DataError, match="calls"):
        read_data(b"(" + b"ccollections\nOrderedDict\n)R" * 1001 + b"t.", "x")


def amplified(what: str) -> bytes:
    """A pickle of 400 kB whose calls would handle some 400 MB."""
    size = 400_000
    recalled = {
        "encode": b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R",
        "storage": b"ctorch.storage\n_load_from_bytes\nh\x00\x85R",
        "Size": b"ctorch\nSize\nh\x00\x85R",
        "build": b"bh\x00",
    }
    sized = struct.pack("<I", size)
    buffer = io.BytesIO()
    torch.save(torch.zeros(size // 4).untyped_storage(), buffer)
    first = {
        "encode": b"X" + sized + b"a" * size,
        "storage": b"B" + struct.pack("<I", len(buffer.getvalue())) + buffer.getvalue(),
        "Size": b"(" + b"K\x01" * (size // 2) + b"t",
        "build": b"cnumpy._core.multiarray\n_reconstruct\n)R(K\x01J" + sized + b"\x85cnumpy\ndtype\n"
        b"X\x02\x00\x00\x00b1\x85R\x89B" + sized + bytes(size) + b"t",
    }
    return b"(" + first[what] + b"q\x00" + recalled[what] * 900 + b"l."


@pytest.mark.parametrize("what", ["encode", "storage", "Size", "build"])
def test_calls_cannot_multiply_what_a_pickle_holds(what: str) -> None:
    content = amplified(what)
    tracemalloc.start()
    with pytest.raises(DataError, match="makes calls with more than 4 times its own"):
        read_data(content, "it")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * len(content)


def test_numbers_of_parts_cannot_be_chosen_to_collide() -> None:
    with pytest.raises(DataError, match="number of a part is too long"):
        read_data(b"Np%d\n." % (2**61 - 1), "it")


def test_a_message_stays_short() -> None:
    for content in (
        b"c" + b"\0" * 10**6 + b"\nb\n.",
        b"c" + b"a" * 10**6 + b"\nb\n.",
        b"F" + b"a" * 10**6 + b"\n.",
        b"P" + b"a" * 10**6 + b"\n.",
    ):
        with pytest.raises(DataError) as caught:
            read_data(content, "it")
        assert len(str(caught.value)) < 400


def test_any_change_of_a_byte_gives_values_or_a_data_error() -> None:
    draw = random.Random(0)
    for value in values(FILES[0])[:4] + values(FILES[1])[:4]:
        for _ in range(250):
            damaged = bytearray(value)
            for _ in range(draw.choice((1, 1, 3))):
                damaged[draw.randrange(min(len(damaged), draw.choice((300, 10**6))))] = draw.randrange(256)
            cut = bytes(damaged[: draw.choice((len(damaged), draw.randrange(len(damaged))))])
            try:
                read_data(cut, "x")
            except DataError:
                continue


def test_integers() -> None:
    assert read_integer(pickle.dumps(26), "x") == 26
    for value in (pickle.dumps("26"), pickle.dumps(True), pickle.dumps(Calls(os.system, "true"))):
        with pytest.raises(DataError):
            read_integer(value, "x")
