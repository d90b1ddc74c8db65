"""Closed-shell molecules that are written with unpaired electrons.

Bonds that a program sees in coordinates may be drawn as those of a diradical: `CCS[C]1N=C(O)[CH]C(=N1)C` is a
pyrimidine. A tenth of PCQM4Mv2's validation rows are written so. The electrons pair along a chain of alternating
bonds, of which every second one gains an order and the others lose one, x-a=b-y to x=a-b=y, or through the lone pair
of an atom between them: x-N-O to x=[N+]-[O-], O-S-O to O=S=O. Both give another Lewis structure of the same molecule.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence

from rdkit import Chem

MIN_LINEAR_RING = 8
"""Smaller rings have no place for an atom with a triple or two double bonds."""
MAX_UNPAIRED = 32
"""More are no slip of a program, and the search would take seconds."""

_ORDERS = (Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE)


def num_unpaired(mol: Chem.Mol) -> int:
    return sum(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())


def paired(mol: Chem.Mol) -> Chem.Mol:
    """Pairs what unpaired electrons it can, those along the shortest chain first, those through lone pairs last. Atoms,
    hydrogens and the net charge stay; single radicals, carbenes and electrons without such a way do, too. A molecule
    in which nothing pairs is returned itself.
    """
    unpaired = num_unpaired(mol)
    if not 2 <= unpaired <= MAX_UNPAIRED:
        return mol
    closed = Chem.RWMol(mol)
    try:
        Chem.Kekulize(closed, clearAromaticFlags=True)
        pair_all(closed)
        Chem.SanitizeMol(closed)
    except (Chem.KekulizeException, Chem.MolSanitizeException):
        return mol
    Chem.AssignStereochemistry(closed, cleanIt=True, force=True)
    return closed.GetMol() if num_unpaired(closed) < unpaired else mol


def pair_all(mol: Chem.RWMol) -> None:
    while (chain := shortest_chain(mol)) is not None:
        shift(mol, chain)
        for end in (chain[0], chain[-1]):
            spend(mol.GetAtomWithIdx(end))
    for centre in mol.GetAtoms():
        if centre.GetFormalCharge() == 0 and centre.GetNumRadicalElectrons() == 0:
            if centre.GetSymbol() == "S":
                pair_at_sulfur(mol, centre)
            elif centre.GetSymbol() == "N":
                pair_at_nitrogen(mol, centre)


def shortest_chain(mol: Chem.Mol) -> tuple[int, ...] | None:
    """Atoms from one unpaired electron to another. Equally long chains are told apart by `ranks`."""
    ranked = ranks(mol)
    starts = sorted((a.GetIdx() for a in mol.GetAtoms() if a.GetNumRadicalElectrons()), key=ranked.__getitem__)
    found = [chain for start in starts if (chain := chain_from(mol, start, ranked)) is not None]
    return min(found, key=len, default=None)


def ranks(mol: Chem.Mol) -> list[int]:
    """The canonical ranks of atoms, which mirror images share."""
    return list(Chem.CanonicalRankAtoms(mol, includeChirality=False))


def chain_from(mol: Chem.Mol, start: int, ranked: Sequence[int]) -> tuple[int, ...] | None:
    """The first of the shortest chains from an atom to an unpaired electron, in the order of ranks."""
    waiting: deque[tuple[int, ...]] = deque([(start,)])
    seen = {(start, 0)}
    while waiting:
        chain = waiting.popleft()
        rises = len(chain) % 2 == 1
        for atom in sorted(neighbours(mol, chain[-1], rises), key=ranked.__getitem__):
            if atom in chain or (atom, len(chain) % 2) in seen:
                continue
            seen.add((atom, len(chain) % 2))
            longer = (*chain, atom)
            if rises and mol.GetAtomWithIdx(atom).GetNumRadicalElectrons() and fits(mol, longer):
                return longer
            waiting.append(longer)
    return None


def neighbours(mol: Chem.Mol, atom: int, rises: bool) -> Iterator[int]:
    """Atoms whose bond to this one can gain an order, or lose one."""
    allowed = _ORDERS[:2] if rises else _ORDERS[1:]
    for bond in mol.GetAtomWithIdx(atom).GetBonds():
        if bond.GetBondType() in allowed:
            yield bond.GetOtherAtomIdx(atom)


def shift(mol: Chem.RWMol, chain: Sequence[int]) -> None:
    """Bonds gain and lose an order in turn."""
    for place, (a, b) in enumerate(itertools.pairwise(chain)):
        change_order(mol.GetBondBetweenAtoms(a, b), 1 if place % 2 == 0 else -1)


def pair_at_sulfur(mol: Chem.RWMol, centre: Chem.Atom) -> None:
    """O-S-O to O=S=O"""
    ends = [atom for atom in unpaired_neighbours(mol, centre) if atom.GetSymbol() == "O"]
    if len(ends) == 2:
        for end in ends:
            change_order(mol.GetBondBetweenAtoms(centre.GetIdx(), end.GetIdx()), 1)
            spend(end)


def pair_at_nitrogen(mol: Chem.RWMol, centre: Chem.Atom) -> None:
    """x-N-O to x=[N+]-[O-] (nitrones), x-N=N to x=[N+]=[N-] (diazo compounds), at the end of a chain, too."""
    for end in unpaired_neighbours(mol, centre):
        if end.GetSymbol() not in ("O", "N") or end.GetDegree() > 1:
            continue
        spend(end)
        chain = chain_from(mol, centre.GetIdx(), ranks(mol))
        if chain is None:
            end.SetNumRadicalElectrons(1)
            continue
        shift(mol, chain)
        spend(mol.GetAtomWithIdx(chain[-1]))
        centre.SetFormalCharge(1)
        end.SetFormalCharge(-1)
        return


def unpaired_neighbours(mol: Chem.Mol, centre: Chem.Atom) -> list[Chem.Atom]:
    """In the order of `ranks`."""
    ranked = ranks(mol)
    ends = [atom for atom in centre.GetNeighbors() if atom.GetNumRadicalElectrons() == 1]
    return sorted(ends, key=lambda atom: ranked[atom.GetIdx()])


def change_order(bond: Chem.Bond, by: int) -> None:
    bond.SetBondType(_ORDERS[_ORDERS.index(bond.GetBondType()) + by])
    bond.SetStereo(Chem.BondStereo.STEREONONE)


def spend(atom: Chem.Atom) -> None:
    """One unpaired electron less."""
    atom.SetNumRadicalElectrons(atom.GetNumRadicalElectrons() - 1)


def fits(mol: Chem.Mol, chain: Sequence[int]) -> bool:
    """Whether no small ring gets an atom with a triple or two double bonds."""
    changed = Chem.RWMol(mol)
    shift(changed, chain)
    rings = mol.GetRingInfo()
    for index in chain:
        orders = [bond.GetBondType() for bond in changed.GetAtomWithIdx(index).GetBonds()]
        linear = len(orders) == 2 and (_ORDERS[2] in orders or orders.count(_ORDERS[1]) == 2)
        if linear and rings.NumAtomRings(index) > 0 and rings.MinAtomRingSize(index) < MIN_LINEAR_RING:
            return False
    return True
