"""Puts a reference geometry into the atom order of a molecule."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from rdkit import Chem, rdBase

from geomformer.chem.molecules import CanonicalMolecule, has_geometry, read_block, with_hydrogens
from geomformer.chem.symmetry import molecule_matches, skeleton, skeleton_matches
from geomformer.errors import MoleculeError
from geomformer.records import RawMolecule

logger = logging.getLogger(__name__)

BOND_TOLERANCES = (1.3, 1.2, 1.1)
"""Two atoms are bonded when they are closer than this times the sum of their covalent radii. The generous value comes
first; across the small rings of strained cages it sees bonds that are none, and then a stricter one fits."""


@dataclass(frozen=True)
class BondedGeometry:
    """A geometry with the bonds between its atoms, all hydrogens among them.

    Attributes:
        numbers: (M,) atomic numbers.
        positions: (M, 3), Angstrom.
        bonds: (E, 2), pairs of atoms.
        mol: the molecule that the bonds came from, or None when they are derived from distances.
    """

    numbers: np.ndarray
    positions: np.ndarray
    bonds: np.ndarray
    mol: Chem.Mol | None = None


def reference_matches(
    raw: RawMolecule, canonical: CanonicalMolecule, kept: Chem.Mol, symmetries: np.ndarray, limit: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Finds how the atoms of a row's reference geometry correspond to those of its molecule.

    Args:
        raw: the row, with `reference_block` or `reference_numbers` and `reference_positions`.
        canonical: its molecule.
        kept: the molecule of the record: `canonical.mol`, or that with all hydrogens. N atoms.
        symmetries: permutations of the atoms of `kept`. (P, N)
        limit: at most this many matches are looked for.

    Returns:
        positions of the reference (M, 3) and all ways to choose the N atoms from it (Q, N), or None: the row has no
        reference, or it belongs to another molecule.
    """
    for geometry in _readings(raw):
        found = _same_molecule(geometry, kept, limit)
        if found is None and geometry.mol is None:
            first = _written_order(geometry, canonical, kept)
            found = None if first is None else first[symmetries]
        if found is None:
            found = _same_skeleton(geometry, canonical, kept, limit)
        if found is not None:
            return geometry.positions, found
    logger.debug("The reference geometry of %s does not fit its structure %s.", raw.id, canonical.smiles)
    return None


def bonds_from_distances(numbers: np.ndarray, positions: np.ndarray, tolerance: float) -> np.ndarray:
    """Bonds of bare atoms (M, 3): closer than `tolerance` covalent radii; a hydrogen has one, its shortest. (E, 2)"""
    table = Chem.GetPeriodicTable()
    radii = np.array([table.GetRcovalent(int(number)) for number in numbers])
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    bonded = distances < tolerance * (radii[:, None] + radii[None])
    np.fill_diagonal(bonded, False)
    for index in np.flatnonzero(numbers == 1):
        neighbours = np.flatnonzero(bonded[index])
        if len(neighbours) > 1:
            nearest = neighbours[np.argmin(distances[index, neighbours])]
            bonded[index] = bonded[:, index] = False
            bonded[index, nearest] = bonded[nearest, index] = True
    return np.argwhere(np.triu(bonded))


def _readings(raw: RawMolecule) -> Iterator[BondedGeometry]:
    """The reference geometry with its bonds: those of its block, else those that its distances suggest, in turn."""
    if raw.reference_block is not None:
        try:
            mol = read_block(raw.reference_block)
        except MoleculeError as error:
            logger.debug("The reference geometry of %s cannot be read: %s", raw.id, error)
            return
        if has_geometry(mol):
            yield _from_block(mol)
        return
    if raw.reference_numbers is None or raw.reference_positions is None or len(raw.reference_numbers) == 0:
        return
    numbers = np.asarray(raw.reference_numbers, dtype=np.int64)
    positions = np.asarray(raw.reference_positions, dtype=np.float64).reshape(-1, 3)
    sound = len(positions) == len(numbers) and numbers.min() >= 1 and numbers.max() <= 118
    if sound and np.isfinite(positions).all():
        for tolerance in BOND_TOLERANCES:
            yield BondedGeometry(numbers, positions, bonds_from_distances(numbers, positions, tolerance))


