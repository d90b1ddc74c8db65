"""Closed-shell molecules that are written with unpaired electrons."""

from __future__ import annotations

import numpy as np
import pytest
from checks.molecules import relaxed
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from geomformer.chem.build import ChemistryOptions, build_record
from geomformer.chem.molecules import canonicalise
from geomformer.chem.radicals import num_unpaired, paired
from geomformer.records import RawMolecule

WRITTEN = {
    "[CH2][CH2]": "C=C",
    "[O][O]": "O=O",
    "C[C]=[C]C": "CC#CC",
    "CCS[C]1N=C(O)[CH]C(=N1)C(F)(F)F": "CCSc1nc(O)cc(C(F)(F)F)n1",
    "O[C]([N]/N=C(\\c1ccccc1)/S)CC(C)C": "CC(C)CC(O)=N/N=C(/S)c1ccccc1",
    "CC(C)[C]1[CH][CH][CH][CH][CH]1": "CC(C)c1ccccc1",
    "O=S1(=O)[CH][CH]CC1": "O=S1(=O)C=CCC1",
    "CCCS([O])([O])O": "CCCS(=O)(=O)O",
    "CN([CH]c1ccccc1)[O]": "C[N+]([O-])=Cc1ccccc1",
    "[N][N][CH]C(C)=O": "CC(=O)C=[N+]=[N-]",
    "[N][N]C1=CC=C[CH]C1=O": "O=C1C=CC=CC1=[N+]=[N-]",
    "CC1=C[C]2C(=CC=C3C2=NON3[O])N=N1": "Cc1cc2c(ccc3c2no[n+]3[O-])nn1",
}
"""Diradicals and the molecules that they are; the isopropyl benzene has six electrons to pair."""
UNPAIRED = [
    ("CC(C)(C)N([O])C", 1),
    ("[CH2]CC[CH2]", 2),
    ("[CH]CCC", 2),
    ("C1=C[C]=[C]C=C1", 2),
    ("[O]N(C)CCN(C)[O]", 2),
    ("[O]N1[C]=CCCC1", 2),
    ("[CH2]" + 40 * "[CH]" + "[CH2]", 42),
    ("[C-]#[O+]", 0),
    ("c1ccccc1", 0),
]


@pytest.mark.parametrize("written", WRITTEN)
def test_electrons_pair(written: str) -> None:
    mol = Chem.MolFromSmiles(written)
    closed = paired(mol)
    expected = Chem.MolFromSmiles(WRITTEN[written])
    assert num_unpaired(mol) >= 2 and num_unpaired(closed) == 0
    assert Chem.MolToSmiles(Chem.MolFromSmiles(Chem.MolToSmiles(closed))) == Chem.MolToSmiles(expected)
    assert [a.GetTotalNumHs() for a in closed.GetAtoms()] == [a.GetTotalNumHs() for a in mol.GetAtoms()]
    assert Chem.GetFormalCharge(closed) == 0


@pytest.mark.parametrize(("smiles", "unpaired"), UNPAIRED)
def test_what_cannot_pair_stays(smiles: str, unpaired: int) -> None:
    mol = Chem.MolFromSmiles(smiles)
    assert paired(mol) is mol
    assert num_unpaired(mol) == unpaired


def test_what_can_pair_does_beside_what_cannot() -> None:
    closed = paired(Chem.MolFromSmiles("[CH2][CH]CC[CH]CCC[CH2]"))
    assert Chem.MolToSmiles(closed) == Chem.MolToSmiles(Chem.MolFromSmiles("C=CCC[CH]CCC[CH2]"))


@pytest.mark.parametrize("written", [*WRITTEN, "C[C@H](F)[C]1[CH]C(C)=C(Cl)C=[C]1", "[CH2][C]([CH2])[C@H](F)Cl"])
def test_the_way_of_writing_does_not_matter(written: str) -> None:
    mol = Chem.MolFromSmiles(written)
    rng = np.random.default_rng(0)
    found = {canonicalise(mol).smiles}
    for _ in range(10):
        order = rng.permutation(mol.GetNumAtoms()).tolist()
        found.add(canonicalise(Chem.RenumberAtoms(mol, order)).smiles)
    assert len(found) == 1


def test_coordinates_say_how_new_double_bonds_stand() -> None:
    for smiles in ("C/C=N/O", "C/C=N\\O"):
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        assert rdDistGeom.EmbedMolecule(mol, randomSeed=7) == 0
        record = build_record(RawMolecule(0, "m", as_diradical(mol), "mol"), ChemistryOptions(geometry="input"))
        assert record.smiles == smiles


def test_a_record_is_that_of_the_closed_shell() -> None:
    options = ChemistryOptions(num_conformers=2)
    written = build_record(RawMolecule(0, "m", "CCS[C]1N=C(O)[CH]C(=N1)C(F)(F)F"), options)
    expected = build_record(RawMolecule(0, "m", WRITTEN["CCS[C]1N=C(O)[CH]C(=N1)C(F)(F)F"]), options)
    assert written.smiles == expected.smiles
    np.testing.assert_array_equal(written.positions, expected.positions)
    np.testing.assert_array_equal(written.bond_features, expected.bond_features)


def as_diradical(mol: Chem.Mol) -> str:
    """The mol block of a molecule with single bonds and unpaired electrons in place of its double bonds."""
    block = Chem.RWMol(mol)
    Chem.Kekulize(block, clearAromaticFlags=True)
    for bond in block.GetBonds():
        if bond.GetBondType() == Chem.BondType.DOUBLE:
            bond.SetBondType(Chem.BondType.SINGLE)
            for atom in (bond.GetBeginAtom(), bond.GetEndAtom()):
                atom.SetNoImplicit(True)
                atom.SetNumRadicalElectrons(1)
    block.UpdatePropertyCache()
    return Chem.MolToMolBlock(block)


def test_coordinates_stay_with_their_atoms() -> None:
    """A mol block whose bonds are those of a diradical, and a reference geometry without bonds."""
    numbers, positions, _ = relaxed("CCSc1nc(O)cc(C)n1")
    mol = Chem.AddHs(Chem.MolFromSmiles("CCSC1=NC(O)=CC(C)=N1"))
    conformer = Chem.Conformer(len(numbers))
    conformer.SetPositions(positions)
    mol.AddConformer(conformer)
    fields = {"reference_numbers": numbers, "reference_positions": positions}
    record = build_record(RawMolecule(0, "m", as_diradical(mol), "mol", **fields), ChemistryOptions(geometry="input"))
    assert record.smiles == Chem.CanonSmiles("CCSc1nc(O)cc(C)n1")
    heavy = numbers > 1
    expected = positions[heavy] - positions[heavy].mean(0)
    distances = np.linalg.norm(record.positions[0][:, None] - expected[None], axis=-1)
    nearest = distances.argmin(1)
    assert sorted(nearest) == list(range(heavy.sum())) and distances.min(1).max() < 1e-3
    np.testing.assert_array_equal(record.atomic_numbers, numbers[heavy][nearest])
    assert record.target_positions is not None
    np.testing.assert_allclose(record.target_positions, record.positions[0], atol=1e-3)
