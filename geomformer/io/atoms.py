"""Reading periodic structures as ASE's `Atoms`: one item per frame, lazily and in order, unreadable ones too.

Formats are an explicit list, none of which holds code: extxyz and xyz (also .gz and .xz), ASE's traj, cif, and POSCAR
or CONTCAR of VASP.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geomformer.errors import ConfigError, DataError
from geomformer.io.structures import TRAJECTORY_SUFFIXES, by_ase, read_frame, text_frames, trajectory

if TYPE_CHECKING:
    from ase import Atoms

STRUCTURE_SUFFIXES = (*TRAJECTORY_SUFFIXES, ".cif", ".vasp")
STRUCTURE_FILES = "extxyz, xyz (also .gz, .xz), traj, cif, vasp, POSCAR, CONTCAR"
"""What can be read, in words."""

ID_KEYS = ("id", "sid")
"""Keys of a frame that may hold its identifier, the first one first."""

_ID = re.compile(rb'(?:^|\s)(id|sid)=(?:"([^"\\]*)"|([^"\s]+))(?=\s|$)')
_VASP_NAME = re.compile(r"(POSCAR|CONTCAR)([._-].*)?", re.IGNORECASE)
_MARK = codecs.BOM_UTF8.decode("latin-1")
_CIF_BLOCK = re.compile(r"data_\S", re.IGNORECASE)
_NUMBER = re.compile(r"\s*[-+]?\.?\d")
_LARGEST = 2**26
"""Characters of a cif block or a POSCAR: those with a million atoms are smaller."""


@dataclass(frozen=True)
class Structure:
    """One frame of a file.

    Attributes:
        index: position in its file, from 0.
        id: its `id` or `sid`, empty for a frame without.
        file: name of the file.
        atoms: the frame with cell, pbc, tags, constraints and info; None for one with a problem.
        problem: why it could not be read, else None.
    """

    index: int
    id: str
    file: str
    atoms: Atoms | None = None
    problem: str | None = None


def structure_format(path: Path) -> str | None:
    """Returns "extxyz", "traj", "cif" or "vasp" by the name of a file; None for any other."""
    name = path.name.lower()
    if name.endswith((".traj", ".cif", ".vasp")):
        return name.rsplit(".", 1)[1]
    if name.endswith(TRAJECTORY_SUFFIXES):
        return "extxyz"
    return "vasp" if _VASP_NAME.fullmatch(path.name) else None


def read_structures(path: Path) -> Iterator[Structure]:
    """Reads the frames of a file, one `Structure` each. Memory does not grow with their number.

    Where a text file is damaged in its layout, what follows cannot be found: the frame with the problem is the last.

    Args:
        path: one of `STRUCTURE_FILES`.

    Raises:
        DataError: the file is missing, a folder, empty, or not what its name says.
        ConfigError: the format is none of these.
    """
    kind = check_structures(path)
    return {"extxyz": _read_text, "traj": _read_traj, "cif": _read_cif, "vasp": _read_vasp}[kind](path)


def check_structures(path: Path) -> str:
    """Checks that `path` is a file of structures that is not empty and returns its format (see `read_structures`)."""
    kind = structure_format(path)
    if not path.exists():
        raise DataError(f"Expected an input file, found nothing at {path}.", "Check the path.")
    if path.is_dir():
        raise DataError(f"Expected an input file, found the folder {path}.", "Name the file inside it.")
    if kind is None:
        raise ConfigError(f"Expected one of {STRUCTURE_FILES}, found {path}.", "Rename or convert the file.")
    if path.stat().st_size == 0:
        raise DataError(f"Expected structures in {path}, found an empty file.")
    return kind


def _read_text(path: Path) -> Iterator[Structure]:
    index = 0
    try:
        for frame in text_frames(path, fewest=0):
            # The identifier comes from the text, since ASE would make a number of 00012.
            keys = {match[1].decode(): _decoded(match[2] or match[3]) for match in _ID.finditer(frame.comment)}
            yield _item(path, index, partial(read_frame, frame.text, path), keys)
            index += 1
    except DataError as error:
        if index == 0:
            raise
        yield Structure(index, "", path.name, problem=error.message)
    if index == 0:
        raise DataError(f"Expected structures in {path}, found no frame.")


def _decoded(text: bytes | None) -> str:
    return (text or b"").decode(errors="replace")


def _read_traj(path: Path) -> Iterator[Structure]:
    with trajectory(path) as reader:
        for index in range(by_ase(partial(len, reader), path)):
            yield _item(path, index, partial(by_ase, partial(reader.__getitem__, index), path))


def _read_cif(path: Path) -> Iterator[Structure]:
    """Blocks without atoms, such as those of a publication's text, are no frames."""
    index = 0
    for text in _cif_blocks(path):
        item = _item(path, index, partial(by_ase, partial(_cif_atoms, text), path))
        if item.atoms is not None or item.problem is not None:
            yield item
            index += 1
    if index == 0:
        raise DataError(f"Expected a structure in {path}, found none.")


