"""Frames of extxyz files (also .gz, .xz) and of ASE's own traj, read by ASE, and the relaxations they hold."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import lzma
import re
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from geomformer.errors import ConfigError, DataError, MoleculeError

if TYPE_CHECKING:
    from ase import Atoms

TRAJECTORY_SUFFIXES = (".extxyz", ".xyz", ".extxyz.gz", ".xyz.gz", ".extxyz.xz", ".xyz.xz", ".traj")
_SYSTEM = re.compile(rb'(?:^|\s)sid=(?:"([^"]*)"|(\S+))')
_LONGEST_LINE = 2**16
_MOST_ATOMS = 2**20
_T = TypeVar("_T")


@dataclass(frozen=True)
class TextFrame:
    """One frame of an extxyz file as it stands there.

    Attributes:
        place: where it begins, in bytes (of the text, decompressed).
        comment: its second line.
        text: all of it.
    """

    place: int
    comment: bytes
    text: bytes


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
    frames = ((_system_of(frame.comment), frame.place) for frame in text_frames(path))
    for name, group in groupby(frames, key=lambda frame: frame[0]):
        places = [place for _, place in group]
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
        "fixed": fixed_atoms(first),
        "y_init": _energy(first),
        "y_relaxed": _energy(last),
    }
    return fields | ({"tags": first.get_tags()} if first.has("tags") else {})


def _system_name(name: str) -> str:
    """The release calls a system both "random123" and 123."""
    return name.removeprefix("random") if re.fullmatch(r"random\d+", name) else name


def _system_of(comment: bytes) -> str:
    match = _SYSTEM.search(comment)
    return (match[1] or match[2] or b"").decode(errors="replace") if match else ""


def _opened(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path))
    if path.suffix == ".xz":
        return cast(IO[bytes], lzma.open(path))
    return path.open("rb")


def text_frames(path: Path, fewest: int = 1) -> Iterator[TextFrame]:
    """Yields the frames of an extxyz file, one in memory at a time.

    Args:
        path: the file.
        fewest: atoms that a frame must have.

    Raises:
        DataError: the file does not begin with a frame, ends early or is damaged; after the frames before that place.
    """
    place = row = 0
    try:
        with _opened(path) as handle:
            while (line := handle.readline(_LONGEST_LINE)).strip():
                if place == 0 and line.startswith(codecs.BOM_UTF8):
                    place = len(codecs.BOM_UTF8)
                    line = line[place:]
                count = int(line)
                if not fewest <= count <= _MOST_ATOMS:
                    raise ValueError(f"a frame of {count} atoms")
                lines = [line, handle.readline(_LONGEST_LINE)]
                for _ in range(count):
                    lines.append(handle.readline(_LONGEST_LINE))
                    if not lines[-1].strip():
                        raise EOFError(f"the frame at line {row + 1} ends early")
                yield TextFrame(place, lines[1], text := b"".join(lines))
                place += len(text)
                row += count + 2
            while line:
                if line.strip():
                    raise ValueError("a frame after an empty line")
                line = handle.readline(_LONGEST_LINE)
    except (OSError, EOFError, lzma.LZMAError, zlib.error, ValueError) as error:
        raise DataError(f"Expected frames of extxyz in {path}, found at line {row + 1}: {error}.") from error


def read_frame(text: bytes, path: Path) -> Atoms:
    """Returns the structure of one extxyz frame (DataError: it is damaged)."""

    def read() -> Atoms:
        from ase.io.extxyz import read_extxyz

        return next(read_extxyz(io.StringIO(text.decode())))

    return by_ase(read, path)


@contextlib.contextmanager
def trajectory(path: Path) -> Iterator[Any]:
    """Opens an ASE trajectory: an object with a length, whose items are to be read through `by_ase`.

    Raises:
        DataError: it is damaged, something else, or has no frames.
    """

    def opened() -> Any:
        from ase.io.trajectory import TrajectoryReader

        return TrajectoryReader(handle)

    with by_ase(lambda: path.open("rb"), path) as handle:
        reader = by_ase(opened, path)
        if not by_ase(lambda: len(reader), path):
            raise DataError(f"Expected frames in {path}, found none.", "Fetch it again.")
        yield reader


def by_ase(read: Callable[[], _T], path: Path) -> _T:
    """Runs a reader of ASE on what is in a file. Its warnings are dropped: what matters is checked afterwards.

    Raises:
        DataError: whatever ASE raised; the cause is kept.
        ConfigError: ASE is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read()
    except ImportError as error:
        raise ConfigError("Reading structures needs the package ase.", "Run: pip install ase") from error
    except Exception as error:  # damaged files make ASE, and what it builds on, raise many types
        reason = str(error).rstrip(".")
        raise DataError(
            f"Expected a trajectory or structure in {path}, found something else or a damaged one: {reason}."
        ) from error


def _count_frames(path: Path) -> int:
    with trajectory(path) as reader:
        return len(reader)


def _frame(relaxation: Relaxation, place: int) -> Atoms:
    path = Path(relaxation.path)
    if path.suffix == ".traj":
        with trajectory(path) as reader:
            return by_ase(lambda: reader[place], path)

    def lines() -> bytes:
        with _opened(path) as handle:
            handle.seek(place)
            count = handle.readline(_LONGEST_LINE)
            return b"".join([count, *(handle.readline(_LONGEST_LINE) for _ in range(int(count) + 1))])

    return read_frame(by_ase(lines, path), path)


def fixed_atoms(atoms: Atoms) -> np.ndarray:
    """Returns which atoms may not move in any direction. (N,) bool"""
    from ase.constraints import FixAtoms, FixCartesian, FixScaled

    fixed = np.zeros(len(atoms), bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            fixed[constraint.index] = True
        elif isinstance(constraint, FixCartesian | FixScaled) and np.all(constraint.mask):
            fixed[constraint.get_indices()] = True
    return fixed


def _energy(atoms: Atoms) -> float:
    results = atoms.calc.results if atoms.calc is not None else {}
    return float(results.get("energy", np.nan))
