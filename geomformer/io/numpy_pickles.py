"""What numpy's names in a pickle mean: arrays and numbers, of numpy 1 and 2, without its own unpickling code."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from geomformer.io.pickle_values import Refused

_NOT_NUMBERS = "holds a numpy array of something other than numbers"


def are_counts(values: Any) -> bool:
    """Returns whether a value is a tuple of numbers that can be sizes, steps or places."""
    return type(values) is tuple and all(type(value) is int and 0 <= value < 2**40 for value in values)


def truths(values: np.ndarray) -> np.ndarray:
    """Returns the array if it holds no byte that is neither true nor false, whatever its type.

    Raises:
        ValueError: it is one of truth values and holds others.
    """
    if values.dtype == bool and (values.view(np.uint8) > 1).any():
        raise ValueError("an array of truth values holds other values")
    return values


class NumpyType:
    """A numpy type: numbers and truth values only."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, *_: Any) -> None:
        if type(code) is not str or re.fullmatch(r"[biuf]\d", code) is None:
            raise Refused(_NOT_NUMBERS)
        self.code, self.order = code, "<"

    def build(self, state: Any) -> None:
        if type(state) is not tuple or len(state) < 5 or state[1] not in ("<", ">", "|") or any(state[2:5]):
            raise Refused(_NOT_NUMBERS)
        self.order = state[1]

    def finished(self) -> np.dtype:
        return np.dtype(self.order + self.code)


class NumpyArray:
    """A numpy array that a pickle makes empty and fills afterwards."""

    __slots__ = ("array",)

    def __init__(self, *_: Any) -> None:
        self.array: np.ndarray | None = None

    def build(self, state: Any) -> None:
        match state:
            case (int(), tuple() as shape, NumpyType() as dtype, bool() as fortran, bytes() as data):
                self.array = from_bytes(data, dtype, shape, "F" if fortran else "C").finished()
            case _:
                raise Refused(_NOT_NUMBERS)

    def finished(self) -> np.ndarray:
        if self.array is None:
            raise ValueError("a numpy array was never filled")
        return self.array


def from_bytes(data: Any, dtype: Any, shape: Any, order: Any = "C", *_: Any) -> NumpyArray:
    """Returns an array of the numbers in `data`."""
    if type(data) is not bytes or not isinstance(dtype, NumpyType) or not are_counts(shape) or order not in ("C", "F"):
        raise Refused(_NOT_NUMBERS)
    made = NumpyArray()
    made.array = truths(np.frombuffer(data, dtype.finished())).reshape(shape, order=order)
    return made


def scalar(dtype: Any, data: Any) -> Any:
    """Returns a numpy number as a plain one."""
    return from_bytes(data, dtype, (1,)).finished()[0].item()


def encode(text: Any, encoding: Any) -> bytes:
    """Returns bytes that an old pickle holds as text."""
    if type(text) is not str or encoding != "latin1":
        raise Refused("encodes something other than bytes")
    return text.encode("latin1")


NUMPY_CALLS: dict[str, Callable[..., Any]] = {
    "_codecs.encode": encode,
    "numpy.dtype": NumpyType,
    "numpy.core.multiarray._reconstruct": NumpyArray,
    "numpy._core.multiarray._reconstruct": NumpyArray,
    "numpy.core.multiarray.scalar": scalar,
    "numpy._core.multiarray.scalar": scalar,
    "numpy.core.numeric._frombuffer": from_bytes,
    "numpy._core.numeric._frombuffer": from_bytes,
}
"""What calling a name does."""
