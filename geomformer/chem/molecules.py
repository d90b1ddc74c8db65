"""From text to a sanitised molecule whose atoms stand in the order of its canonical SMILES."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from rdkit import Chem, rdBase

from geomformer.chem.radicals import paired
from geomformer.errors import MoleculeError
from geomformer.records import RawMolecule

MAX_CANONICAL_PASSES = 4
MAX_COORDINATE = 1e4
"""Coordinates further out (Angstrom) are damage; the largest crystal and protein structures stay below."""
FLAT_SPREAD = 1e-3
"""A mol block whose z coordinates span less than this (Angstrom) is a drawing, unless it says that it is 3D."""

_NON_METALS = frozenset(
    [1, 2, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 32, 33, 34, 35, 36, 51, 52, 53, 54, 85, 86, 117, 118]
)
_HYDROGEN = Chem.MolFromSmarts("[#1]")
_TIMESTAMP = re.compile(r"^\[\d\d:\d\d:\d\d\]\s*")


@dataclass(frozen=True)
class CanonicalMolecule:
    """A molecule that is the same object whatever form it was written in.

    Attributes:
        mol: N atoms in the order of `smiles`, without the hydrogens that SMILES leaves out.
        smiles: canonical SMILES.
        order: (N,) int64, for each atom of `mol` its index in the molecule that was read.
    """

    mol: Chem.Mol
    smiles: str
    order: np.ndarray


@contextmanager
def captured_log() -> Iterator[list[str]]:
    """Keeps RDKit silent; what it had to say stands in the list when the block ends."""
    messages: list[str] = []
    if not hasattr(rdBase, "CaptureErrorLog"):
        with rdBase.BlockLogs():
            yield messages
        return
    with rdBase.BlockLogs(), rdBase.CaptureErrorLog() as log:
        yield messages
    for line in log.messages.splitlines():
        text = _TIMESTAMP.sub("", line).strip()
        if text and not set(text) <= set("~^ "):
            messages.append(text)


def read_molecule(raw: RawMolecule) -> Chem.Mol:
    """Parses and sanitises the text of a row, with its explicit hydrogens when it is a mol block.

    Raises:
        MoleculeError: `unparsable`, with the reason; `wrong_input_kind` for coordinates without bonds.
    """
    if raw.problem:
        raise MoleculeError("unparsable", raw.problem)
    if raw.kind == "xyz":
        raise MoleculeError("wrong_input_kind", "Expected bonds, in a SMILES or a mol block; found bare coordinates.")
    if not raw.text.strip():
        raise MoleculeError("unparsable", "The structure is empty; expected a SMILES or a mol block.")
    mol = read_block(raw.text) if raw.kind == "mol" else read_smiles(raw.text.strip())
    if mol.GetNumAtoms() == 0:
        raise MoleculeError("unparsable", "The structure has no atoms.")
    for atom in mol.GetAtoms():
        _refuse_query(atom)
        # Labels of atoms are no part of the molecule, but canonical SMILES keep them.
        if atom.GetAtomMapNum():
            atom.SetAtomMapNum(0)
    for bond in mol.GetBonds() if raw.kind == "mol" else ():
        if bond.HasQuery():
            ends = f"{bond.GetBeginAtomIdx() + 1} and {bond.GetEndAtomIdx() + 1}"
            raise MoleculeError("unparsable", f"The bond between atoms {ends} is a search pattern, not a bond.")
    return mol


def read_smiles(smiles: str, remove_hydrogens: bool = True) -> Chem.Mol:
    """Parses a SMILES.

    Raises:
        MoleculeError: `unparsable`: a syntax error, or a molecule that cannot exist as written.
    """
    with captured_log() as log:
        parameters: Any = Chem.SmilesParserParams()
        parameters.removeHs = remove_hydrogens
        mol = Chem.MolFromSmiles(smiles, parameters)
        if mol is None:
            parameters.sanitize = False
            mol = Chem.MolFromSmiles(smiles, parameters)
            parsed = mol is not None and _sanitise_partly(mol)
        else:
            parsed = True
    if mol is None:
        raise MoleculeError("unparsable", f"The SMILES cannot be read: {_first(log, 'syntax error')}.")
    if not parsed:
        raise MoleculeError("unparsable", _problems(mol))
    return mol


def read_block(block: str) -> Chem.Mol:
    """Parses a V2000 or V3000 mol block; with 3D coordinates the stereochemistry is theirs.

    Raises:
        MoleculeError: `unparsable`: a damaged block, or a molecule that cannot exist as written.
    """
    with captured_log() as log:
        try:
            mol = Chem.MolFromMolBlock(block, removeHs=False)
            parsed = mol is not None
            if mol is None:
                mol = Chem.MolFromMolBlock(block, sanitize=False, removeHs=False)
                parsed = mol is not None and _sanitise_partly(mol)
        except (RuntimeError, ValueError) as error:
            log.append(str(error))
            mol, parsed = None, False
        if mol is not None and parsed and has_geometry(mol):
            mol = paired(mol)  # before: coordinates say how the double bonds stand that this makes
            Chem.AssignStereochemistryFrom3D(mol)
    if mol is None:
        raise MoleculeError("unparsable", f"The mol block cannot be read: {_first(log, 'it is damaged')}.")
    if not parsed:
        raise MoleculeError("unparsable", _problems(mol))
    return mol


def has_geometry(mol: Chem.Mol) -> bool:
    """Whether the molecule carries 3D coordinates, not a drawing."""
    if mol.GetNumConformers() == 0:
        return False
    positions = mol.GetConformer().GetPositions()
    if len(positions) == 0 or not sound(positions):
        return False
    if len(positions) == 1:
        return True
    spread = np.ptp(positions, axis=0)
    if spread[2] > FLAT_SPREAD:
        return True
    # A planar molecule may lie in the xy plane and still be 3D: then only the block's own dimension code tells.
    return bool(mol.GetConformer().Is3D() and spread.max() > FLAT_SPREAD)


def sound(positions: np.ndarray) -> bool:
    """Whether coordinates (N, 3) can be those of a molecule: numbers, none beyond `MAX_COORDINATE`."""
    return bool((np.abs(positions) <= MAX_COORDINATE).all())


def canonicalise(mol: Chem.Mol) -> CanonicalMolecule:
    """Rewrites a molecule through its canonical SMILES, so that equal molecules become equal objects, and with unpaired
    electrons that can pair in pairs (`chem.radicals`).

    Hydrogens that a SMILES can leave out are dropped. If the SMILES cannot be read back, the molecule is kept as it is.
    """
    with rdBase.BlockLogs():
        canonical = _through_smiles(*_without_hydrogens(mol))
        closed = paired(canonical.mol)
        return canonical if closed is canonical.mol else _through_smiles(closed, canonical.order)


def _through_smiles(mol: Chem.Mol, order: np.ndarray) -> CanonicalMolecule:
    smiles = ""
    for _ in range(MAX_CANONICAL_PASSES):
        written = Chem.MolToSmiles(mol)
        if written == smiles:
            break
        smiles = written
        try:
            reread, kept = _reread(smiles, mol)
        except MoleculeError:
            break
        mol, order = reread, order[kept]
    return CanonicalMolecule(mol, smiles, order)


def with_hydrogens(canonical: CanonicalMolecule) -> Chem.Mol:
    """Adds the hydrogens that the SMILES leaves out; they stand after the N atoms of the molecule."""
    return Chem.AddHs(canonical.mol)


def _reread(smiles: str, mol: Chem.Mol) -> tuple[Chem.Mol, np.ndarray]:
    written_order = mol.GetPropsAsDict(True, True)["_smilesAtomOutputOrder"]
    output = np.array(list(written_order), dtype=np.int64)
    reread = read_smiles(smiles)
    if reread.GetNumAtoms() == len(output):
        return reread, output
    full = read_smiles(smiles, remove_hydrogens=False)
    if full.GetNumAtoms() != len(output):
        raise MoleculeError("failed", f"The SMILES {smiles} does not describe the same atoms when read back.")
    reread, kept = _without_hydrogens(full)
    return reread, output[kept]


def _without_hydrogens(mol: Chem.Mol) -> tuple[Chem.Mol, np.ndarray]:
    """Drops the hydrogens that a SMILES can leave out; the indices of the atoms that stay. (N,)"""
    if not mol.HasSubstructMatch(_HYDROGEN):
        return mol, np.arange(mol.GetNumAtoms())
    for index, atom in enumerate(mol.GetAtoms()):
        atom.SetIntProp("_source", index)
    # A molecule that RDKit sanitises only in part was checked when it was read.
    mol = Chem.RemoveHs(mol, sanitize=False) if mol.HasProp("_partly") else Chem.RemoveHs(mol)
    return mol, np.array([atom.GetIntProp("_source") for atom in mol.GetAtoms()], dtype=np.int64)


def _refuse_query(atom: Chem.Atom) -> None:
    if atom.GetAtomicNum() == 0 or atom.HasQuery():
        name = atom.GetSymbol() if atom.GetAtomicNum() == 0 else "an atom list"
        raise MoleculeError(
            "unparsable",
            f"Atom {atom.GetIdx() + 1} is a placeholder ({name}), not an element; a complete molecule is needed.",
        )


def _sanitise_partly(mol: Chem.Mol) -> bool:
    """Sanitises without the valence check where only metals and their ligands violate it; False otherwise.

    RDKit's valence rules do not cover bonds drawn to a metal. Anything else that it refuses (five bonds on a carbon, an
    aromatic ring without a Kekule form) has no definite structure, and a prediction for it would mean nothing.
    """
    for problem in Chem.DetectChemistryProblems(mol):
        if problem.GetType() != "AtomValenceException":
            return False
        atom = mol.GetAtomWithIdx(problem.GetAtomIdx())
        if not any(a.GetAtomicNum() not in _NON_METALS for a in (atom, *atom.GetNeighbors())):
            return False
    mol.UpdatePropertyCache(strict=False)
    flags = Chem.SanitizeFlags.SANITIZE_ALL ^ Chem.SanitizeFlags.SANITIZE_PROPERTIES
    if Chem.SanitizeMol(mol, flags, catchErrors=True) != Chem.SanitizeFlags.SANITIZE_NONE:
        return False
    Chem.AssignStereochemistry(mol, cleanIt=True)
    mol.SetProp("_partly", "1")
    return True


def _problems(mol: Chem.Mol) -> str:
    with rdBase.BlockLogs():
        problems = [problem.Message().strip() for problem in Chem.DetectChemistryProblems(mol)]
    found = "; ".join(problems[:3]) or "RDKit cannot sanitise it"
    return f"The molecule cannot exist as written: {found}."


def _first(log: list[str], otherwise: str) -> str:
    return (log[0] if log else otherwise).rstrip(".")
