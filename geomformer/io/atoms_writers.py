"""Writing structures by suffix: extxyz and traj frame by frame, cif and POSCAR for a single one."""

from __future__ import annotations

import gzip
import io
import lzma
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

import numpy as np

from geomformer.errors import ConfigError, DataError
from geomformer.io.atoms import structure_format
from geomformer.io.streams import suffix_of
from geomformer.io.writers import RowWriter, open_writer

if TYPE_CHECKING:
    from ase import Atoms

ATOMS_KEY = "_atoms"
"""Key of a row's structure, read by the writers of structures and ignored by the others."""

RESULTS_KEY = "_results"
"""Key of energy (eV) and forces (eV/Angstrom, (N, 3)) that were predicted for a row's structure."""

RESERVED = frozenset(
    [
        *("energy", "free_energy", "energies", "forces", "stress", "stresses", "virial", "dipole", "magmom", "magmoms"),
        *("charges", "lattice", "properties", "pbc"),
    ]
)
"""Keys of extxyz that ASE gives a meaning of its own."""

TABLE_SUFFIXES = (".csv", ".csv.gz", ".parquet", ".jsonl", ".jsonl.gz")
OUTPUT_FILES = f"extxyz, xyz, traj, cif, vasp, POSCAR or a table ({', '.join(TABLE_SUFFIXES)})"
"""What can be written, in words."""


class StructureWriter(RowWriter):
    """Writes the structure under `ATOMS_KEY` with the row's columns in its info; a row without one as no atoms.

    Cell, pbc, tags, constraints and other info are kept; results of a calculator are not, since they belong to the
    positions before. Those under `RESULTS_KEY` are written as ASE keeps them.
    """

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    self._frame(self._annotated(row))
            except OSError:
                raise
            except Exception as error:  # ASE raises many types for what a format cannot hold
                raise DataError(f"Cannot write frame {row.get('index')} to {self.path}: {error}.") from error

    def _annotated(self, row: Mapping[str, Any]) -> Atoms:
        from ase import Atoms

        given = row.get(ATOMS_KEY)
        atoms = Atoms() if given is None else given.copy()  # a copy has no calculator
        info = {key: value for key, value in atoms.info.items() if not self._is_stale(key) and _is_plain(value)}
        own = {name: _info_value(row.get(name)) for name in self.columns}
        atoms.info = info | {name: value for name, value in own.items() if value not in (None, "")}
        if results := row.get(RESULTS_KEY):
            from ase.calculators.singlepoint import SinglePointCalculator

            atoms.calc = SinglePointCalculator(atoms, **results)
        return atoms

    def _is_stale(self, key: str) -> bool:
        """Whether a key is of a prediction that the input itself came from, or of a calculation of its own: readers of
        extxyz would take it for a result, or for the cell.
        """
        return key in self.columns or key.startswith("pred_") or key.lower() in RESERVED

    @abstractmethod
    def _frame(self, atoms: Atoms) -> None:
        """Writes one structure to `partial`."""


class ExtxyzWriter(StructureWriter):
    handle: TextIO

    def _open(self) -> None:
        openers: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}
        opener = openers.get(self.path.suffix.lower(), open)
        self.handle = opener(self.partial, "wt", encoding="utf-8", newline="\n")

    def _frame(self, atoms: Atoms) -> None:
        from ase.io.extxyz import write_xyz

        atoms.info = {key: _escaped(value) for key, value in atoms.info.items()}
        if atoms.calc is not None:  # where readers of extxyz look for them
            atoms.info["energy"] = atoms.calc.results["energy"]
            atoms.arrays["forces"] = atoms.calc.results["forces"]
        others = [name for name, array in atoms.arrays.items() if name not in ("numbers", "positions") and _fits(array)]
        text = io.StringIO()
        write_xyz(text, atoms, columns=["symbols", "positions", "move_mask", *others], write_results=False)
        count, comment, *lines = text.getvalue().splitlines()
        self.handle.write(f"{count}\n{comment}\n")
        for line, place in zip(lines, atoms.positions.tolist(), strict=True):
            # ASE rounds to 8 decimals; an atom that does not move shall be read again where it was.
            symbol, _, _, _, *rest = line.split(maxsplit=4)
            self.handle.write(" ".join([f"{symbol:<2}", *(f"{number!r:>22}" for number in place), *rest]) + "\n")

    def _close(self) -> None:
        self.handle.close()


