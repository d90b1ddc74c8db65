"""Mirror images: one of the two stands for both, since their energies and gaps are equal.

Conformers depend on a seed and chiral tags are features, so that two mirror images would get two answers. Both are made
from the one whose canonical SMILES sorts first; conformers of the other are reflected.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from rdkit import Chem

from geomformer.chem.molecules import CanonicalMolecule, canonicalise

REFLECTION = np.array([-1.0, 1.0, 1.0])


def representative(canonical: CanonicalMolecule) -> CanonicalMolecule:
    """The molecule itself, or its mirror image if that sorts first; `order`: its atoms' indices in `canonical`.

    RDKit writes some rings with stereo the other way round, atoms and all. Where the order then leads to atoms of the
    other hand, as in one of 600 chiral molecules, each mirror image stands for itself.
    """
    here = CanonicalMolecule(canonical.mol, canonical.smiles, np.arange(canonical.mol.GetNumAtoms()))
    if "@" not in canonical.smiles:
        return here
    reflected = Chem.Mol(canonical.mol)
    for atom in reflected.GetAtoms():
        atom.InvertChirality()
    image = canonicalise(reflected)
    return image if image.smiles < canonical.smiles and same_hand(reflected, image) else here


def same_hand(reflected: Chem.Mol, image: CanonicalMolecule) -> bool:
    """Whether every centre of the image has the hand of the atom that `order` names. Isotopes tell atoms apart."""
    mine, theirs = Chem.Mol(reflected), Chem.Mol(image.mol)
    for atom in theirs.GetAtoms():
        atom.SetIsotope(1 + int(image.order[atom.GetIdx()]))
    for atom in mine.GetAtoms():
        atom.SetIsotope(1 + atom.GetIdx())
    return bool(mine.HasSubstructMatch(theirs, useChirality=True))


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
