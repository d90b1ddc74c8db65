"""Columns of a prepared dataset, and records to and from Arrow tables.

All lists are flattened row-major: `positions` of C conformers of N atoms has C * N * 3 numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from geomformer.records import CONFORMER_SOURCES, NUM_SHARES, Record

FORMAT_VERSION = 1

LIST_COLUMNS: dict[str, tuple[pa.DataType, type[np.generic], str | None]] = {
    "atomic_numbers": (pa.uint8(), np.uint8, None),
    "particle_charges": (pa.int8(), np.int8, None),
    "positions": (pa.float32(), np.float32, "angstrom"),
    "conformer_source": (pa.uint8(), np.uint8, None),
    "target_positions": (pa.float32(), np.float32, "angstrom"),
    "velocities": (pa.float32(), np.float32, None),
    "forces": (pa.float32(), np.float32, "ev/angstrom"),
    "cell": (pa.float32(), np.float32, "angstrom"),
    "pbc": (pa.bool_(), np.bool_, None),
    "tags": (pa.int8(), np.int8, None),
    "fixed": (pa.bool_(), np.bool_, None),
    "atom_features": (pa.uint8(), np.uint8, None),
    "bond_index": (pa.int16(), np.int16, None),
    "bond_features": (pa.uint8(), np.uint8, None),
    "orbital_energies": (pa.float32(), np.float32, "ev"),
    "orbital_shares": (pa.float32(), np.float32, None),
}
"""List columns: Arrow type, numpy type, unit."""

SHAPES: dict[str, Callable[[int], tuple[int, ...]]] = {
    "target_positions": lambda n: (n, 3),
    "velocities": lambda n: (n, 3),
    "forces": lambda n: (n, 3),
    "cell": lambda n: (3, 3),
    "atom_features": lambda n: (n, 9),
    "bond_index": lambda n: (2, -1),
    "bond_features": lambda n: (-1, 3),
    "orbital_shares": lambda n: (n, NUM_SHARES),
}
"""Shape of a column's array for N atoms, where it is not flat; `positions` needs the number of conformers too."""

SCALAR_COLUMNS = ("id", "smiles", "num_conformers")
NEEDED_COLUMNS = frozenset((*SCALAR_COLUMNS, "positions", "conformer_source"))
"""Columns that every prepared dataset has."""

REJECTED_SCHEMA = pa.schema([("id", pa.string()), ("source_row", pa.int64()), ("reason", pa.string())])


def schema_for(
    targets: Mapping[str, str], *, particles: bool = False, units: Mapping[str, str] | None = None
) -> pa.Schema:
    """Returns the Arrow schema of a prepared dataset.

    Args:
        targets: unit of every target by name; "" where it is unknown.
        particles: the systems are charged particles: `particle_charges` in the place of `atomic_numbers`.
        units: units of list columns that differ from the usual ones.
    """
    absent = "atomic_numbers" if particles else "particle_charges"
    fields = [pa.field("id", pa.string(), nullable=False), pa.field("smiles", pa.string())]
    fields.append(pa.field("num_conformers", pa.uint8(), nullable=False))
    for name, (kind, _, usual) in LIST_COLUMNS.items():
        unit = (units or {}).get(name, usual)
        if name != absent:
            fields.append(pa.field(name, pa.list_(kind), metadata={"unit": unit} if unit else None))
    fields.extend(pa.field(name, pa.float64(), metadata={"unit": unit}) for name, unit in targets.items())
    metadata = {"format_version": str(FORMAT_VERSION), "conformer_sources": json.dumps(CONFORMER_SOURCES)}
    return pa.schema(fields, metadata=metadata)


def _list_array(values: Sequence[np.ndarray | None], kind: pa.DataType, dtype: type[np.generic]) -> pa.Array:
    flat = [np.zeros(0, dtype) if value is None else np.asarray(value, dtype).reshape(-1) for value in values]
    offsets = np.zeros(len(values) + 1, np.int32)
    np.cumsum([len(value) for value in flat], out=offsets[1:])
    mask = np.array([value is None for value in values], bool)
    joined = np.concatenate(flat) if flat else np.zeros(0, dtype)
    return pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(joined, kind), type=pa.list_(kind), mask=pa.array(mask) if mask.any() else None
    )


def to_table(records: Sequence[Record], schema: pa.Schema) -> pa.Table:
    """Returns records as a table; NaN targets become nulls."""
    columns: list[pa.Array] = []
    for name in schema.names:
        if name in SCALAR_COLUMNS:
            columns.append(pa.array([getattr(record, name) for record in records], schema.field(name).type))
        elif name in LIST_COLUMNS:
            kind, dtype, _ = LIST_COLUMNS[name]
            columns.append(_list_array([getattr(record, name) for record in records], kind, dtype))
        else:
            labels = np.array([record.targets.get(name, np.nan) for record in records], np.float64)
            columns.append(pa.array(labels, pa.float64(), from_pandas=True))
    return pa.Table.from_arrays(columns, schema=schema)


def target_units(schema: pa.Schema) -> dict[str, str]:
    """Returns the unit of every target in a schema."""
    names = [name for name in schema.names if name not in SCALAR_COLUMNS and name not in LIST_COLUMNS]
    return {name: _unit(schema.field(name).metadata) for name in names}


def list_units(schema: pa.Schema) -> dict[str, str]:
    """Returns the unit of every list column that has one."""
    units = {name: _unit(schema.field(name).metadata) for name in schema.names if name in LIST_COLUMNS}
    return {name: unit for name, unit in units.items() if unit}


def _unit(metadata: Mapping[bytes, bytes] | None) -> str:
    return (metadata or {}).get(b"unit", b"").decode()


def check_targets(targets: Mapping[str, Any]) -> str | None:
    """Returns the first target whose name is a column of the format, or None."""
    return next((name for name in targets if name in SCALAR_COLUMNS or name in LIST_COLUMNS), None)
