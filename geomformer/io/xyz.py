"""xyz and extended xyz, frame by frame: atoms with given coordinates and no bonds. ASE reads each frame."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geomformer.elements import SYMBOLS
from geomformer.errors import DataError
from geomformer.io.columns import ID_COLUMNS, Query, find_column
from geomformer.io.streams import TRUNCATED, TruncatedStreamError, lines
from geomformer.records import CONFORMER_SOURCES, RawMolecule, Record

if TYPE_CHECKING:
    from ase import Atoms

XYZ_SUFFIXES = (".xyz", ".xyz.gz", ".extxyz", ".extxyz.gz")
_KEY = re.compile(r"""(?:^|\s)([^\s="']+)=""")
_COUNT = re.compile("[0-9]{1,12}")
_LAYOUT = ("lattice", "properties", "pbc")
"""Keys of the comment line that are no columns."""
_DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError)
"""What damaged frames make ASE raise."""


@dataclass
class RawStructure(RawMolecule):
    """An input row that holds atoms and coordinates, `kind` "xyz".

    Attributes:
        record: the structure, without labels; None for a row with a `problem`.
    """

    record: Record | None = None


@dataclass(frozen=True)
class _Frame:
    """The text of one frame, from its count to its last atom, and why it is not whole."""

    text: str
    comment: str
    problem: str | None = None


def read_xyz(path: Path, query: Query) -> Iterator[RawMolecule]:
    """Yields the frames of an xyz or extxyz file, `.gz` or not. Columns are the single values of the comment line.

    Positions are kept as they are, in Angstrom, as are cell, pbc, tags, fixed atoms (`move_mask`) and forces, which
    extxyz holds in eV/Angstrom. An `energy` without a unit in its name is left as it is, like every column.

    Raises:
        DataError: the file does not begin with a number of atoms, or a label is not numeric.
    """
    for index, frame in enumerate(_frames(path)):
        record, values, problem = _parsed(frame)
        columns = {name: str(values[name]) for name in _KEY.findall(frame.comment) if _is_single(values.get(name))}
        names = list(columns)
        name_column = query.id_column or find_column(ID_COLUMNS, names)
        name = columns.get(name_column, "").strip() if name_column else ""
        if record is not None:
            record.id = name or str(index)
        yield RawStructure(
            index=index,
            id=name or str(index),
            text="",
            kind="xyz",
            columns=dict(columns),
            targets=query.labels(columns, path, index),
            split=query.split_of(columns),
            problem=problem,
            record=record,
        )


def xyz_columns(path: Path) -> list[str]:
    """Returns the keys of all comment lines, in order of appearance, in one pass over the text."""
    names: dict[str, None] = {}
    for frame in _frames(path):
        names.update(dict.fromkeys(name for name in _KEY.findall(frame.comment) if name.lower() not in _LAYOUT))
    return list(names)


def check_xyz(path: Path, query: Query) -> None:
    """Checks that the keys that were asked for occur in the file.

    Raises:
        ConfigError: one is nowhere.
    """
    if query.id_column or query.split_column or query.targets:
        query.check(xyz_columns(path), path)


def _frames(path: Path) -> Iterator[_Frame]:
    """Yields all frames. After one that is not whole there is no telling where the next would begin.

    Raises:
        DataError: the file does not begin with a number of atoms.
    """
    stream = lines(path)
    number = 0
    rows: list[str] = []
    try:
        for line in stream:
            number += 1
            if not line.strip():
                continue
            if not _COUNT.fullmatch(line.strip()):
                if number == 1:
                    raise DataError(f"Expected the number of atoms in line 1 of {path}, found '{line.strip()[:40]}'.")
                yield _Frame("", "", f"expected a number of atoms in line {number}, found '{line.strip()[:40]}'")
                return
            rows = [line]
            count = int(line) + 2
            for row in stream:
                rows.append(row)
                if len(rows) == count:
                    break
            number += len(rows) - 1
            comment = rows[1] if len(rows) > 1 else ""
            short = len(rows) < count
            yield _Frame("".join(rows), comment, f"the frame ends early, in line {number}" if short else None)
    except TruncatedStreamError:
        yield _Frame("".join(rows), "", TRUNCATED)


def _parsed(frame: _Frame) -> tuple[Record | None, Mapping[str, Any], str | None]:
    """Returns the structure, the values of the comment line, and what is wrong with the frame."""
    from ase.io.extxyz import read_xyz as read_with_ase

    if frame.problem is not None:
        return None, {}, frame.problem
    try:
        atoms = next(read_with_ase(io.StringIO(frame.text), 0))
        results = {} if atoms.calc is None else atoms.calc.results
        record = _record(atoms, results)
    except _DAMAGE as error:
        return None, {}, f"the frame cannot be read: {type(error).__name__}: {error}"
    problem = _problem(record)
    return None if problem else record, {**atoms.info, **results}, problem


def _record(atoms: Atoms, results: Mapping[str, Any]) -> Record:
    periodic = bool(atoms.pbc.any()) or bool(atoms.cell.rank)
    forces = results.get("forces")
    return Record(
        id="",
        positions=atoms.positions[None].astype(np.float32),
        conformer_source=np.array([CONFORMER_SOURCES.index("given")], np.uint8),
        atomic_numbers=atoms.numbers.astype(np.uint8),
        forces=None if forces is None else np.asarray(forces, np.float32).reshape(len(atoms), 3),
        cell=atoms.cell.array.astype(np.float32) if periodic else None,
        pbc=atoms.pbc.astype(bool) if periodic else None,
        tags=atoms.get_tags().astype(np.int8) if atoms.has("tags") else None,
        fixed=_fixed(atoms),
    )


def _fixed(atoms: Atoms) -> np.ndarray | None:
    """Returns which atoms may not move in any direction, None where the frame does not say. (N,)"""
    from ase.constraints import FixAtoms, FixCartesian

    if not atoms.constraints:
        return None
    fixed = np.zeros(len(atoms), bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms) or (isinstance(constraint, FixCartesian) and constraint.mask.all()):
            fixed[constraint.get_indices()] = True
    return fixed


def _problem(record: Record) -> str | None:
    if not record.num_atoms:
        return "the frame has no atoms"
    if record.atomic_numbers is not None and not np.isin(record.atomic_numbers, list(SYMBOLS)).all():
        return "the frame has atoms of no element"
    arrays = (record.positions, record.cell, record.forces)
    if not all(np.isfinite(array).all() for array in arrays if array is not None):
        return "the frame has positions, a cell or forces that are no numbers"
    return None


def _is_single(value: Any) -> bool:
    return isinstance(value, str | bool | int | float | np.generic)