class TrajWriter(StructureWriter):
    def _open(self) -> None:
        from ase.io.trajectory import TrajectoryWriter

        self.trajectory = TrajectoryWriter(str(self.partial), "w")

    def _frame(self, atoms: Atoms) -> None:
        self.trajectory.write(atoms)

    def _close(self) -> None:
        self.trajectory.close()


class SingleWriter(StructureWriter):
    """Formats that hold one structure, without tags and info."""

    handle: BinaryIO

    def _open(self) -> None:
        self.handle = self.partial.open("wb")

    def _close(self) -> None:
        self.handle.close()


class CifWriter(SingleWriter):
    """Fractional coordinates, hence equal to the input but for rounding; no constraints."""

    def _frame(self, atoms: Atoms) -> None:
        from ase.io.cif import write_cif

        content = io.BytesIO()
        write_cif(content, atoms, wrap=False)
        self.handle.write(content.getvalue())


class VaspWriter(SingleWriter):
    """Cartesian coordinates with 16 decimals; fixed atoms by selective dynamics."""

    def _frame(self, atoms: Atoms) -> None:
        from ase.io.vasp import write_vasp

        content = io.StringIO()
        write_vasp(content, atoms)
        self.handle.write(content.getvalue().encode())


WRITERS: dict[str, Callable[[Path, Mapping[str, type]], RowWriter]] = {
    "extxyz": ExtxyzWriter,
    "traj": TrajWriter,
    "cif": CifWriter,
    "vasp": VaspWriter,
}
"""Writers of structures by format."""

SINGLE = ("cif", "vasp")
"""Formats that hold one structure and no reason for a failure."""


def output_format(path: Path) -> str:
    """Returns "table", or the format of a file of structures by its name.

    Raises:
        ConfigError: the name fits neither, or `path` is a folder.
    """
    kind = "table" if suffix_of(path) in TABLE_SUFFIXES else structure_format(path)
    if kind is None:
        raise ConfigError(f"Expected an output file of one of the kinds {OUTPUT_FILES}, found {path}.")
    if path.is_dir():
        raise ConfigError(f"Expected an output file, found the folder {path}.")
    return kind


def open_output(path: Path, columns: Mapping[str, type], info: Sequence[str]) -> RowWriter:
    """Returns a writer for `path` by its name, to be used in a `with` statement.

    Args:
        path: output file.
        columns: of a table, with their types.
        info: those that a structure carries in its info.

    Raises:
        ConfigError: see `output_format`.
    """
    kind = output_format(path)
    if kind == "table":
        return open_writer(path, columns)
    return WRITERS[kind](path, {name: columns[name] for name in info})


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | bool | int | float) or (
        isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "fibU"
    )


def _info_value(value: Any) -> Any:
    """Text in one line, which extxyz needs."""
    return " ".join(value.split()) if isinstance(value, str) else value


def _escaped(value: Any) -> Any:
    """ASE escapes quotes, but not the sign it escapes them with."""
    return _info_value(value).replace("\\", "\\\\") if isinstance(value, str) else value


def _fits(array: np.ndarray) -> bool:
    """Whether an array of values per atom can be columns of extxyz: text without blanks, numbers."""
    if array.ndim > 2 or array.dtype.kind not in "fibUSO":
        return False
    return array.dtype.kind in "fib" or all(len(str(word).split()) == 1 for word in array.ravel())
