"""Records back to mol blocks."""

from __future__ import annotations

from rdkit import Chem
from rdkit.Geometry import Point3D

from geomformer.records import Record


def mol_block(record: object) -> str | None:
    """A V2000 mol block of the record's first conformer, or None where the bonds of its SMILES do not fit its atoms."""
    if not isinstance(record, Record) or record.smiles is None or record.atomic_numbers is None:
        return None
    mol = Chem.MolFromSmiles(record.smiles)
    if mol is None or [atom.GetAtomicNum() for atom in mol.GetAtoms()] != record.atomic_numbers.tolist():
        return None
    conformer = Chem.Conformer(mol.GetNumAtoms())
    for atom, (x, y, z) in enumerate(record.positions[0].tolist()):
        conformer.SetAtomPosition(atom, Point3D(x, y, z))
    mol.AddConformer(conformer)
    return Chem.MolToMolBlock(mol)