def _cif_blocks(path: Path) -> Iterator[str]:
    with path.open(encoding="latin-1") as handle:  # as ASE decodes it
        block: list[str] = []
        size, in_text = 0, False
        for line in iter(partial(handle.readline, 2**20), ""):
            line = line.removeprefix(_MARK)
            in_text ^= line.startswith(";")
            if not in_text and _CIF_BLOCK.match(line):
                if block:
                    yield "".join(block)
                block, size = [], 0
            elif not block:
                continue  # comments in front of the first block
            block.append(line)
            size += len(line)
            if size > _LARGEST:
                raise DataError(f"Expected a structure in {path}, found a block of more than {_LARGEST} characters.")
        if block:
            yield "".join(block)


def _cif_atoms(text: str) -> Atoms | None:
    from ase.io.cif import parse_cif

    block = next(iter(parse_cif(io.StringIO(text))))
    if not block.has_structure():
        return None
    atoms = block.get_atoms()
    occupancies = [share for site in atoms.info.get("occupancy", {}).values() for share in site.values()]
    if any(abs(share - 1.0) > 1e-3 for share in occupancies):
        raise ValueError("it is disordered: some sites are occupied in part")
    atoms.info.clear()
    if atoms.has("spacegroup_kinds"):
        del atoms.arrays["spacegroup_kinds"]
    return atoms


def _read_vasp(path: Path) -> Iterator[Structure]:
    with path.open(encoding="utf-8-sig", errors="replace") as handle:
        text = handle.read(_LARGEST)
    lines = text.splitlines()
    if len(lines) < 8 or not _NUMBER.match(lines[1]):
        raise DataError(f"Expected a POSCAR in {path}, found no scaling factor in its second line.")
    yield _item(path, 0, partial(by_ase, partial(_vasp_atoms, text, lines), path))


def _vasp_atoms(text: str, lines: list[str]) -> Atoms:
    from ase.io.vasp import read_vasp

    if lines[5].split()[0].isdecimal():
        raise ValueError("the line with the symbols of the elements is missing (VASP 4)")
    # ASE makes a list of as many atoms as are announced before it looks for them.
    if sum(int(word) for word in lines[6].split("!")[0].split() if word.isdecimal()) > len(lines):
        raise ValueError("more atoms are announced in line 7 than there are lines")
    return read_vasp(io.StringIO(text))


def _item(path: Path, index: int, read: Callable[[], Atoms | None], keys: Mapping[str, Any] | None = None) -> Structure:
    """Reads one frame; its identifier is among `keys`, or in its own info without them."""
    try:
        atoms = read()
    except DataError as error:
        problem = f"the frame cannot be read: {error.__cause__ or error}"
        return Structure(index, _name(keys or {}), path.name, problem=problem)
    if keys is None:
        keys = {} if atoms is None else atoms.info
    return Structure(index, _name(keys), path.name, atoms)


def _name(keys: Mapping[str, Any]) -> str:
    found = [str(keys[key]).strip() for key in ID_KEYS if isinstance(keys.get(key), str | int | np.integer)]
    return next((name for name in found if name and name.isprintable()), "")
