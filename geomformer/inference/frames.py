"""What every frame has to be before a model reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from geomformer.errors import MoleculeError
from geomformer.io.atoms import Structure

if TYPE_CHECKING:
    from ase import Atoms

_LARGEST = 1e6
"""Angstrom; coordinates further out are damage."""


def checked_atoms(item: Structure) -> Atoms:
    """Returns the structure of a frame (MoleculeError `unparsable`: it could not be read, or see `check_numbers`)."""
    if item.atoms is None:
        raise MoleculeError("unparsable", item.problem or "the frame cannot be read")
    check_numbers(item.atoms)
    return item.atoms


def centred(atoms: Atoms) -> np.ndarray:
    """Positions counted from their mean, in float64: far from the origin float32 is coarse. (N, 3)"""
    return atoms.positions - atoms.positions.mean(0)


def check_size(atoms: Atoms, max_atoms: int | None) -> Atoms:
    """Passes a structure of at most `max_atoms` atoms (MoleculeError: `too_large`)."""
    if max_atoms is not None and len(atoms) > max_atoms:
        raise MoleculeError("too_large", f"It has {len(atoms)} atoms; the model takes up to {max_atoms}.")
    return atoms


def check_numbers(atoms: Atoms) -> None:
    """Refuses what is damaged.

    Raises:
        MoleculeError: `unparsable`.
    """
    if not len(atoms):
        raise MoleculeError("unparsable", "the frame has no atoms")
    if not ((atoms.numbers > 0) & (atoms.numbers < 119)).all():
        raise MoleculeError("unparsable", "the frame has atoms of no element")
    if not all((np.abs(array) < _LARGEST).all() for array in (atoms.positions, atoms.cell.array)):
        raise MoleculeError("unparsable", "positions or cell are not finite")
    tags = atoms.arrays.get("tags", np.zeros(len(atoms), int))
    if tags.shape != (len(atoms),) or tags.dtype.kind not in "biuf":
        raise MoleculeError("unparsable", "tags are no numbers")
