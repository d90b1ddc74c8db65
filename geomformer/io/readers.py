"""Reading molecules from files by suffix: one `RawMolecule` per input record, lazily and in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from geomformer.errors import DataError
from geomformer.io.columns import Query, target_columns
from geomformer.io.sdf import check_sdf, read_sdf, sdf_columns
from geomformer.io.streams import check_input
from geomformer.io.tables import csv_columns, parquet_columns, read_csv, read_parquet, read_smi
from geomformer.io.xyz import XYZ_SUFFIXES, check_xyz, read_xyz, xyz_columns
from geomformer.records import RawMolecule


@dataclass(frozen=True)
class Reader:
    """How one format is read.

    Attributes:
        read: yields the records.
        columns: returns the names of the columns that the records carry.
        check: checks before reading that the columns that were asked for exist, where `read` cannot know.
    """

    read: Callable[[Path, Query], Iterator[RawMolecule]]
    columns: Callable[[Path], list[str]]
    check: Callable[[Path, Query], None] | None = None


def _no_columns(path: Path) -> list[str]:
    return []


_SDF = Reader(read_sdf, sdf_columns, check_sdf)
_CSV = Reader(read_csv, csv_columns)
_SMI = Reader(read_smi, _no_columns)

READERS: dict[str, Reader] = {
    ".smi": _SMI,
    ".smi.gz": _SMI,
    ".smiles": _SMI,
    ".csv": _CSV,
    ".csv.gz": _CSV,
    ".tsv": _CSV,
    ".tsv.gz": _CSV,
    ".sdf": _SDF,
    ".sdf.gz": _SDF,
    ".mol": _SDF,
    ".parquet": Reader(read_parquet, parquet_columns),
    **dict.fromkeys(XYZ_SUFFIXES, Reader(read_xyz, xyz_columns, check_xyz)),
}
"""Readers of molecules by suffix."""


def input_columns(path: Path) -> list[str]:
    """Returns the names of all columns that the records of `path` may carry (SDF: one pass over the text).

    Raises:
        DataError: the file is missing, a folder, empty or unreadable.
        ConfigError: the suffix is not supported.
    """
    return READERS[check_input(path, READERS)].columns(path)


def read_molecules(
    path: Path,
    *,
    smiles_column: str | None = None,
    id_column: str | None = None,
    targets: Sequence[str] = (),
    split_column: str | None = None,
) -> Iterator[RawMolecule]:
    """Reads the molecules of a file, one `RawMolecule` per input record, unreadable ones too (see its `problem`).

    Memory does not grow with the file. `columns` of a molecule are all fields of its row as they stand in the input.
    Labels whose column name ends with an energy unit (`gap_hartree`) are converted to eV and named without it (`gap`).

    Args:
        path: file of one of the kinds in `READERS`.
        smiles_column: column with the SMILES; found by name if None. No meaning for SDF and xyz.
        id_column: column or SDF property with the identifier; found by name (SDF: the title) if None.
        targets: columns with labels; an empty cell is NaN.
        split_column: column that names the row's split.

    Raises:
        DataError: the file is missing, a folder, empty or unreadable; while reading: a label is not numeric, or there
            is no record at all.
        ConfigError: the suffix is not supported, or a column does not exist.
    """
    reader = READERS[check_input(path, READERS)]
    query = Query(smiles_column, id_column, tuple(target_columns(targets)), split_column)
    if reader.check is not None:
        reader.check(path, query)
    return _nonempty(reader.read(path, query), path)


def _nonempty(molecules: Iterator[RawMolecule], path: Path) -> Iterator[RawMolecule]:
    found = False
    for molecule in molecules:
        found = True
        yield molecule
    if not found:
        raise DataError(f"Expected molecules in {path}, found no record.")
