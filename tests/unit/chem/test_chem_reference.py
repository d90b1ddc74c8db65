from __future__ import annotations

import itertools

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from geomformer.chem.alignment import rmsd
from geomformer.chem.build import ChemistryOptions, build_record
from geomformer.chem.features import atom_features
from geomformer.chem.symmetry import automorphisms
from geomformer.records import RawMolecule, Record

MOLECULES = ["CC(C)O", "OC1CC1C#N", "NC(=O)C=O", "CC12CC1C2", "c1ccncc1", "CC(=O)OC"]
ONE = ChemistryOptions(num_conformers=1)


def geometry(smiles: str, seed: int = 11) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=seed) == 0
    rdForceFieldHelpers.MMFFOptimizeMolecule(mol)
    return mol


def moved(positions: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return positions @ (rotation * np.sign(np.linalg.det(rotation))).T + rng.normal(size=3)


def shuffled(mol: Chem.Mol, seed: int) -> Chem.Mol:
    return Chem.RenumberAtoms(mol, np.random.default_rng(seed).permutation(mol.GetNumAtoms()).tolist())


def bare(smiles: str, mol: Chem.Mol) -> RawMolecule:
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    return RawMolecule(
        0, "m", smiles, reference_numbers=numbers, reference_positions=moved(mol.GetConformer().GetPositions(), 5)
    )


def bond_lengths(record: Record, positions: np.ndarray) -> np.ndarray:
    return np.linalg.norm(positions[record.bond_index[0]] - positions[record.bond_index[1]], axis=-1)


@pytest.mark.parametrize("smiles", MOLECULES)
@pytest.mark.parametrize("hydrogens", [False, True])
def test_a_permuted_and_rotated_geometry_is_recovered(smiles: str, hydrogens: bool) -> None:
    options = ChemistryOptions(num_conformers=1, hydrogens=hydrogens)
    plain = build_record(bare(smiles, geometry(smiles)), options)
    assert plain.target_positions is not None and plain.target_positions.dtype == np.float32
    assert bond_lengths(plain, plain.target_positions).max() < 1.7
    for seed in range(2):
        mol = shuffled(geometry(smiles), seed)
        block = RawMolecule(0, "m", smiles, reference_block=Chem.MolToMolBlock(mol))
        for row in (bare(smiles, mol), block):
            record = build_record(row, options)
            assert record.target_positions is not None
            assert rmsd(record.target_positions, plain.target_positions) < 2e-3


def test_a_conformer_is_recovered_as_its_own_reference() -> None:
    for smiles in ("CC(C)(C)c1ccc([N+](=O)[O-])cc1", "O=C([O-])CC(=O)[O-]", "c1ccccc1", "FC(F)(F)C"):
        record = build_record(RawMolecule(0, "m", smiles), ONE)
        heavy = Chem.MolFromSmiles(record.smiles)
        conformer = Chem.Conformer(record.num_atoms)
        conformer.Set3D(True)
        for index, point in enumerate(record.positions[0].astype(float).tolist()):
            conformer.SetAtomPosition(index, point)
        heavy.AddConformer(conformer)
        block = Chem.MolToMolBlock(shuffled(heavy, 3), kekulize=True)
        found = build_record(RawMolecule(0, "m", smiles, reference_block=block), ONE)
        assert rmsd(found.target_positions, record.positions[0]) < 2e-3, smiles


@pytest.mark.parametrize("smiles", ["CC(C)(C)O", "CC(=O)[O-]", "C[N+](=O)[O-]", "c1ccccc1", "CS(=O)(=O)[O-]"])
def test_the_chosen_order_has_the_least_distance(smiles: str) -> None:
    record = build_record(bare(smiles, shuffled(geometry(smiles, 4), 1)), ONE)
    reference = record.target_positions
    features = np.delete(record.atom_features, (3, 6), axis=1)
    bonds = {tuple(sorted(pair)) for pair in record.bond_index.T.tolist()}
    best = np.inf
    for order in itertools.permutations(range(record.num_atoms)):
        p = np.array(order)
        same = (features[p] == features).all()
        if same and {tuple(sorted(p[list(pair)].tolist())) for pair in bonds} == bonds:
            best = min(best, rmsd(reference[p], record.positions[0]))
    assert rmsd(reference, record.positions[0]) <= best + 1e-4


def test_other_conformers_take_the_order_of_the_reference() -> None:
    record = build_record(bare("CC(C)(C)CO", geometry("CC(C)(C)CO")), ChemistryOptions(num_conformers=3))
    mol = Chem.MolFromSmiles(record.smiles)
    symmetries = automorphisms(mol, atom_features(mol), 1000)
    assert len(symmetries) == 6
    for conformer in record.positions:
        own = rmsd(conformer, record.target_positions)
        assert own <= min(rmsd(conformer[p], record.target_positions) for p in symmetries) + 1e-4


@pytest.mark.parametrize(
    ("smiles", "count"),
    [
        ("c1ccccc1", 12),
        ("CC(C)(C)O", 6),
        ("C[N+](=O)[O-]", 2),
        ("CC(=O)[O-]", 2),
        ("CC(=O)O", 1),
        ("NC(=O)C", 1),
        ("O=S(=O)([O-])C", 6),
        ("C[C@H](O)[C@@H](C)O", 1),
        ("C[C@H](O)[C@H](C)O", 2),
        ("CCO", 1),
        ("C", 1),
    ],
)
def test_symmetries(smiles: str, count: int) -> None:
    mol = Chem.MolFromSmiles(smiles)
    found = automorphisms(mol, atom_features(mol), 1000)
    assert len(found) == count
    assert (found[0] == np.arange(mol.GetNumAtoms())).all()


def test_the_number_of_symmetries_is_bounded() -> None:
    mol = Chem.MolFromSmiles("CC(C)(C)C(C(C)(C)C)(C(C)(C)C)C(C)(C)C")
    assert 1 <= len(automorphisms(mol, atom_features(mol), 50)) <= 50


def test_a_strained_cage_is_matched_although_its_atoms_are_close() -> None:
    smiles = "CC1(C)C2OC1(C)C2O"
    assert build_record(bare(smiles, geometry(smiles)), ONE).target_positions is not None


@pytest.mark.parametrize("other", ["CC(C)O", "CCCN", "CCC", "C=CCO"])
def test_the_geometry_of_another_molecule_is_left_out(other: str) -> None:
    assert build_record(bare("CCCO", geometry(other)), ONE).target_positions is None
    block = Chem.MolToMolBlock(geometry(other))
    assert build_record(RawMolecule(0, "m", "CCCO", reference_block=block), ONE).target_positions is None


def test_damaged_references_are_left_out() -> None:
    numbers = np.array([6, 8])
    for positions in (np.full((2, 3), np.nan), np.zeros((3, 3)), np.zeros((2, 3))):
        row = RawMolecule(0, "m", "CO", reference_numbers=numbers, reference_positions=positions)
        assert build_record(row, ONE).target_positions is None
    assert build_record(RawMolecule(0, "m", "CO", reference_block="nothing"), ONE).target_positions is None


def test_hydrogen_molecule_has_a_reference() -> None:
    row = RawMolecule(
        0,
        "m",
        "[H][H]",
        reference_numbers=np.array([1, 1]),
        reference_positions=np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.74]]),
    )
    record = build_record(row, ONE)
    assert np.isclose(np.linalg.norm(record.target_positions[0] - record.target_positions[1]), 0.74)
