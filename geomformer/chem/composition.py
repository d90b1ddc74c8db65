"""Elements of a molecule, to tell whether two descriptions can be of the same one."""

from __future__ import annotations

import re
from collections import Counter

from rdkit import Chem, rdBase
from rdkit.Chem.rdMolDescriptors import CalcMolFormula

Composition = dict[str, int]
"""Number of atoms by element symbol, hydrogens included."""

_PART = re.compile(r"([A-Z][a-z]?|\*)(\d*)")
_SYMBOL = re.compile(r"[A-Z][a-z]?")
_HYDROGENS = ("D", "T")
"""Mol blocks write isotopes of hydrogen as elements."""


def smiles_composition(smiles: str) -> Composition | None:
    """Counts the atoms of a SMILES with the hydrogens it implies; None if it cannot be read.

    It need not be sound: five bonds on a carbon are no obstacle.
    """
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles, sanitize=False)
    if mol is None:
        return None
    mol.UpdatePropertyCache(strict=False)
    return {symbol: int(count or 1) for symbol, count in _PART.findall(CalcMolFormula(mol))}


def block_composition(block: str) -> Composition | None:
    """Counts the atoms that stand in a mol block, no others; None if they cannot be read.

    Only the atoms are looked at, as text where the block is V2000: that takes a tenth of the time of a molecule.
    """
    counts = _counted_lines(block.split("\n"))
    return counts if counts is not None else _parsed(block)


def _counted_lines(lines: list[str]) -> Composition | None:
    """Counts the atom lines of a V2000 block; None for other forms, and where anything is unusual."""
    if len(lines) < 5 or lines[3][34:39] != "V2000" or not lines[3][:3].strip().isdecimal():
        return None
    number = int(lines[3][:3])
    symbols = Counter([line[31:34].strip() for line in lines[4 : 4 + number]])
    if symbols.total() != number or not all(map(_SYMBOL.fullmatch, symbols)):
        return None
    for name in _HYDROGENS:
        if name in symbols:
            symbols["H"] += symbols.pop(name)
    return dict(symbols)


def _parsed(block: str) -> Composition | None:
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
