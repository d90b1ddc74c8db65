"""Hashes of atom environments: what stands around a heavy atom, as one number per radius.

The hash of radius 0 is the atom's own kind, that of radius r adds the kinds, at radius r - 1, of what the atom is bound
to. Hashed are element, degree, charge, hydrogens, radical electrons, aromaticity, rings and bond orders; stereo and
hybridisation are not. It is arithmetic on the 2D graph that a record carries, the same in every version of RDKit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rdkit import Chem

from geomformer.chem.features import atom_features, bond_features
from geomformer.records import Record

MAX_RADIUS = 2
_HASHED = (0, 2, 3, 4, 5, 7, 8)
"""Columns of the atom features that make an atom's kind: all but chirality and hybridisation."""
_CHARGE, _RADICALS = 3, 5
LOWEST_CHARGE = -5
"""What index 0 of the feature "formal charge" stands for."""
_SEED = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


@dataclass(frozen=True)
class Environments:
    """Environments of the heavy atoms of several molecules. A atoms in all.

    Attributes:
        hashes: by radius from 0. (MAX_RADIUS + 1, A) uint32
        molecule: position of each atom's molecule. (A,) int64
        charges: net charge of each molecule. (M,) int64
        unpaired: whether it has atoms with unpaired electrons. (M,) bool
    """

    hashes: np.ndarray
    molecule: np.ndarray
    charges: np.ndarray
    unpaired: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Heavy atoms of each molecule. (M,) int64"""
        return np.bincount(self.molecule, minlength=len(self.charges))


def environments(records: Sequence[Record]) -> Environments:
    """Hashes the environments of all heavy atoms of the records.

    Records without a 2D graph are read from their SMILES; those without that have no environments.
    """
    if not records:
        nothing = np.empty(0, np.int64)
        return Environments(np.empty((MAX_RADIUS + 1, 0), np.uint32), nothing, nothing, nothing.astype(bool))
    graphs = [_graph(record) for record in records]
    sizes = np.array([len(atoms) for atoms, _, _ in graphs], dtype=np.int64)
    molecule = np.repeat(np.arange(len(graphs)), sizes)
    starts = np.cumsum(sizes) - sizes
    ends = np.concatenate([index + start for (_, index, _), start in zip(graphs, starts, strict=True)], axis=1)
    atoms = np.concatenate([item for item, _, _ in graphs]).astype(np.uint64)
    orders = np.concatenate([item for _, _, item in graphs]).astype(np.uint64)
    heavy = atoms[:, 0] > 0
    kept = heavy[ends[0]] & heavy[ends[1]]
    hashes = _hashes(atoms, ends[:, kept], orders[kept])
    charges = np.zeros(len(graphs), dtype=np.int64)
    np.add.at(charges, molecule, atoms[:, _CHARGE].astype(np.int64) + LOWEST_CHARGE)
    unpaired = np.bincount(molecule, atoms[:, _RADICALS] > 0, len(graphs)) > 0
    return Environments((hashes[:, heavy] >> np.uint64(32)).astype(np.uint32), molecule[heavy], charges, unpaired)


def _graph(record: Record) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atom features (N, 9), bonds in both directions (2, M) and their orders (M,)."""
    if record.atom_features is not None and record.bond_index is not None and record.bond_features is not None:
        return record.atom_features, record.bond_index.astype(np.int64), record.bond_features[:, 0]
    mol = Chem.MolFromSmiles(record.smiles or "") or Chem.Mol()
    index, bonds = bond_features(mol)
    return atom_features(mol), index.astype(np.int64), bonds[:, 0]


def _hashes(atoms: np.ndarray, ends: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """(MAX_RADIUS + 1, N) uint64. Sums of mixed numbers do not depend on the order of neighbours."""
    # Features count explicit hydrogens as neighbours: the same molecule hashes alike with and without them.
    kind = np.zeros(len(atoms), dtype=np.uint64)
    for column in _HASHED:
        kind = _mix(kind + atoms[:, column])
    found = [kind]
    for _ in range(MAX_RADIUS):
        around = np.zeros_like(kind)
        np.add.at(around, ends[0], _mix(found[-1][ends[1]] + orders))
        found.append(_mix(_mix(found[-1]) + around))
    return np.stack(found)


def _mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: every bit of the input changes half of the output's."""
    values = values + _SEED
    values = (values ^ (values >> np.uint64(30))) * _FACTORS[0]
    values = (values ^ (values >> np.uint64(27))) * _FACTORS[1]
    return values ^ (values >> np.uint64(31))
