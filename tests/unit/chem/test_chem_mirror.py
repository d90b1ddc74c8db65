"""Mirror images are made from one of the two."""

from __future__ import annotations

import numpy as np
import pytest
from rdkit import Chem
from scipy.spatial.distance import pdist

from geomformer.chem.build import ChemistryOptions, build_record
from geomformer.chem.mirror import representative
from geomformer.chem.molecules import canonicalise, read_smiles
from geomformer.records import RawMolecule, Record

CHIRAL = (
    "C[C@H](N)C(=O)O",
    "C[C@@H](F)C#N",
    "CN1CCC[C@H]1c1cccnc1",
    "C[S@](=O)c1ccccc1",
    "O[C@H]1CO[C@@H](O)[C@H](O)[C@@H]1O",
    "C/C=C/[C@H](O)C",
    "[H][C@](C)(O)[2H]",
    "C[C@H](O)/C(=C/F)[C@@H](C)O",
    "C[C@H]1CC[C@@H](CC1)[C@H](F)Cl",
    "CCCC[C@]1(CC)CO[C@H](OC1)[C@H]1CC=CC[C@@H]1C",
)
"""The last two have rings that RDKit writes the other way round in the mirror image."""


def reflected(smiles: str) -> str:
    return smiles.replace("@@", "%").replace("@", "@@").replace("%", "@")


def record(smiles: str, **options: bool) -> Record:
    return build_record(RawMolecule(0, "x", smiles), ChemistryOptions(num_conformers=3, **options))


def handedness(record: Record) -> list[str]:
    """Chirality of the centres, from the coordinates of every conformer, in the order of the atoms."""
    found = []
    for positions in record.positions:
        mol = Chem.MolFromSmiles(record.smiles or "")
        conformer = Chem.Conformer(mol.GetNumAtoms())
        conformer.SetPositions(positions.astype(float))
        mol.AddConformer(conformer)
        Chem.AssignStereochemistryFrom3D(mol)
        found.append(Chem.MolToSmiles(mol))
    return found


@pytest.mark.parametrize("smiles", CHIRAL)
@pytest.mark.parametrize("hydrogens", [False, True])
def test_mirror_images_have_reflected_conformers_and_equal_inputs(smiles: str, hydrogens: bool) -> None:
    one, other = record(smiles, hydrogens=hydrogens), record(reflected(smiles), hydrogens=hydrogens)
    assert one.smiles != other.smiles
    assert one.orbital_energies is not None and other.orbital_energies is not None
    assert np.array_equal(one.orbital_energies, other.orbital_energies)
    assert one.atom_features is not None and other.atom_features is not None
    assert sorted(map(tuple, one.atom_features)) == sorted(map(tuple, other.atom_features))
    assert one.bond_features is not None and other.bond_features is not None
    assert sorted(map(tuple, one.bond_features)) == sorted(map(tuple, other.bond_features))
    for mine, theirs in zip(one.positions, other.positions, strict=True):
        np.testing.assert_allclose(np.sort(pdist(mine)), np.sort(pdist(theirs)), atol=1e-5)


def test_bonds_join_the_atoms_of_the_molecule() -> None:
    for smiles in CHIRAL:
        for text in (smiles, reflected(smiles)):
            found = record(text)
            mol = Chem.MolFromSmiles(found.smiles or "")
            expected = {(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds()}
            assert found.bond_index is not None
            pairs = set(map(tuple, found.bond_index.T.tolist()))
            assert pairs == expected | {pair[::-1] for pair in expected}


@pytest.mark.parametrize("smiles", CHIRAL[:2] + CHIRAL[3:6] + CHIRAL[-2:])
def test_a_conformer_has_the_hand_of_its_molecule(smiles: str) -> None:
    for text in (smiles, reflected(smiles)):
        found = record(text)
        assert handedness(found) == [found.smiles] * 3


def test_the_representative_is_one_for_both_and_leads_back() -> None:
    for smiles in CHIRAL:
        one, other = (canonicalise(read_smiles(text)) for text in (smiles, reflected(smiles)))
        assert representative(one).smiles == representative(other).smiles == min(one.smiles, other.smiles)
        for molecule in (one, other):
            image = representative(molecule)
            there = [molecule.mol.GetAtomWithIdx(int(index)).GetAtomicNum() for index in image.order]
            assert there == [atom.GetAtomicNum() for atom in image.mol.GetAtoms()]


@pytest.mark.parametrize("smiles", ["CCO", "C[C@H](O)[C@@H](C)O", "C/C=C/C"])
def test_what_is_its_own_mirror_image_stays(smiles: str) -> None:
    canonical = canonicalise(read_smiles(smiles))
    image = representative(canonical)
    assert image.smiles == canonical.smiles
    assert np.array_equal(image.order, np.arange(canonical.mol.GetNumAtoms()))
