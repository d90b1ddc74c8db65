"""A flat drawing in place of a geometry, for molecules that must not be lost although nothing better can be made."""

from __future__ import annotations

from typing import Any

import numpy as np
from rdkit import Chem, rdBase

from geomformer.chem.build import ChemistryOptions
from geomformer.chem.conformers import COINCIDENT_IN_DRAWING, draw, source_number, usable
from geomformer.chem.features import atom_features, bond_features
from geomformer.chem.molecules import canonicalise
from geomformer.chem.orbitals import unknown_orbitals
from geomformer.errors import MoleculeError
from geomformer.records import RawMolecule, Record

MAX_DRAWN = 1000
"""Larger molecules are not drawn: that, and the search for atoms on top of each other, grows with their square."""
MAX_STORED = 2**15 - 1
"""Bonds of a record are pairs of 16-bit numbers."""
SPACING = 1.5
"""Distance of neighbouring atoms where they are laid out without regard to bonds, Angstrom."""


def flat_record(raw: RawMolecule, options: ChemistryOptions, *, drawn: bool = True) -> Record | MoleculeError:
    """Makes a record with one conformer, `flat_2d`, of any SMILES that can be parsed; never embeds or optimises.

    Neither valence rules nor `max_atoms` apply. A molecule that breaks one of them keeps the order and the SMILES in
    which it is written. The reference geometry is left out.

    Args:
        raw: the row, a SMILES.
        options: of which `hydrogens`, `features` and `max_atoms` are used.
        drawn: False lays the atoms out on a spiral, for molecules that cannot be drawn either.

    Returns:
        The record, or why there is none: the SMILES has errors of syntax, placeholders, or too many atoms to be stored.
    """
    try:
        return _flat_record(raw, options, drawn)
    except MoleculeError as error:
        return error
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - RDKit raises many types; one molecule must never stop a run
        return MoleculeError("failed", f"RDKit cannot even draw this molecule: {type(error).__name__}: {error}")


def _flat_record(raw: RawMolecule, options: ChemistryOptions, drawn: bool) -> Record:
    smiles = raw.text.strip()
    with rdBase.BlockLogs():
        mol, sound = _lenient(smiles)
        # A canonical SMILES takes a stack as deep as the molecule is long.
        if sound and mol.GetNumAtoms() <= options.max_atoms:
            canonical = canonicalise(mol)
            mol, smiles = canonical.mol, canonical.smiles
        if options.hydrogens:
            mol = Chem.AddHs(mol)
        atoms = atom_features(mol)
        bonds = bond_features(mol)
        positions = _layout(mol, drawn)
    record = Record(
        id=raw.id,
        positions=(positions - positions.mean(axis=0)).astype(np.float32)[None],
        conformer_source=np.array([source_number("flat_2d")], dtype=np.uint8),
        atomic_numbers=atoms[:, 0] + np.uint8(1),
        smiles=smiles,
        targets=dict(raw.targets),
    )
    if options.features:
        record.atom_features = atoms
        record.bond_index, record.bond_features = bonds
    if options.features and options.orbitals != "none":
        orbitals = unknown_orbitals(len(atoms))
        record.orbital_energies, record.orbital_shares = orbitals.energies, orbitals.shares
    return record


def _lenient(smiles: str) -> tuple[Chem.Mol, bool]:
    """Parses a SMILES, and tells whether it is a molecule that can exist as written."""
    parameters: Any = Chem.SmilesParserParams()
    mol = Chem.MolFromSmiles(smiles, parameters)
    sound = mol is not None
    if mol is None:
        parameters.sanitize = False
        mol = Chem.MolFromSmiles(smiles, parameters)
    if mol is None or mol.GetNumAtoms() == 0 or any(atom.GetAtomicNum() == 0 for atom in mol.GetAtoms()):
        raise MoleculeError("unparsable", "The SMILES has an error of syntax, a placeholder, or no atoms.")
    if mol.GetNumAtoms() > MAX_STORED:
        raise MoleculeError("too_large", f"The molecule has {mol.GetNumAtoms()} atoms; the limit is {MAX_STORED}.")
    if not sound:
        mol.UpdatePropertyCache(strict=False)
        flags = Chem.SanitizeFlags.SANITIZE_ALL ^ Chem.SanitizeFlags.SANITIZE_PROPERTIES
        flags ^= Chem.SanitizeFlags.SANITIZE_KEKULIZE
        Chem.SanitizeMol(mol, flags, catchErrors=True)
        Chem.FastFindRings(mol)
    return mol, sound


def _layout(mol: Chem.Mol, drawn: bool) -> np.ndarray:
    """Coordinates in the plane, no two atoms in one place. (N, 3)"""
    if drawn and mol.GetNumAtoms() <= MAX_DRAWN:
        try:
            positions = draw(mol)
        except (RuntimeError, ValueError):
            return spiral(mol.GetNumAtoms())
        if usable(positions, COINCIDENT_IN_DRAWING):
            return positions
    return spiral(mol.GetNumAtoms())


def spiral(count: int) -> np.ndarray:
    """Points that fill a disc evenly, about `SPACING` apart. (N, 3)"""
    number = np.arange(count)
    radius, angle = SPACING * np.sqrt(number), number * np.pi * (3 - np.sqrt(5))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), np.zeros(count)], axis=1)
