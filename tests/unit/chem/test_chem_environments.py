from __future__ import annotations

import numpy as np
import pytest
from rdkit import Chem

from geomformer.chem.environments import Environments, environments
from geomformer.chem.features import atom_features, bond_features
from geomformer.records import Record


def record(smiles: str, *, hydrogens: bool = False, features: bool = True) -> Record:
    mol = Chem.MolFromSmiles(smiles)
    mol = Chem.AddHs(mol) if hydrogens else mol
    zeros = np.zeros((1, mol.GetNumAtoms(), 3), np.float32)
    found = Record("m", zeros, np.zeros(1, np.uint8), atom_features(mol)[:, 0] + np.uint8(1), smiles)
    if features:
        found.atom_features = atom_features(mol)
        found.bond_index, found.bond_features = bond_features(mol)
    return found


def hashes(smiles: str, **options: bool) -> list[list[int]]:
    return np.sort(environments([record(smiles, **options)]).hashes, axis=1).tolist()


def distinct(found: Environments) -> list[int]:
    return [len(set(row)) for row in found.hashes.tolist()]


def test_hashes_are_the_ones_that_models_were_stored_with() -> None:
    assert environments([record("C[NH+]=O")]).hashes.tolist() == [
        [3504969139, 2438912948, 2795821208],
        [2812660661, 3486926325, 2537162703],
        [2035389150, 1969622760, 4241001057],
    ]


@pytest.mark.parametrize(("smiles", "other"), [("CC(C)CN", "NCC(C)C"), ("OC(=O)c1ccccc1", "c1ccc(cc1)C(O)=O")])
def test_the_order_of_atoms_does_not_count(smiles: str, other: str) -> None:
    assert hashes(smiles) == hashes(other)


def test_neither_stereo_nor_explicit_hydrogens_nor_missing_features_count() -> None:
    assert hashes("C[C@H](N)O") == hashes("C[C@@H](N)O") == hashes("CC(N)O")
    assert hashes("F/C=C/F") == hashes("F/C=C\\F")
    assert hashes("CC(N)O", hydrogens=True) == hashes("CC(N)O", features=False) == hashes("CC(N)O")


@pytest.mark.parametrize(
    ("smiles", "other", "radius"),
    [
        ("CCO", "CCN", 0),
        ("CC[O-]", "CCO", 0),
        ("C[CH2]", "CC", 0),
        ("C1CCCCC1", "CCCCCC", 0),
        ("CC#CC", "CC=C=C", 0),
        ("CC=NC", "CC=CC", 0),
    ],
)
def test_what_differs_hashes_differently(smiles: str, other: str, radius: int) -> None:
    assert hashes(smiles)[radius] != hashes(other)[radius]


def test_a_radius_sees_so_many_bonds() -> None:
    near, far = (environments([record(smiles)]).hashes[:, 0].tolist() for smiles in ("CCCCF", "CCCCCl"))
    assert near == far
    near, far = (environments([record(smiles)]).hashes[:, 0].tolist() for smiles in ("CCF", "CCCl"))
    assert near[:2] == far[:2] and near[2] != far[2]
    assert distinct(environments([record("CCCCCCC")])) == [2, 3, 4]


def test_bond_orders_count_where_atoms_are_alike() -> None:
    drawn, flattened = record("C1=CC=C1"), record("C1=CC=C1")
    assert flattened.bond_features is not None
    flattened.bond_features[:, 0] = 0
    found, other = environments([drawn]).hashes.tolist(), environments([flattened]).hashes.tolist()
    assert found[0] == other[0] and not set(found[1]) & set(other[1])


def test_molecules_are_kept_apart() -> None:
    smiles = ["CCO", "[H][H]", "C[N+](C)(C)C.[Cl-]", "CC[O-]", "c1ccccc1"]
    found = environments([record(text) for text in smiles])
    assert found.sizes.tolist() == [3, 0, 6, 3, 6]
    assert found.charges.tolist() == [0, 0, 0, -1, 0]
    for i, text in enumerate(smiles):
        alone = environments([record(text)])
        np.testing.assert_array_equal(found.hashes[:, found.molecule == i], alone.hashes)


def test_nothing_has_no_environments() -> None:
    assert environments([]).hashes.shape == (3, 0) and environments([]).sizes.tolist() == []
    bare = Record("p", np.zeros((1, 2, 3), np.float32), np.zeros(1, np.uint8))
    assert environments([bare]).sizes.tolist() == [0]
