"""One split of a prepared dataset: random access through a memory-mapped file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from geomformer.errors import DataError, nearest
from geomformer.prepared.gathered import Gathered
from geomformer.prepared.mapped import ListColumn, MappedFile
from geomformer.records import NUM_ORBITALS, NUM_SHARES, Record

_GEOMETRY = ("positions", "conformer_source", "target_positions")
_SHAPES = {
    "velocities": (-1, 3),
    "forces": (-1, 3),
    "cell": (-1, 3, 3),
    "pbc": (-1, 3),
    "atom_features": (-1, 9),
    "bond_features": (-1, 3),
    "orbital_energies": (-1, 2 * NUM_ORBITALS),
    "orbital_shares": (-1, NUM_SHARES),
}


class PreparedSplit:
    """One split of a prepared dataset: a sequence of records, read through a memory map; `gather` reads many at once.

    Arrays of a record are read-only views of the file: copy what you change. Picklable: another process maps the file
    again, and the operating system shares its pages.
    """

    def __init__(self, path: Path, name: str, rows: Path | None = None) -> None:
        """Maps an Arrow file made by `cache.build_cache`.

        Args:
            path: the Arrow file.
            name: of the split.
            rows: a `.npy` file with the rows of the Arrow file that belong to the split, in its order (integers, one
                dimension); None: all of them. A path and no array, so that processes share its pages too.

        Raises:
            DataError: a file is damaged, or the rows do not fit the Arrow file.
        """
        self.path, self.name, self.rows_path = path, name, rows
        self._file = MappedFile(path)
        self.units, self.list_units = self._file.units, self._file.list_units
        self._rows = None if rows is None else _read_rows(rows, self._file.num_rows)

    def __reduce__(self) -> tuple[type[PreparedSplit], tuple[Path, str, Path | None]]:
        return type(self), (self.path, self.name, self.rows_path)

    def __len__(self) -> int:
        return self._file.num_rows if self._rows is None else len(self._rows)

    def __getitem__(self, row: int) -> Record:
        if row < 0:
            row += len(self)
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        file = self._file
        if self._rows is not None:
            row = int(self._rows[row])
        block = int(np.searchsorted(file.starts, row, side="right")) - 1
        row -= int(file.starts[block])
        fields = {name: column for name, column in file.lists.items() if name not in ("positions", "conformer_source")}
        source, positions = (file.lists[name].view(block, row, 0) for name in ("conformer_source", "positions"))
        if source is None or positions is None:
            raise DataError(f"Row {row} of {self.path} has no positions.", "Prepare the dataset again.")
        positions = positions.reshape(len(source), -1, 3)
        place = np.array([block]), np.array([row])
        return Record(
            id=file.ids[block][row].as_py(),
            smiles=file.smiles[block][row].as_py(),
            positions=positions,
            conformer_source=source,
            targets={name: float(column.take(*place)[0]) for name, column in file.targets.items()},
            **{name: column.view(block, row, positions.shape[1]) for name, column in fields.items()},
        )

    def __iter__(self) -> Iterator[Record]:
        return (self[row] for row in range(len(self)))

    def _locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)}")
        return self._file.locate(rows if self._rows is None else self._rows[rows])

    def num_conformers(self, rows: np.ndarray) -> np.ndarray:
        """Returns how many conformers rows have. (B,) int64"""
        return self._file.num_conformers.take(*self._locate(rows)).astype(np.int64)

    def gather(self, rows: np.ndarray, conformer: np.ndarray | None = None) -> Gathered:
        """Reads rows in any order, repeats allowed, without a Python object per row.

        Args:
            rows: row numbers. (B,) integers
            conformer: which of its conformers to take for each row; None: the first. (B,) integers

        Raises:
            IndexError: there is no such row, or no such conformer.
        """
        rows = np.asarray(rows, np.int64)
        place = self._locate(rows)
        conformers = self._file.num_conformers.take(*place).astype(np.int64)
        if conformer is not None and (np.any(conformer < 0) or np.any(conformer >= conformers)):
            raise IndexError("a row has no conformer of that number")
        column = self._file.lists["positions"]
        begins, lengths = column.bounds(*place)
        lengths //= conformers
        num_atoms = lengths // 3
        if conformer is not None:
            begins += conformer * lengths
        fields, lacking, num_bonds = self._fields(*place)
        return Gathered(
            index=rows,
            num_atoms=num_atoms,
            positions=column.take(begins, lengths).reshape(-1, 3),
            target_positions=self._target_positions(*place, num_atoms),
            fields=fields,
            num_bonds=num_bonds,
            lacking=lacking,
            targets={name: column.take(*place) for name, column in self._file.targets.items()},
        )

    def _fields(
        self, block: np.ndarray, row: np.ndarray
    ) -> tuple[dict[str, np.ndarray], dict[str, str], np.ndarray | None]:
        """Returns `Gathered.fields`, `lacking` and `num_bonds`."""
        fields: dict[str, np.ndarray] = {}
        lacking: dict[str, str] = {}
        num_bonds = None
        for name, column in self._file.lists.items():
            if name in _GEOMETRY:
                continue
            present = column.present(block, row)
            if present is not None and not present.all():
                if present.any():
                    first = int(np.argmin(present))
                    lacking[name] = self._file.ids[block[first]][int(row[first])].as_py()
                continue
            begins, lengths = column.bounds(block, row)
            if name == "bond_index":
                num_bonds = lengths // 2
                fields[name] = _ends_of_bonds(column, begins, num_bonds)
            else:
                fields[name] = column.take(begins, lengths).reshape(_SHAPES.get(name, -1))
        return fields, lacking, num_bonds

    def _target_positions(self, block: np.ndarray, row: np.ndarray, num_atoms: np.ndarray) -> np.ndarray | None:
        column = self._file.lists.get("target_positions")
        if column is None:
            return None
        present = column.present(block, row)
        values = column.take(*column.bounds(block, row)).reshape(-1, 3)
        if present is None or present.all():
            return values
        if not present.any():
            return None
        result = np.full((int(num_atoms.sum()), 3), np.nan, values.dtype)
        result[np.repeat(present, num_atoms)] = values
        return result

    @property
    def num_atoms(self) -> np.ndarray:
        """Atoms (or particles) of every row. (R,) int32."""
        return self._chosen(self._file.num_atoms)

    def _chosen(self, values: np.ndarray) -> np.ndarray:
        return values if self._rows is None else values[self._rows]

    @property
    def target_names(self) -> list[str]:
        return list(self.units)

    def target(self, name: str) -> np.ndarray:
        """Returns the labels of a target, NaN where there is none. (R,) float64.

        Raises:
            DataError: there is no such target.
        """
        if name not in self.units:
            raise DataError(
                f"Expected a target '{name}', found {', '.join(self.units) or 'none'}.{nearest(name, self.units)}"
            )
        return self._chosen(self._file.column(name))

    @property
    def ids(self) -> list[str]:
        """Identifiers of all rows, as new Python strings."""
        names = pa.chunked_array(self._file.ids, pa.string())
        return (names if self._rows is None else names.take(pa.array(self._rows))).to_pylist()


def _ends_of_bonds(column: ListColumn, begins: np.ndarray, num_bonds: np.ndarray) -> np.ndarray:
    """A row stores the first atoms of its bonds and then the second ones. (2, M)"""
    both = np.stack([begins, begins + num_bonds])
    return column.take(both.ravel(), np.tile(num_bonds, 2)).reshape(2, -1)


def _read_rows(path: Path, num_rows: int) -> np.ndarray:
    """Maps a file of row numbers. (R,) integers"""
    try:
        rows = np.lib.format.open_memmap(path, mode="r").view(np.ndarray)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"Cannot read the rows of a split in {path}: {error}.", "Prepare the dataset again.") from error
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise DataError(
            f"Expected row numbers in {path}, found {rows.dtype} of shape {rows.shape}.", "Prepare the dataset again."
        )
    if len(rows) and (rows.min() < 0 or rows.max() >= num_rows):
        raise DataError(
            f"Expected row numbers from 0 to {num_rows - 1} in {path}, found {rows.min()} to {rows.max()}.",
            "Prepare the dataset again.",
        )
    return rows
