"""Which atoms of a molecule may be exchanged: its symmetries, and the matches of one bond graph onto another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from rdkit import Chem

from geomformer.chem.features import RESONANCE_COLUMNS

_TERMINAL = (7, 8, 16)


def automorphisms(mol: Chem.Mol, features: np.ndarray, limit: int) -> np.ndarray:
    """Permutations of the atoms that leave the molecule as it is, chirality included.

    Atoms of a terminal conjugated group (carboxylate, nitro, sulfonate) count as equal although one carries the charge
    and another the double bond; apart from that only atoms with the same features are exchanged.

    Args:
        mol: sanitised molecule of N atoms.
        features: its atom features. (N, 9)
        limit: at most this many are looked for.

    Returns:
        (P, N) int64, the identity first: `positions[p]` is the same geometry with its atoms renamed.
    """
    identity = np.arange(mol.GetNumAtoms())[None]
    if mol.GetNumAtoms() < 2:
        return identity
    symmetric = _with_equal_terminals(mol)
    ranks = Chem.CanonicalRankAtoms(symmetric, breakTies=False, includeChirality=True)
    if len(set(ranks)) == len(ranks):
        return identity
    found = _matches(symmetric, symmetric, limit, chirality=True)
    if len(found) == 0:
        return identity
    exchangeable = np.delete(features, RESONANCE_COLUMNS, axis=1)
    found = found[(exchangeable[found] == exchangeable).all(axis=(1, 2))]
    rest = found[(found != identity).any(axis=1)]
    return np.concatenate([identity, rest])[:limit]


def molecule_matches(query: Chem.Mol, target: Chem.Mol, limit: int) -> np.ndarray:
    """Matches of two molecules that are the same, bond orders and chirality included. (P, N) indices into `target`."""
    if query.GetNumAtoms() != target.GetNumAtoms() or query.GetNumBonds() != target.GetNumBonds():
        return np.zeros((0, query.GetNumAtoms()), dtype=np.int64)
    found = _matches(_with_equal_terminals(query), _with_equal_terminals(target), limit, chirality=True)
    hydrogens = [np.array([a.GetTotalNumHs(includeNeighbors=True) for a in mol.GetAtoms()]) for mol in (query, target)]
    return found[(hydrogens[1][found] == hydrogens[0]).all(axis=1)] if len(found) else found


def skeleton(numbers: Sequence[int], labels: Sequence[int], bonds: Iterable[tuple[int, int]]) -> Chem.Mol:
    """A graph of elements with a label each (for example its number of hydrogens), all bonds alike."""
    graph = Chem.RWMol()
    for number, label in zip(numbers, labels, strict=True):
        atom = Chem.Atom(int(number))
        atom.SetIsotope(int(label) + 1)
        atom.SetNoImplicit(True)
        graph.AddAtom(atom)
    for begin, end in bonds:
        graph.AddBond(int(begin), int(end), Chem.BondType.SINGLE)
    return graph.GetMol()


def skeleton_matches(query: Chem.Mol, target: Chem.Mol, limit: int) -> np.ndarray:
    """Matches of two skeletons of the same size. (P, N) indices into `target`; none when they differ."""
    none = np.zeros((0, query.GetNumAtoms()), dtype=np.int64)
    if query.GetNumAtoms() != target.GetNumAtoms() or query.GetNumBonds() != target.GetNumBonds():
        return none
    kinds = [
        sorted((a.GetAtomicNum(), a.GetIsotope(), a.GetDegree()) for a in mol.GetAtoms()) for mol in (query, target)
    ]
    return _matches(query, target, limit, chirality=False) if kinds[0] == kinds[1] else none


def _matches(query: Chem.Mol, target: Chem.Mol, limit: int, chirality: bool) -> np.ndarray:
    found = target.GetSubstructMatches(query, uniquify=False, useChirality=chirality, maxMatches=limit)
    return np.array(found, dtype=np.int64).reshape(-1, query.GetNumAtoms())


def _with_equal_terminals(mol: Chem.Mol) -> Chem.Mol:
    """Returns the molecule with the ends of each terminal conjugated group made alike (or itself if it has none)."""
    groups = _terminal_groups(mol)
    if not groups:
        return mol
    alike = Chem.RWMol(mol)
    for center, ends in groups:
        for end in ends:
            alike.GetAtomWithIdx(end).SetFormalCharge(0)
            bond = alike.GetBondBetweenAtoms(center, end)
            bond.SetBondType(Chem.BondType.ONEANDAHALF)
            bond.SetStereo(Chem.BondStereo.STEREONONE)
    return alike.GetMol()


def _terminal_groups(mol: Chem.Mol) -> list[tuple[int, list[int]]]:
    """Atoms with at least two terminal, equally hydrogenated O, N or S on bonds of different order."""
    groups = []
    ends: dict[tuple[int, int, int], list[Chem.Bond]] = {}
    for atom in mol.GetAtoms():
        if atom.GetAtomicNum() not in _TERMINAL or atom.GetTotalDegree() - atom.GetTotalNumHs(True) != 1:
            continue
        for bond in atom.GetBonds():
            other = bond.GetOtherAtom(atom)
            if other.GetAtomicNum() != 1:
                key = (other.GetIdx(), atom.GetAtomicNum(), atom.GetTotalNumHs(True))
                ends.setdefault(key, []).append(bond)
    for (center, _, _), bonds in ends.items():
        if len({bond.GetBondType() for bond in bonds}) > 1:
            groups.append((center, [bond.GetOtherAtomIdx(center) for bond in bonds]))
    return groups
