"""Columns of a memory-mapped Arrow file, addressed by row of the whole file.

An Arrow file is a sequence of blocks of rows, and random rows lie in many of them. All buffers of all blocks lie in one
mapped file, though: seen as one array per number type, with the place where each block's buffer begins, any rows are
read by one indexing operation, however many blocks there are. Places are 64-bit, so a file may have any length.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from geomformer.errors import DataError
from geomformer.prepared.schema import LIST_COLUMNS, SHAPES, list_units, target_units


def ragged_index(begins: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns begin, begin + 1, ..., begin + length - 1 of every stretch, one stretch after the other. int64"""
    ends = np.cumsum(lengths)
    return np.repeat(begins - ends + lengths, lengths) + np.arange(ends[-1] if len(ends) else 0)


class _File:
    """The bytes of a mapped file as arrays."""

    def __init__(self, mapped: pa.MemoryMappedFile) -> None:
        self.bytes = np.frombuffer(mapped.read_buffer(), np.uint8)

    def array(self, kind: np.dtype | type[np.generic]) -> np.ndarray:
        """The whole file as numbers of one type."""
        size = np.dtype(kind).itemsize
        return self.bytes[: len(self.bytes) // size * size].view(kind)

    def place(self, part: np.ndarray) -> int:
        """Where an array that lies in the file begins, in numbers of its type. Arrow aligns buffers to 8 bytes."""
        if not part.size:
            return 0
        return (part.__array_interface__["data"][0] - self.bytes.__array_interface__["data"][0]) // part.itemsize


class ScalarColumn:
    """One number per row."""

    def __init__(self, file: _File, arrays: list[pa.Array], kind: type[np.generic]) -> None:
        self._values = file.array(kind)
        self._begins = np.array([file.place(array.to_numpy()) for array in arrays], np.int64)

    def take(self, block: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Returns the numbers of rows. (B,)

        Args:
            block: number of each row's block. (B,)
            row: position in that block. (B,)
        """
        return self._values[self._begins[block] + row]


class ListColumn:
    """One list per row."""

    def __init__(self, file: _File, arrays: list[pa.ListArray], name: str) -> None:
        kind = LIST_COLUMNS[name][1]
        self._shape = SHAPES.get(name)
        self._values, self._offsets, self._bytes = file.array(kind), file.array(np.int32), file.bytes
        self._value_begins = np.array([file.place(array.values.to_numpy()) for array in arrays], np.int64)
        self._offset_begins = np.array([file.place(array.offsets.to_numpy()) for array in arrays], np.int64)
        self._has_nulls = any(array.null_count for array in arrays)
        # the place of each block's bits that say which rows are there; 0, which no buffer has: all are
        self._bit_begins = np.array([self._bits(file, array) for array in arrays], np.int64)

    @staticmethod
    def _bits(file: _File, array: pa.ListArray) -> int:
        bits = array.buffers()[0] if array.null_count else None
        return 0 if bits is None else file.place(np.frombuffer(bits, np.uint8))

    def bounds(self, block: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns where the lists of rows begin in the whole file, and their lengths. (B,), (B,) int64"""
        place = self._offset_begins[block] + row
        begins = self._offsets[place].astype(np.int64)
        return self._value_begins[block] + begins, self._offsets[place + 1] - begins

    def take(self, begins: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Returns lists one after the other. (sum of lengths,)"""
        return self._values[ragged_index(begins, lengths)]

    def present(self, block: np.ndarray, row: np.ndarray) -> np.ndarray | None:
        """Returns which rows have a list; None if all rows of the file have. (B,) bool"""
        if not self._has_nulls:
            return None
        begins = self._bit_begins[block]
        return (begins == 0) | ((self._bytes[begins + (row >> 3)] >> (row & 7)) & 1 > 0)

    def view(self, block: int, row: int, num_atoms: int) -> np.ndarray | None:
        """Returns the list of one row in its shape, not copied."""
        bits = int(self._bit_begins[block])
        if bits and not self._bytes[bits + (row >> 3)] >> (row & 7) & 1:
            return None
        place, begin = int(self._offset_begins[block]) + row, int(self._value_begins[block])
        values = self._values[begin + int(self._offsets[place]) : begin + int(self._offsets[place + 1])]
        return values if self._shape is None else values.reshape(self._shape(num_atoms))


class MappedFile:
    """A file made by `cache.build_cache`. Nothing of it is copied, and no Python object is kept per row.

    Attributes:
        starts: first row of every block, and the number of rows. (K + 1,) int64
        units, list_units: unit of every target, and of the list columns that have one.
        lists: list columns in which any row has a value.
        targets: by name, NaN where there is no label.
    """

    def __init__(self, path: Path) -> None:
        """Maps the file.

        Raises:
            DataError: it is damaged.
        """
        try:
            self._map = pa.memory_map(str(path))
            reader = pa.ipc.open_file(self._map)
            self._batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
            file = _File(self._map)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"The training cache {path} is damaged: {error}.", "Delete it and try again.") from error
        self.starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])
        self.units, self.list_units = target_units(reader.schema), list_units(reader.schema)
        parts = {name: [batch.column(name) for batch in self._batches] for name in reader.schema.names}
        self.ids, self.smiles = parts["id"], parts["smiles"]
        self.lists = {
            name: ListColumn(file, parts[name], name)
            for name in LIST_COLUMNS
            if name in parts and sum(part.null_count for part in parts[name]) < self.num_rows
        }
        self.num_conformers = ScalarColumn(file, parts["num_conformers"], np.uint8)
        self.targets = {name: ScalarColumn(file, parts[name], np.float64) for name in self.units}

    @property
    def num_rows(self) -> int:
        return int(self.starts[-1])

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the block of every row and the position there. (B,), (B,) int64"""
        block = np.searchsorted(self.starts[1:], rows, side="right")
        return block, rows - self.starts[block]

    def column(self, name: str) -> np.ndarray:
        """Returns a column of one number per row. (R,)"""
        return np.concatenate([batch.column(name).to_numpy() for batch in self._batches] or [np.zeros(0)])

    @cached_property
    def num_atoms(self) -> np.ndarray:
        """Atoms (or particles) of every row. (R,) int32"""
        counts = [np.zeros(0, np.int32)]
        for batch in self._batches:
            conformers = batch.column("num_conformers").to_numpy().astype(np.int32)
            counts.append(np.diff(batch.column("positions").offsets.to_numpy()) // (3 * conformers))
        return np.concatenate(counts)
