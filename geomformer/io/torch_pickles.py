"""Pickled `torch_geometric` data of any generation as numpy arrays, without torch, torch_geometric or `pickle`.

Such pickles hold every tensor as `torch.storage._load_from_bytes(...)`, which is an unrestricted load in itself. Here
that name means a decoder of the two formats of `torch.save`, which knows storages only; it reads every tensor, those
of fields that nobody uses too.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from geomformer.errors import DataError
from geomformer.io.numpy_pickles import NUMPY_CALLS, NumpyArray, are_counts, truths
from geomformer.io.pickle_values import Name, Refused, shown
from geomformer.io.unpickle import Reader

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_DAMAGE = (struct.error, MemoryError, OverflowError, zipfile.BadZipFile, RuntimeError)
"""What a damaged pickle or a tensor in it raises besides; RuntimeError is zipfile's for encryption."""
_MAX_DIMENSIONS = 16

_DTYPES = {
    "Float": "<f4",
    "Double": "<f8",
    "Half": "<f2",
    "Long": "<i8",
    "Int": "<i4",
    "Short": "<i2",
    "Char": "<i1",
    "Byte": "<u1",
    "Bool": "|b1",
    "Untyped": "<u1",
}
"""Type of the numbers in a torch storage by the first part of its name."""


class Holder:
    """An object of a class that is not needed: only its state is kept."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def build(self, state: Any) -> None:
        if type(state) is not dict:
            raise Refused("gives an object a state that is no dictionary")
        self.state = state


class _Storage:
    """Numbers of a tensor, (n,); None until they have been read."""

    __slots__ = ("count", "dtype", "key", "values")

    def __init__(self, key: str, dtype: str, count: int) -> None:
        self.key, self.dtype, self.count = key, np.dtype(dtype), count
        self.values: np.ndarray | None = None

    @property
    def num_bytes(self) -> int:
        return self.count * self.dtype.itemsize

    def fill(self, data: bytes, offset: int = 0) -> None:
        if self.count < 0 or offset + self.num_bytes != len(data):
            raise ValueError(f"a tensor of {self.num_bytes} bytes comes with {len(data) - offset}")
        self.values = truths(np.frombuffer(data, self.dtype, self.count, offset))


def read_data(value: bytes, where: str) -> dict[str, Any]:
    """Returns the fields of a pickled `torch_geometric.data.Data`, tensors and numpy arrays as arrays.

    Args:
        value: the pickle, of torch_geometric 1.x or 2.x.
        where: what it is, for messages: "the value of key '0' in FILE".

    Raises:
        DataError: it is damaged, is something else, or asks for anything that such data do not need; nothing of what
            it asks for is loaded or run.
    """
    found: dict[str, Any] = _guarded(lambda: _fields(Reader(value, _NAMES).read()), where)
    return found


def _fields(found: Any) -> dict[str, Any]:
    if not isinstance(found, Holder):
        raise ValueError(f"a {type(found).__name__} stands in the place of a torch_geometric Data object")
    store = found.state.get("_store")
    fields = store.state.get("_mapping") if isinstance(store, Holder) else found.state
    if type(fields) is not dict:
        raise ValueError("the torch_geometric Data object has no fields")
    # Store and owner refer to each other; cut, they are freed at once instead of by the garbage collector.
    found.state = {}
    return {
        name: value.finished() if isinstance(value, NumpyArray) else value
        for name, value in fields.items()
        if value is not None
    }


def read_integer(value: bytes, where: str) -> int:
    """Returns a pickled integer.

    Raises:
        DataError: it is something else.
    """
    number = _guarded(lambda: Reader(value, {}).read(), where)
    if type(number) is not int:
        raise DataError(f"Expected {where} to be a pickled integer, found a {type(number).__name__}.")
    return number


def _guarded(read: Callable[[], Any], where: str) -> Any:
    try:
        return read()
    except Refused as error:
        raise DataError(f"Refused: {where} {error}. Nothing of it was run.", "Fetch the data anew.") from error
    except (ValueError, LookupError, TypeError, *_DAMAGE) as error:
        raise DataError(
            f"Expected a pickled record, found {where} damaged: {shown(str(error))}.", "Fetch it again."
        ) from error


def _load_storage(data: Any, *rest: Any) -> _Storage:
    if type(data) is not bytes or rest:
        raise Refused("loads a tensor from something other than bytes")
    return _zip_storage(data) if data.startswith(b"PK\x03\x04") else _legacy_storage(data)


def _persistent(identity: Any) -> _Storage:
    match identity:
        case ("storage", Name(value=str() as dtype), str() as key, str(), int() as count, *views):
            if views not in ([], [None]):
                raise Refused("holds a tensor as a view of another one")
            return _Storage(key, dtype, count)
        case _:
            raise Refused("refers to something other than the numbers of a tensor")


def _only_storage(found: Any) -> _Storage:
    if not isinstance(found, _Storage):
        raise Refused(f"holds a {type(found).__name__} where the numbers of a tensor belong")
    return found


def _legacy_storage(data: bytes) -> _Storage:
    """Five pickles (mark, version, system, what was saved, keys of the storages), then length and numbers of each."""
    reader = Reader(data, {})
    if reader.read() != _MAGIC:
        raise ValueError("a tensor has an unknown format")
    reader = Reader(data, {}, start=reader.at)
    if reader.read() != _PROTOCOL:
        raise ValueError("a tensor has an unknown version of its format")
    reader = Reader(data, {}, start=reader.at)
    system = reader.read()
    if type(system) is not dict or system.get("little_endian") is not True:
        raise ValueError("a tensor was written by a big-endian machine")
    reader = Reader(data, _STORAGES, _persistent, reader.at)
    storage = _only_storage(reader.read())
    reader = Reader(data, {}, start=reader.at)
    if reader.read() != [storage.key]:
        raise ValueError("a tensor does not have one storage")
    (count,) = struct.unpack_from("<q", data, reader.at)
    if count != storage.count:
        raise ValueError(f"a tensor of {storage.count} numbers comes with {count}")
    storage.fill(data, reader.at + 8)
    return storage


def _zip_storage(data: bytes) -> _Storage:
    """A zip file, nothing compressed: NAME/data.pkl is what was saved, NAME/data/KEY the numbers of each storage."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {member.filename.partition("/")[2]: member for member in archive.infolist()}

        def content(name: str) -> bytes:
            member = members[name]
            if member.compress_type != zipfile.ZIP_STORED or member.file_size > len(data):
                raise Refused("holds a tensor in compressed form")
            return archive.read(member)

        storage = _only_storage(Reader(content("data.pkl"), _STORAGES, _persistent).read())
        if "byteorder" in members and content("byteorder") != b"little":
            raise ValueError("a tensor was written by a big-endian machine")
        storage.fill(content(f"data/{storage.key}"))
    return storage


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray:
    """Returns a tensor as a read-only view of its storage, within its bounds."""
    numbers = _only_storage(storage).values
    if numbers is None:
        raise ValueError("a tensor has no numbers")
    if not (
        are_counts((offset,))
        and are_counts(size)
        and are_counts(stride)
        and len(size) == len(stride) <= _MAX_DIMENSIONS
    ):
        raise Refused("describes a tensor by something other than small counts")
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count == 0:
        return np.zeros(size, numbers.dtype)
    if count > len(numbers) or last >= len(numbers):
        raise Refused(f"describes a tensor that reaches beyond its {len(numbers)} numbers")
    steps = [step * numbers.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(numbers[offset:], size, steps, writeable=False)


def _reconstruct(kind: Any, base: Any, state: Any) -> Any:
    if not isinstance(kind, Name) or kind.new is None or not isinstance(base, Name) or state is not None:
        raise Refused("makes an object in a way that is not allowed")
    return kind.new()


def _dictionary() -> dict[Any, Any]:
    return {}


def _table() -> tuple[dict[str, Name], dict[str, Name]]:
    """Returns the names that a storage may use, and those that the data may use."""
    storages = {"collections.OrderedDict": Name("collections.OrderedDict", call=_dictionary)}
    for kind, dtype in _DTYPES.items():
        for module in ("torch", "torch.cuda", "torch.storage"):
            text = f"{module}.{kind}Storage"
            storages[text] = Name(text, value=dtype)
    calls: dict[str, Callable[..., Any]] = {
        "torch._utils._rebuild_tensor": _tensor,
        "torch._utils._rebuild_tensor_v2": _tensor,
        "torch.storage._load_from_bytes": _load_storage,
        "torch.Size": lambda size: size if are_counts(size) else (),
        "copyreg._reconstructor": _reconstruct,
        "copy_reg._reconstructor": _reconstruct,
        **NUMPY_CALLS,
    }
    data = {text: Name(text, call=call) for text, call in calls.items()}
    for text in ("numpy.ndarray", "builtins.object", "__builtin__.object"):
        data[text] = Name(text)
    parts = {
        "data": ("Data", "DataEdgeAttr", "DataTensorAttr"),
        "storage": ("BaseStorage", "NodeStorage", "EdgeStorage", "GlobalStorage"),
    }
    for module, names in parts.items():
        for name in names:
            text = f"torch_geometric.data.{module}.{name}"
            data[text] = Name(text, new=Holder)
    return storages, storages | data


_STORAGES, _NAMES = _table()
