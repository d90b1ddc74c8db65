"""One split of a prepared dataset: random access through a memory-mapped file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from geomformer.errors import DataError, nearest
from geomformer.prepared.schema import LIST_COLUMNS, SHAPES, target_units
from geomformer.records import Record

_FIELDS = [name for name in LIST_COLUMNS if name not in ("positions", "conformer_source")]


class _ListColumn:
    """A list column of one Arrow batch as numpy views: flat values and offsets."""

    def __init__(self, array: pa.ListArray, name: str) -> None:
        self.offsets = array.offsets.to_numpy()
        self.values = array.values.to_numpy()
        if LIST_COLUMNS[name][1] is np.bool_:
            self.values = self.values.view(np.bool_)
        self.valid = array.is_valid().to_numpy(zero_copy_only=False) if array.null_count else None
        self.shape = SHAPES.get(name)

    def row(self, i: int, num_atoms: int) -> np.ndarray | None:
        if self.valid is not None and not self.valid[i]:
            return None
        values = self.values[self.offsets[i] : self.offsets[i + 1]]
        return values if self.shape is None else values.reshape(self.shape(num_atoms))


class _Block:
    """One Arrow batch of the mapped file. Nothing is copied; no Python object is kept per row."""

    def __init__(self, batch: pa.RecordBatch, targets: list[str]) -> None:
        self._batch = batch
        self.num_rows = batch.num_rows
        present = set(batch.schema.names)
        lists = {name: batch.column(name) for name in LIST_COLUMNS if name in present}
        self.positions = _ListColumn(lists["positions"], "positions")
        self.source = _ListColumn(lists["conformer_source"], "conformer_source")
        self.others = {
            name: _ListColumn(lists[name], name)
            for name in _FIELDS
            if name in lists and lists[name].null_count < batch.num_rows
        }
        self.ids, self.smiles = batch.column("id"), batch.column("smiles")
        self.conformers = batch.column("num_conformers").to_numpy()
        self.targets = {name: batch.column(name).to_numpy() for name in targets}

    @cached_property
    def num_atoms(self) -> np.ndarray:
        return np.diff(self.positions.offsets) // (3 * self.conformers.astype(np.int32))

    def record(self, i: int) -> Record:
        source = self.source.values[self.source.offsets[i] : self.source.offsets[i + 1]]
        positions = self.positions.values[self.positions.offsets[i] : self.positions.offsets[i + 1]]
        positions = positions.reshape(len(source), -1, 3)
        num_atoms = positions.shape[1]
        return Record(
            id=self.ids[i].as_py(),
            smiles=self.smiles[i].as_py(),
            positions=positions,
            conformer_source=source,
            targets={name: float(values[i]) for name, values in self.targets.items()},
            **{name: column.row(i, num_atoms) for name, column in self.others.items()},
        )


class PreparedSplit:
    """One split of a prepared dataset: a sequence of records, read through a memory map.

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
        try:
            self._map = pa.memory_map(str(path))
            reader = pa.ipc.open_file(self._map)
            batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"The training cache {path} is damaged: {error}.", "Delete it and try again.") from error
        self.units = target_units(reader.schema)
        self._blocks = [_Block(batch, list(self.units)) for batch in batches]
        self._starts = np.cumsum([0, *(block.num_rows for block in self._blocks)])
        self._rows = None if rows is None else _read_rows(rows, int(self._starts[-1]))

    def __reduce__(self) -> tuple[type[PreparedSplit], tuple[Path, str, Path | None]]:
        return type(self), (self.path, self.name, self.rows_path)

    def __len__(self) -> int:
        return int(self._starts[-1]) if self._rows is None else len(self._rows)

    def __getitem__(self, row: int) -> Record:
        if row < 0:
            row += len(self)
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        if self._rows is not None:
            row = int(self._rows[row])
        block = 0 if len(self._blocks) == 1 else int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._blocks[block].record(row - int(self._starts[block]))

    def __iter__(self) -> Iterator[Record]:
        return (self[row] for row in range(len(self)))

    @cached_property
    def num_atoms(self) -> np.ndarray:
        """Atoms (or particles) of every row. (R,) int32."""
        return self._chosen([block.num_atoms for block in self._blocks]).astype(np.int32)

    def _chosen(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """One value per row of the split, from the values of all rows of the blocks."""
        values = np.concatenate([*parts, np.zeros(0, parts[0].dtype if parts else np.float64)])
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
        return self._chosen([block.targets[name] for block in self._blocks])

    @property
    def ids(self) -> list[str]:
        """Identifiers of all rows, as new Python strings."""
        names = pa.chunked_array([block.ids for block in self._blocks], pa.string())
        return (names if self._rows is None else names.take(pa.array(self._rows))).to_pylist()


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
