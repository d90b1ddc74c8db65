"""Elements of a molecule, to tell whether two descriptions can be of the same one."""

from __future__ import annotations

from collections import Counter

from rdkit import Chem, rdBase

Composition = dict[str, int]
"""Number of atoms by element symbol, hydrogens included."""


def smiles_composition(smiles: str) -> Composition | None:
    """Counts the atoms of a SMILES with the hydrogens it implies; None if it cannot be read.

    It need not be sound: five bonds on a carbon are no obstacle.
    """
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles, sanitize=False)
    if mol is None:
        return None
    mol.UpdatePropertyCache(strict=False)
    counts = Counter(atom.GetSymbol() for atom in mol.GetAtoms())
    counts["H"] += sum(atom.GetTotalNumHs() for atom in mol.GetAtoms())
    return {symbol: count for symbol, count in counts.items() if count}


def block_composition(block: str) -> Composition | None:
    """Counts the atoms that stand in a mol block, no others; None if it cannot be read."""
    with rdBase.BlockLogs():
        try:
            mol = Chem.MolFromMolBlock(block, sanitize=False, removeHs=False)
        except (RuntimeError, ValueError):
            return None
    return None if mol is None else dict(Counter(atom.GetSymbol() for atom in mol.GetAtoms()))


def formula(composition: Composition | None) -> str:
    """Returns the formula as text, carbon and hydrogen first: {"H": 4, "C": 1} is "CH4"."""
    if composition is None:
        return "unreadable"
    order = sorted(composition, key=lambda symbol: (symbol != "C", symbol != "H", symbol))
    return "".join(f"{symbol}{composition[symbol] if composition[symbol] > 1 else ''}" for symbol in order)
