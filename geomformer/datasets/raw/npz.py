"""Arrays of .npz files, read frame by frame and never through pickle."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from geomformer.datasets.raw.archives import zip_members
from geomformer.errors import DataError

_SUFFIX = ".npy"


@dataclass(frozen=True)
class ArrayHeader:
    """Shape and type of an array in a file."""

    shape: tuple[int, ...]
    dtype: np.dtype


def array_headers(path: Path) -> dict[str, ArrayHeader | None]:
    """Returns what an npz file holds, by name; None for arrays of Python objects, which are never read.

    Raises:
        DataError: it is no npz file, damaged, or holds something other than arrays.
    """
    headers: dict[str, ArrayHeader | None] = {}
    for name, handle, _ in zip_members(path, lambda name: name.endswith(_SUFFIX)):
        header = _header(path, name, handle)
        headers[name.removesuffix(_SUFFIX)] = None if header.dtype.hasobject else header
    if not headers:
        raise DataError(f"Expected the arrays of an npz file in {path}, found a zip archive without any.")
    return headers


def read_array(path: Path, name: str) -> np.ndarray:
    """Returns a whole array.

    Raises:
        DataError: as for `read_rows`.
    """
    rows = list(read_rows(path, name, 2**16))
    return np.concatenate(rows) if rows else np.zeros(0)


def read_rows(path: Path, name: str, count: int) -> Generator[np.ndarray, None, None]:
    """Yields an array in pieces of `count` rows, so that memory does not grow with it; a lone number is one row.

    Args:
        path: npz file.
        name: of the array.
        count: rows per piece.

    Raises:
        DataError: there is no such array, it holds Python objects, or the file is damaged.
    """
    for member, handle, size in zip_members(path, lambda member: member == name + _SUFFIX):
        header = _header(path, member, handle)
        if header.dtype.hasobject:
            raise DataError(
                f"Expected numbers in the array '{name}' of {path}, found Python objects.",
                "They are not read: loading them would run code. Save the array again with a plain type.",
            )
        shape = header.shape or (1,)
        row_bytes = math.prod(shape[1:]) * header.dtype.itemsize
        if shape[0] * row_bytes > size:
            raise DataError(f"The array '{name}' of {path} ends early: {shape} numbers are announced in {size} bytes.")
        for start in range(0, shape[0], count):
            rows = min(count, shape[0] - start)
            data = handle.read(rows * row_bytes)
            if len(data) < rows * row_bytes:
                raise DataError(f"The array '{name}' of {path} ends early in row {start + len(data) // row_bytes}.")
            yield np.frombuffer(data, header.dtype).reshape(rows, *shape[1:])
        return
    raise DataError(f"Expected an array '{name}' in {path}, found none.")


def read_together(path: Path, names: tuple[str, ...], count: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Yields pieces of several arrays of equal length side by side; see `read_rows`."""
    with contextlib.ExitStack() as stack:
        pieces = [stack.enter_context(contextlib.closing(read_rows(path, name, count))) for name in names]
        yield from itertools.zip_longest(*pieces)


def _header(path: Path, member: str, handle: IO[bytes]) -> ArrayHeader:
    try:
        version = np.lib.format.read_magic(handle)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(handle)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(handle)
        else:
            raise ValueError(f"its format is version {version[0]}.{version[1]}")
    except ValueError as error:
        raise DataError(f"Expected a numpy array in the member '{member}' of {path}: {error}.") from error
    if fortran and not dtype.hasobject:
        raise DataError(
            f"Expected the array '{member.removesuffix(_SUFFIX)}' of {path} row by row, found it column by column.",
            "Save it again with numpy.ascontiguousarray.",
        )
    return ArrayHeader(tuple(shape), dtype)
