"""The forms in which QM9 is found: the official xyz archive, a folder of its files, gdb9.sdf with its csv, Parquet.

Source: Ramakrishnan, Dral, Rupp, von Lilienfeld, Sci. Data 1, 140022 (2014).
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from geomformer.datasets.raw.archives import tar_members
from geomformer.datasets.raw.download import entries
from geomformer.elements import ATOMIC_NUMBERS
from geomformer.errors import DataError
from geomformer.io.sdf import records, split_record
from geomformer.records import RawMolecule
from geomformer.units import HARTREE_IN_EV

HIGHEST_ID = 133_885
ARCHIVE = "dsgdb9nsd.xyz.tar.bz2"
UNCHARACTERIZED = "uncharacterized.txt"
MAX_MEMBER = 2**20
"""Bytes of a single xyz file; real ones are below 4 KiB."""

UNITS = {
    "gap": "ev",
    "homo": "ev",
    "lumo": "ev",
    "mu": "debye",
    "alpha": "bohr3",
    "zpve": "ev",
    "u0": "ev",
    "u298": "ev",
    "h298": "ev",
    "g298": "ev",
    "r2": "bohr2",
    "cv": "cal_molk",
}
"""Unit of every label as stored. Thermochemical energies are total energies, not atomisation energies."""

_XYZ_PROPERTIES = ("mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "u0", "u298", "h298", "g298", "cv")
_MEMBER = re.compile(r"(?:\./)?(?:[\w-][\w.-]*/)?dsgdb9nsd_(\d{6})\.xyz")


class Source(Protocol):
    """One form of QM9.

    Attributes:
        files: what it is read from.
    """

    files: list[Path]

    def ids(self) -> np.ndarray: ...

    def rows(self) -> Iterator[tuple[int, RawMolecule]]: ...


def _labels(values: dict[str, float]) -> dict[str, float]:
    """Converts the energies among labels from Hartree to eV."""
    return {name: value * (HARTREE_IN_EV if UNITS[name] == "ev" else 1.0) for name, value in values.items()}


def _number(text: str) -> float:
    """Reads a number, also in the notation `6.2*^-6` that some files use."""
    return float(text.replace("*^", "e"))


def parse_xyz(text: str, index: int, where: str) -> tuple[int, RawMolecule]:
    """Returns the gdb id and the molecule of one official xyz file.

    Raises:
        DataError: the text is not such a file.
    """
    lines = text.splitlines()
    try:
        count = int(lines[0])
        words = lines[1].split()
        gdb_id = int(words[1])
        values = [_number(word) for word in words[5:17]]
        atoms = [line.split() for line in lines[2 : 2 + count]]
        numbers = np.array([ATOMIC_NUMBERS[atom[0]] for atom in atoms], np.uint8)
        positions = np.array([[_number(word) for word in atom[1:4]] for atom in atoms], np.float64)
        smiles = lines[3 + count].split()[0]
        labels = _labels(dict(zip(_XYZ_PROPERTIES, values, strict=True)))
        if len(atoms) != count or positions.shape != (count, 3):
            raise ValueError(f"{count} atoms announced, {len(atoms)} found")
    except (ValueError, IndexError, KeyError) as error:
        raise DataError(f"Expected a QM9 xyz file, found something else in {where}: {error!r}.") from error
    return gdb_id, RawMolecule(
        index=index,
        id=f"gdb_{gdb_id}",
        text=smiles,
        targets=labels,
        reference_numbers=numbers,
        reference_positions=positions,
    )


class XyzArchive:
    """The official archive, read member by member; nothing is extracted."""

    def __init__(self, path: Path) -> None:
        self.files = [path]

    def ids(self) -> np.ndarray:
        found: list[int] = []

        def note(name: str) -> bool:
            member = _MEMBER.fullmatch(name)
            if member is None:
                raise DataError(f"Expected only dsgdb9nsd_NNNNNN.xyz in {self.files[0]}, found '{name}'.")
            found.append(int(member[1]))
            return False

        for _ in tar_members(self.files[0], note):
            pass
        return np.array(found, np.int64)

    def rows(self) -> Iterator[tuple[int, RawMolecule]]:
        path = self.files[0]
        for index, (name, handle, size) in enumerate(tar_members(path, lambda name: True)):
            if size > MAX_MEMBER:
                raise DataError(f"Expected small files in {path}, found {name}: {size} bytes.")
            yield parse_xyz(handle.read().decode("ascii", "replace"), index, f"{path}:{name}")


class XyzFolder:
    """A folder with the unpacked xyz files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = sorted(path.glob("dsgdb9nsd_*.xyz"))

    def ids(self) -> np.ndarray:
        return np.array([int(path.stem.rsplit("_", 1)[1]) for path in self.files], np.int64)

    def rows(self) -> Iterator[tuple[int, RawMolecule]]:
        for index, path in enumerate(self.files):
            yield parse_xyz(path.read_text(encoding="ascii", errors="replace"), index, str(path))