def _from_block(mol: Chem.Mol) -> BondedGeometry:
    mol = Chem.AddHs(mol, addCoords=True)
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    bonds = np.array([(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds()], dtype=np.int64)
    return BondedGeometry(numbers, np.array(mol.GetConformer().GetPositions()), bonds.reshape(-1, 2), mol)


def _same_molecule(geometry: BondedGeometry, kept: Chem.Mol, limit: int) -> np.ndarray | None:
    """Strict matches: bond orders, charges and chirality agree."""
    if geometry.mol is None:
        return None
    mol = geometry.mol
    for index, atom in enumerate(mol.GetAtoms()):
        atom.SetIntProp("_reference", index)
    if mol.GetNumAtoms() != kept.GetNumAtoms():
        with rdBase.BlockLogs():
            mol = Chem.RemoveHs(mol, sanitize=False)
    found = molecule_matches(kept, mol, limit)
    if len(found) == 0:
        return None
    return np.array([atom.GetIntProp("_reference") for atom in mol.GetAtoms()])[found]


def _written_order(geometry: BondedGeometry, canonical: CanonicalMolecule, kept: Chem.Mol) -> np.ndarray | None:
    """The heavy atoms in the order of the text, where elements, bonds and numbers of hydrogens confirm it. (N,)"""
    numbers = _numbers(kept)
    if (numbers == 1).any():
        return None
    heavy = np.flatnonzero(geometry.numbers != 1)
    order = canonical.order
    if len(heavy) != len(order) or order.max() >= len(heavy):
        return None
    candidate = heavy[order]
    if (geometry.numbers[candidate] != numbers).any():
        return None
    rank = np.full(len(geometry.numbers), -1)
    rank[candidate] = np.arange(len(candidate))
    bonds = rank[geometry.bonds]
    found = {tuple(sorted(pair)) for pair in bonds[(bonds >= 0).all(axis=1)].tolist()}
    expected = {tuple(sorted((b.GetBeginAtomIdx(), b.GetEndAtomIdx()))) for b in kept.GetBonds()}
    counts = _hydrogen_counts(geometry)[candidate]
    agree = found == expected and (counts == [a.GetTotalNumHs(True) for a in kept.GetAtoms()]).all()
    return candidate if agree else None


def _same_skeleton(
    geometry: BondedGeometry, canonical: CanonicalMolecule, kept: Chem.Mol, limit: int
) -> np.ndarray | None:
    """Matches by elements, bonds of any order and numbers of hydrogens."""
    if (_numbers(kept) == 1).any():
        full = with_hydrogens(canonical)
        query = skeleton(_numbers(full).tolist(), [0] * full.GetNumAtoms(), _bonds(full))
        target = skeleton(geometry.numbers.tolist(), [0] * len(geometry.numbers), geometry.bonds.tolist())
        found = skeleton_matches(query, target, limit)[:, : kept.GetNumAtoms()]
        return found if len(found) else None
    heavy = np.flatnonzero(geometry.numbers != 1)
    rank = np.full(len(geometry.numbers), -1)
    rank[heavy] = np.arange(len(heavy))
    bonds = rank[geometry.bonds]
    counts = _hydrogen_counts(geometry)[heavy]
    query = skeleton(_numbers(kept).tolist(), [a.GetTotalNumHs(True) for a in kept.GetAtoms()], _bonds(kept))
    target = skeleton(geometry.numbers[heavy].tolist(), counts.tolist(), bonds[(bonds >= 0).all(axis=1)].tolist())
    found = skeleton_matches(query, target, limit)
    return heavy[found] if len(found) else None


def _hydrogen_counts(geometry: BondedGeometry) -> np.ndarray:
    counts = np.zeros(len(geometry.numbers), dtype=np.int64)
    for begin, end in geometry.bonds.tolist():
        counts[begin] += geometry.numbers[end] == 1
        counts[end] += geometry.numbers[begin] == 1
    return counts


def _numbers(mol: Chem.Mol) -> np.ndarray:
    return np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])


def _bonds(mol: Chem.Mol) -> list[tuple[int, int]]:
    return [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds()]
