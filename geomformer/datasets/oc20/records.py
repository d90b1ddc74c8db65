"""One OC20 system: from its record in an LMDB, or from its relaxation, to a `Record`. Runs in worker processes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from geomformer.errors import DataError, MoleculeError
from geomformer.io.lmdb import read_value
from geomformer.io.pickle_values import shown
from geomformer.io.structures import Relaxation, read_relaxation
from geomformer.io.torch_pickles import read_data
from geomformer.records import CONFORMER_SOURCES, Record

TARGETS = {"energy": "ev", "energy_initial": "ev"}
"""Energy of the relaxed and of the initial structure."""

_NEEDED = ("pos", "cell", "atomic_numbers", "fixed")
_SMALLEST_VOLUME = 1e-3
_LARGEST = 1e9


@dataclass(frozen=True)
class System:
    """Where one system is.

    Attributes:
        index: position in the input, from 0.
        id: split and key, until the record says its own.
        split: name of its split.
        path, key: LMDB and key.
        relaxation: a trajectory instead of an LMDB.
    """

    index: int
    id: str
    split: str
    path: str = ""
    key: str = ""
    relaxation: Relaxation | None = None


def build(system: System) -> Record | MoleculeError:
    """Reads a system and returns its record, or why it cannot be used.

    Raises:
        DataError: the file is damaged, its values are not OC20's, or one asks to run something.
    """
    try:
        if system.relaxation is not None:
            return to_record(with_tags(read_relaxation(system.relaxation)), system.id)
        where = f"the value of key '{system.key}' in {system.path}"
        fields = read_data(read_value(system.path, system.key), where)
        missing = [name for name in (*_NEEDED, "tags") if name not in fields]
        if missing:
            raise DataError(
                f"Expected the fields of an OC20 record in {where}, found no {', '.join(missing)} among "
                f"{', '.join(shown(str(name)) for name in list(fields)[:20]) or 'none'}."
            )
        return to_record(fields, system.id)
    except MoleculeError as error:
        return error


def with_tags(fields: dict[str, Any]) -> dict[str, Any]:
    """Adds tags where there are none: 0 for fixed atoms, 1 for others. Adsorbate atoms cannot be told then."""
    return fields if "tags" in fields else fields | {"tags": np.where(fields["fixed"], 0, 1)}


def to_record(fields: Mapping[str, Any], name: str) -> Record:
    """Returns a record of a system with the fields of an OC20 LMDB.

    The relaxed positions are those periodic images that are nearest to the initial ones.

    Args:
        fields: pos, cell, atomic_numbers, tags, fixed; where known pos_relaxed, y_init, y_relaxed, sid, natoms.
        name: identifier where there is no sid.

    Raises:
        MoleculeError: they are not those of a periodic system of known elements.
    """
    numbers = _integers(fields, "atomic_numbers", None, 1, 118)
    size = len(numbers)
    if size == 0 or _number(fields.get("natoms", size), "natoms") != size:
        raise _unusable(f"{fields.get('natoms', 0)} atoms announced, {size} atomic numbers found")
    positions = _numbers(fields, "pos", (size, 3))
    cell = _numbers(fields, "cell", (3, 3))
    if abs(np.linalg.det(cell)) < _SMALLEST_VOLUME:
        raise _unusable("the cell has no volume")
    relaxed = None
    if "pos_relaxed" in fields:
        relaxed = nearest_image(_numbers(fields, "pos_relaxed", (size, 3)), positions, cell)
    labels = {"energy": fields.get("y_relaxed", math.nan), "energy_initial": fields.get("y_init", math.nan)}
    return Record(
        id=_name(fields.get("sid", name)),
        atomic_numbers=numbers.astype(np.uint8),
        positions=positions[None].astype(np.float32),
        conformer_source=np.array([CONFORMER_SOURCES.index("given")], np.uint8),
        target_positions=None if relaxed is None else relaxed.astype(np.float32),
        cell=cell.astype(np.float32),
        pbc=np.ones(3, bool),
        tags=_integers(fields, "tags", size, 0, 2).astype(np.int8),
        fixed=_integers(fields, "fixed", size, 0, 1).astype(bool),
        targets={label: _number(value, label) for label, value in labels.items()},
    )


def nearest_image(positions: np.ndarray, reference: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Moves every atom by lattice vectors so that its displacement is at most half of each.

    This rounds fractional coordinates, as the benchmark's metric does; in a skewed cell another image can be nearer.

    Args:
        positions: (N, 3).
        reference: what displacements are counted from. (N, 3)
        cell: rows are lattice vectors. (3, 3)

    Returns:
        (N, 3), equal to `positions` bit for bit where nothing had to move.
    """
    fractions = np.linalg.solve(cell.T, (positions - reference).T).T
    return positions - np.ceil(fractions - 0.5) @ cell


def _unusable(message: str) -> MoleculeError:
    return MoleculeError("unparsable", message)


def _array(fields: Mapping[str, Any], name: str) -> np.ndarray:
    value = fields[name]
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        raise _unusable(f"{name} is no array of numbers")
    return value


def _numbers(fields: Mapping[str, Any], name: str, shape: tuple[int, int]) -> np.ndarray:
    value = _array(fields, name)
    if value.shape not in (shape, (1, *shape)):
        raise _unusable(f"{name} has the shape {value.shape}, expected {shape}")
    found = value.reshape(shape).astype(np.float64)
    if not (np.abs(found) < 1e6).all():
        raise _unusable(f"{name} is not finite")
    return found


def _integers(fields: Mapping[str, Any], name: str, size: int | None, low: int, high: int) -> np.ndarray:
    value = _array(fields, name)
    if value.ndim != 1 or (size is not None and len(value) != size):
        raise _unusable(f"{name} has the shape {value.shape}, expected ({'N' if size is None else size},)")
    outside = ~((value >= low) & (value <= high) & (value == np.floor(value)))
    if outside.any():
        raise _unusable(f"{name} holds {value[outside][0]}, expected integers from {low} to {high}")
    return value


def _number(value: Any, name: str) -> float:
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if not isinstance(value, int | float) or abs(value) > _LARGEST:
        raise _unusable(f"{name} is no number up to {_LARGEST:g}")
    return float(value)


def _name(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    # A pickle may hold halves of a surrogate pair, which no file can.
    if not isinstance(value, str | int) or not str(value).isprintable():
        raise _unusable("sid is neither a number nor printable text")
    return str(value)