class SdfWithCsv:
    """`gdb9.sdf` (geometries) and `gdb9.sdf.csv` (labels), in the same order."""

    def __init__(self, path: Path) -> None:
        table = path.with_name(path.name + ".csv")
        if not table.exists():
            raise DataError(f"Expected the labels of {path} in {table}, found nothing.", "Put the csv beside the SDF.")
        self.files = [path, table]

    def _table(self) -> Iterator[tuple[int, dict[str, float]]]:
        with self.files[1].open(newline="", encoding="utf-8") as handle:
            for number, row in enumerate(csv.DictReader(handle)):
                try:
                    values = {name: float(row[name]) for name in UNITS if name in row}
                    yield int(row["mol_id"].removeprefix("gdb_")), _labels(values)
                except (KeyError, ValueError, TypeError, AttributeError) as error:
                    raise DataError(f"Row {number} of {self.files[1]} is not one of QM9's: {error!r}.") from error

    def ids(self) -> np.ndarray:
        return np.array([gdb_id for gdb_id, _ in self._table()], np.int64)

    def rows(self) -> Iterator[tuple[int, RawMolecule]]:
        blocks = records(self.files[0])
        for index, (gdb_id, labels) in enumerate(self._table()):
            text, problem = next(blocks, ("", None))
            block = split_record(text)[0]
            title = block.split("\n", 1)[0].strip()
            if title != f"gdb_{gdb_id}":
                raise DataError(f"Expected gdb_{gdb_id} as record {index} of {self.files[0]}, found '{title}'.")
            raw = RawMolecule(index, f"gdb_{gdb_id}", block, "mol", targets=labels, problem=problem)
            raw.reference_block = block
            yield gdb_id, raw


class ParquetTable:
    """A table with gdb_id, smiles, atomic_numbers, positions (flat, Angstrom) and labels with their unit suffixes."""

    def __init__(self, path: Path) -> None:
        self.files = [path]
        try:
            names = set(pq.read_schema(path).names)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"Expected a Parquet file at {path}: {error}.") from error
        needed = {"gdb_id", "smiles", "atomic_numbers", "positions"}
        if not needed <= names:
            raise DataError(f"Expected the columns {', '.join(sorted(needed))} in {path}, found {', '.join(names)}.")
        self._columns = {name: f"{name}_{unit}" for name, unit in UNITS.items() if f"{name}_{unit}" in names}
        self._needed = [*sorted(needed), *self._columns.values()]

    def ids(self) -> np.ndarray:
        return pq.read_table(self.files[0], columns=["gdb_id"]).column("gdb_id").to_numpy().astype(np.int64)

    def rows(self) -> Iterator[tuple[int, RawMolecule]]:
        index = 0
        with pq.ParquetFile(self.files[0]) as file:
            for batch in file.iter_batches(batch_size=1024, columns=self._needed):
                numbers, positions = batch.column("atomic_numbers"), batch.column("positions")
                scalars = batch.select(["gdb_id", "smiles", *self._columns.values()]).to_pylist()
                for i, row in enumerate(scalars):
                    values = {name: row[column] for name, column in self._columns.items()}
                    yield (
                        row["gdb_id"],
                        RawMolecule(
                            index=index,
                            id=f"gdb_{row['gdb_id']}",
                            text=row["smiles"],
                            targets={name: math.nan if value is None else value for name, value in values.items()},
                            reference_numbers=numbers[i].values.to_numpy(),
                            reference_positions=positions[i].values.to_numpy().reshape(-1, 3),
                        ),
                    )
                    index += 1


def uncharacterized(path: Path) -> set[int]:
    """Returns the gdb ids in the official list of molecules that failed the consistency check."""
    ids = set()
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        words = line.split()
        if len(words) >= 3 and words[0].isdigit() and "compound" not in line.lower():
            ids.add(int(words[0]))
    return ids


def open_source(paths: Sequence[Path]) -> tuple[Source, Path | None]:
    """Returns the form of QM9 that is found at `paths`, and the list of uncharacterised molecules where there is one.

    Raises:
        DataError: there is none.
    """
    candidates: list[Path] = []
    for path in paths:
        candidates.extend([path, *entries(path)] if path.is_dir() else [path])
    excluded = next((path for path in candidates if path.name == UNCHARACTERIZED), None)
    for path in candidates:
        source = _source(path)
        if source is not None:
            return source, excluded
    raise DataError(
        f"Expected QM9 ({ARCHIVE}, a folder of its xyz files, gdb9.sdf with gdb9.sdf.csv, or a Parquet table), found "
        f"{_found(candidates)}.",
        "Name it with --raw.",
    )


def _source(path: Path) -> Source | None:
    name = path.name.lower()
    if path.is_dir():
        return XyzFolder(path) if next(path.glob("dsgdb9nsd_*.xyz"), None) is not None else None
    if not path.exists():
        return None
    if ".tar" in name or name.endswith(".tgz"):
        return XyzArchive(path)
    if name.endswith(".parquet"):
        return ParquetTable(path)
    return SdfWithCsv(path) if name.endswith(".sdf") else None


def _found(paths: Iterable[Path]) -> str:
    names = [f"{path}{'' if path.exists() else ' (missing)'}" for path in paths]
    return ", ".join(names[:5]) or "nothing"
