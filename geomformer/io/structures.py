"""Relaxation trajectories, read by ASE: extxyz (also .gz, .xz) with one or many systems, and ASE's own traj."""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np

from geomformer.errors import ConfigError, DataError, MoleculeError

if TYPE_CHECKING:
    from ase import Atoms

TRAJECTORY_SUFFIXES = (".extxyz", ".xyz", ".extxyz.gz", ".xyz.gz", ".extxyz.xz", ".xyz.xz", ".traj")
_SYSTEM = re.compile(rb'(?:^|\s)sid=(?:"([^"]*)"|(\S+))')
_LONGEST_LINE = 2**16
_MOST_ATOMS = 2**20
_DAMAGE = (
    OSError,
    EOFError,
    lzma.LZMAError,
    zlib.error,
    struct.error,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    MemoryError,
)
"""What damaged files make ASE, and the streams below it, raise."""


@dataclass(frozen=True)
class Relaxation:
    """Where the first and the last frame of one system's trajectory are.

    Attributes:
        path: the file.
        name: `sid` of its frames without "random", else the name of the file.
        first, last: places of the frames in bytes (of the text, decompressed), or numbers of the frames (traj).
    """

    path: str
    name: str
    first: int
    last: int


def relaxations(path: Path) -> Iterator[Relaxation]:
    """Yields the systems of a file, whose frames follow one another; a change of `sid` begins the next one.

    Raises:
        DataError: the file is missing, empty, cut short, or no trajectory.
    """
    stem = path.name.split(".")[0]
    if path.suffix == ".traj":
        yield Relaxation(str(path), _system_name(stem), 0, _count_frames(path) - 1)
        return
    found = False
    for name, frames in groupby(_text_frames(path), key=lambda frame: frame[0]):
        places = [place for _, place in frames]
        found = True
        yield Relaxation(str(path), _system_name(name or stem), places[0], places[-1])
    if not found:
        raise DataError(f"Expected a trajectory in {path}, found an empty file.", "Fetch it again.")


def read_relaxation(relaxation: Relaxation) -> dict[str, Any]:
    """Returns a relaxation under the names of an OC20 record; `tags` is missing where the file has none.

    Returns:
        pos and pos_relaxed (N, 3), cell (3, 3), atomic_numbers, fixed and tags (N,), y_init and y_relaxed (eV, NaN
        without), sid.

    Raises:
        DataError: the file is damaged.
        MoleculeError: the frames are not of the same atoms.
    """
    first, last = _frame(relaxation, relaxation.first), _frame(relaxation, relaxation.last)
    if not np.array_equal(first.numbers, last.numbers):
        raise MoleculeError("unparsable", f"the first and the last frame in {relaxation.path} have different atoms")
    fields = {
        "sid": relaxation.name,
        "pos": first.positions,
        "pos_relaxed": last.positions,
        "cell": first.cell.array,
        "atomic_numbers": first.numbers,
        "fixed": _fixed(first),
        "y_init": _energy(first),
        "y_relaxed": _energy(last),
    }
    return fields | ({"tags": first.get_tags()} if first.has("tags") else {})


def _system_name(name: str) -> str:
    """The release calls a system both "random123" and 123."""
    return name.removeprefix("random") if re.fullmatch(r"random\d+", name) else name


def _opened(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path))
    if path.suffix == ".xz":
        return cast(IO[bytes], lzma.open(path))
    return path.open("rb")


def _text_frames(path: Path) -> Iterator[tuple[str, int]]:
    """Yields the system and the place of every frame of an extxyz file."""
    place = row = 0
    try:
        with _opened(path) as handle:
            while (line := handle.readline(_LONGEST_LINE)).strip():
                start = place
                count = int(line)
                if not 0 < count <= _MOST_ATOMS:
                    raise ValueError(f"a frame of {count} atoms")
                comment = handle.readline(_LONGEST_LINE)
                place += len(line) + len(comment)
                for _ in range(count):
                    atom = handle.readline(_LONGEST_LINE)
                    if not atom.strip():
                        raise EOFError(f"the frame at line {row + 1} ends early")
                    place += len(atom)
                row += count + 2
                match = _SYSTEM.search(comment)
                yield (match[1] or match[2] or b"").decode(errors="replace") if match else "", start
            while line:
                if line.strip():
                    raise ValueError("a frame after an empty line")
                line = handle.readline(_LONGEST_LINE)
    except (OSError, EOFError, lzma.LZMAError, zlib.error, ValueError) as error:
        raise DataError(f"Expected an extxyz trajectory in {path}, found at line {row + 1}: {error}.") from error


def _count_frames(path: Path) -> int:
    with _trajectory(path) as reader:
        if not len(reader):
            raise DataError(f"Expected frames in {path}, found none.", "Fetch it again.")
        return len(reader)


@contextlib.contextmanager
def _trajectory(path: Path) -> Iterator[Any]:
    """Opens an ASE trajectory; its damage, also when it is read, is a `DataError`."""
    try:
        from ase.io.trajectory import TrajectoryReader
        from ase.io.ulm import InvalidULMFileError
    except ImportError as error:
        raise _no_ase(error) from error
    try:
        with path.open("rb") as handle:
            yield TrajectoryReader(handle)
    except (*_DAMAGE, InvalidULMFileError) as error:
        raise _damaged(path, error) from error


def _frame(relaxation: Relaxation, place: int) -> Atoms:
    path = Path(relaxation.path)
    if path.suffix == ".traj":
        with _trajectory(path) as reader:
            return reader[place]
    try:
        from ase.io.extxyz import XYZError, read_extxyz
    except ImportError as error:
        raise _no_ase(error) from error
    try:
        with _opened(path) as handle:
            handle.seek(place)
            count = handle.readline(_LONGEST_LINE)
            lines = [count, *(handle.readline(_LONGEST_LINE) for _ in range(int(count) + 1))]
        return next(read_extxyz(io.StringIO(b"".join(lines).decode())))
    except (*_DAMAGE, XYZError) as error:
        raise _damaged(path, error) from error


def _fixed(atoms: Atoms) -> np.ndarray:
    from ase.constraints import FixAtoms

    fixed = np.zeros(len(atoms), bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            fixed[constraint.index] = True
    return fixed


def _energy(atoms: Atoms) -> float:
    results = atoms.calc.results if atoms.calc is not None else {}
    return float(results.get("energy", np.nan))


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"Expected a trajectory in {path}, found something else or a damaged one: {error}.")


def _no_ase(error: ImportError) -> ConfigError:
    return ConfigError("Reading trajectories needs the package ase.", "Run: pip install ase")
