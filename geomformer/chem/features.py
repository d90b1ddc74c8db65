"""2D graph features of atoms and bonds, with the allowed values of OGB."""

from __future__ import annotations

from typing import Any

import numpy as np
from rdkit import Chem

from geomformer.records import ATOM_FEATURE_SIZES, BOND_FEATURE_SIZES


def _indices(*values: Any) -> dict[Any, int]:
    return {value: index for index, value in enumerate(values)}


_CHIRAL_TAGS = _indices(
    Chem.ChiralType.CHI_UNSPECIFIED,
    Chem.ChiralType.CHI_TETRAHEDRAL_CW,
    Chem.ChiralType.CHI_TETRAHEDRAL_CCW,
    Chem.ChiralType.CHI_TRIGONALBIPYRAMIDAL,
    Chem.ChiralType.CHI_OCTAHEDRAL,
    Chem.ChiralType.CHI_SQUAREPLANAR,
)
_HYBRIDISATIONS = _indices(
    Chem.HybridizationType.SP,
    Chem.HybridizationType.SP2,
    Chem.HybridizationType.SP3,
    Chem.HybridizationType.SP3D,
    Chem.HybridizationType.SP3D2,
)
_BOND_TYPES = _indices(Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE, Chem.BondType.AROMATIC)
_BOND_STEREO = _indices(
    Chem.BondStereo.STEREONONE,
    Chem.BondStereo.STEREOZ,
    Chem.BondStereo.STEREOE,
    Chem.BondStereo.STEREOCIS,
    Chem.BondStereo.STEREOTRANS,
    Chem.BondStereo.STEREOANY,
)
_NUMBER, _CHIRAL, _DEGREE, _CHARGE, _HYDROGENS, _RADICALS, _HYBRIDISATION = range(7)
RESONANCE_COLUMNS = (_CHARGE, _HYBRIDISATION)
"""Features that differ between equal ends of a group only because one resonance form is drawn."""


def _counted(value: int, column: int, first: int = 0) -> int:
    """Index of a counted value; all that is not among the listed ones shares the last index."""
    last = ATOM_FEATURE_SIZES[column] - 1
    return value - first if 0 <= value - first < last else last


def atom_features(mol: Chem.Mol) -> np.ndarray:
    """Features of the atoms, indices from 0 as in `records.ATOM_FEATURE_SIZES`. (N, 9) uint8."""
    rows = [
        (
            _counted(atom.GetAtomicNum(), _NUMBER, first=1),
            _CHIRAL_TAGS.get(atom.GetChiralTag(), ATOM_FEATURE_SIZES[_CHIRAL] - 1),
            _counted(atom.GetTotalDegree(), _DEGREE),
            _counted(atom.GetFormalCharge(), _CHARGE, first=-5),
            _counted(atom.GetTotalNumHs(includeNeighbors=True), _HYDROGENS),
            _counted(atom.GetNumRadicalElectrons(), _RADICALS),
            _HYBRIDISATIONS.get(atom.GetHybridization(), ATOM_FEATURE_SIZES[_HYBRIDISATION] - 1),
            int(atom.GetIsAromatic()),
            int(atom.IsInRing()),
        )
        for atom in mol.GetAtoms()
    ]
    return np.array(rows, dtype=np.uint8).reshape(-1, len(ATOM_FEATURE_SIZES))


def bond_features(mol: Chem.Mol) -> tuple[np.ndarray, np.ndarray]:
    """Bonds in both directions and their features. (2, 2E) int16 and (2E, 3) uint8."""
    ends: list[tuple[int, int]] = []
    rows: list[tuple[int, int, int]] = []
    for bond in mol.GetBonds():
        begin, end = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        row = (
            _BOND_TYPES.get(bond.GetBondType(), BOND_FEATURE_SIZES[0] - 1),
            _BOND_STEREO.get(bond.GetStereo(), 0),
            int(bond.GetIsConjugated()),
        )
        ends += [(begin, end), (end, begin)]
        rows += [row, row]
    index = np.array(ends, dtype=np.int16).reshape(-1, 2).T
    return np.ascontiguousarray(index), np.array(rows, dtype=np.uint8).reshape(-1, len(BOND_FEATURE_SIZES))
