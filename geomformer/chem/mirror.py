"""Mirror images: one of the two stands for both, since their energies and gaps are equal.

Conformers depend on a seed and chiral tags are features, so that two mirror images would get two answers. Both are made
from the one whose canonical SMILES sorts first; conformers of the other are reflected.
"""

from __future__ import annotations

import functools
from collections import defaultdict

import numpy as np
from rdkit import Chem

from geomformer.chem.molecules import CanonicalMolecule, canonicalise

REFLECTION = np.array([-1.0, 1.0, 1.0])


def representative(canonical: CanonicalMolecule) -> CanonicalMolecule:
    """The molecule itself, or its mirror image if that sorts first; `order`: its atoms' indices in `canonical`."""
    here = CanonicalMolecule(canonical.mol, canonical.smiles, np.arange(canonical.mol.GetNumAtoms()))
    if "@" not in canonical.smiles:
        return here
    reflected = Chem.Mol(canonical.mol)
    for atom in reflected.GetAtoms():
        atom.InvertChirality()
    image = canonicalise(reflected)
    if image.smiles >= canonical.smiles:
        return here
    # Not `image.order`: RDKit writes some rings with stereo the other way round, and centres would change their hands.
    order = labelled(reflected).GetSubstructMatch(labelled(image.mol), useChirality=True)
    return CanonicalMolecule(image.mol, image.smiles, np.array(order)) if order else here


def labelled(mol: Chem.Mol) -> Chem.Mol:
    """A copy in which only atoms of the same kind match: a search by itself looks at neither hydrogens nor isotopes."""
    mol = Chem.Mol(mol)
    for atom in mol.GetAtoms():
        kind = (atom.GetIsotope(), atom.GetTotalNumHs(), atom.GetFormalCharge() + 8, atom.GetNumRadicalElectrons())
        isotope = functools.reduce(lambda code, value: 16 * code + value, kind)
        atom.SetIsotope(isotope + 1)
    return mol


def places_of(full: Chem.Mol, image_full: Chem.Mol, order: np.ndarray) -> np.ndarray:
    """For each atom of a molecule with all hydrogens its index in the image with all hydrogens. (M,)

    Args:
        full, image_full: both with the hydrogens that the SMILES leaves out after their N atoms.
        order: (N,), for each atom of the image its index in the molecule.
    """
    places = np.empty(full.GetNumAtoms(), dtype=np.int64)
    places[order] = np.arange(len(order))
    hydrogens = defaultdict(list)
    for atom in list(image_full.GetAtoms())[len(order) :]:
        hydrogens[atom.GetNeighbors()[0].GetIdx()].append(atom.GetIdx())
    for atom in list(full.GetAtoms())[len(order) :]:
        places[atom.GetIdx()] = hydrogens[places[atom.GetNeighbors()[0].GetIdx()]].pop(0)
    return places
