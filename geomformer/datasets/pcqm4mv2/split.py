"""The official split of PCQM4Mv2, `split_dict.pt`: row numbers in a file that could as well hold a program."""

from __future__ import annotations

import io
import pickle
import re
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from geomformer.datasets.pcqm4mv2.sources import MAX_ROWS, SPLITS, opened
from geomformer.errors import DataError
from geomformer.io.numpy_pickles import NUMPY_CALLS
from geomformer.io.pickle_values import Name, Refused, shown
from geomformer.io.unpickle import Reader

MAX_SPLIT_FILE = 2**28
"""Bytes of `split_dict.pt`; the official one holds 30 MB."""
_OFFICIAL = "Use the official file."
_UNPICKLER = "WeightsUnpickler error:"
_GLOBAL = re.compile(r"GLOBAL (\S+)")


def read_splits(path: Path) -> dict[str, np.ndarray]:
    """Reads which rows of the table belong to which split: names of `SPLITS` and ascending idx, (R,) int64.

    Only numbers are loaded: a file that asks for anything else is refused before any of it runs.

    Args:
        path: `split_dict.pt`, or the archive.

    Raises:
        DataError: it is damaged, refused, or not a split.
    """
    with opened(path, ("split_dict.pt",)) as handle:
        data = handle.read(MAX_SPLIT_FILE + 1)
    if len(data) > MAX_SPLIT_FILE:
        raise DataError(f"Expected at most {MAX_SPLIT_FILE} bytes of split_dict.pt, found more in {path}.", _OFFICIAL)
    found = _load_tensors(data, path)
    if not isinstance(found, Mapping) or not set(found) <= set(SPLITS) or "train" not in found:
        names = ", ".join(map(str, found)) if isinstance(found, Mapping) else type(found).__name__
        raise DataError(f"Expected a split into {', '.join(SPLITS)} in {path}, found {shown(names)}.", _OFFICIAL)
    splits = {name: _indices(found[name], name, path) for name in SPLITS if name in found}
    everything = np.concatenate(list(splits.values()))
    if len(np.unique(everything)) != len(everything):
        raise DataError(f"Expected splits without common rows in {path}, found some in two of them.", _OFFICIAL)
    return splits


def _indices(values: Any, name: str, path: Path) -> np.ndarray:
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(
            f"Expected row numbers for {name} in {path}, found {type(values).__name__}.", _OFFICIAL
        ) from error
    if array.shape == (0,):
        return np.zeros(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu" or len(array) > MAX_ROWS:
        raise DataError(
            f"Expected row numbers for {name} in {path}, found {array.dtype} of shape {array.shape}.", _OFFICIAL
        )
    if not 0 <= int(array.min()) <= int(array.max()) < MAX_ROWS:
        raise DataError(f"Expected row numbers for {name} in {path}, found {array.min()} to {array.max()}.", _OFFICIAL)
    array = array.astype(np.int64)
    if (np.diff(array) <= 0).any():
        raise DataError(
            f"Expected ascending row numbers for {name} in {path}: the geometries are in their order.", _OFFICIAL
        )
    return array


def _load_tensors(data: bytes, path: Path) -> Any:
    """Loads what `torch.save` wrote, if it consists of numbers, text and numpy arrays of numbers."""
    import torch

    kinds = [np.dtype(kind) for kind in ("i4", "i8", "u4", "u8", "f4", "f8")]
    reconstruct = np.zeros(0).__reduce__()[0]
    names = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
    allowed: list[Any] = [np.ndarray, np.dtype, *{type(kind) for kind in kinds}, *((reconstruct, n) for n in names)]
    allowed += [(_encode, "_codecs.encode"), (_no_bytes, "builtins.bytes")]
    with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
        # Those of torch are about files that it did not write; they are refused here.
        warnings.simplefilter("ignore")
        try:
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            wanted = _forbidden(data) or _GLOBAL.findall(str(error))
            what = f"tries to load {wanted[0].rstrip('.')}, which row numbers do not need" if wanted else _asked(data)
            if what is None:
                raise _no_split(path, error) from error
            raise DataError(
                f"The file split_dict.pt in {path} is refused: it {what}. Nothing of it was run.", _OFFICIAL
            ) from error
        except (RuntimeError, EOFError, ValueError, TypeError, LookupError, AttributeError, MemoryError) as error:
            raise _no_split(path, error) from error


def _forbidden(data: bytes) -> list[str]:
    """Returns the names that a file asks for beyond those that are allowed at the moment; runs nothing."""
    import torch

    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(data)))
    except (RuntimeError, ValueError, EOFError, LookupError, pickle.UnpicklingError):
        # Only files in the zip format are searched.
        return []


def _asked(data: bytes) -> str | None:
    """Returns what a pickle that torch did not write asks for beyond arrays, None for other files; runs nothing."""
    if not data.startswith((pickle.PROTO, pickle.MARK)):
        return None
    names = {text: Name(text, call=call) for text, call in NUMPY_CALLS.items()}
    try:
        Reader(data, names | {"numpy.ndarray": Name("numpy.ndarray")}).read()
    except Refused as refusal:
        return str(refusal)
    except (ValueError, LookupError, TypeError, struct.error, MemoryError, OverflowError):
        return None
    return None


def _encode(text: str, encoding: str) -> bytes:
    """What a pickled array calls to turn text into its bytes."""
    if encoding != "latin1":
        raise ValueError(f"unexpected encoding {encoding}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """What a pickled array of no rows calls for its bytes."""
    return b""


def _no_split(path: Path, error: Exception) -> DataError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # Advice to whoever called torch stands before that line, or the reason stands behind it.
    start = next((number for number, line in enumerate(lines) if _UNPICKLER in line), 0)
    reason = lines[start].rpartition(_UNPICKLER)[2].strip() or lines[min(start + 1, len(lines) - 1)]
    return DataError(
        f"Expected split_dict.pt as torch.save writes row numbers, found another or damaged in {path}: {reason[:200]}",
        _OFFICIAL,
    )
