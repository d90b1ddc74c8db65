from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from geomformer.chem import build as build_module
from geomformer.chem import conformers
from geomformer.chem.build import ChemistryOptions, build, build_record
from geomformer.chem.orbitals import frontier_orbitals
from geomformer.errors import ConfigError, MoleculeError
from geomformer.records import ATOM_FEATURE_SIZES, BOND_FEATURE_SIZES, CONFORMER_SOURCES, RawMolecule, Record

TWO = ChemistryOptions(num_conformers=2)


def raw(text: str, kind: str = "smiles", **fields: object) -> RawMolecule:
    return RawMolecule(0, "m", text, kind, **fields)  # type: ignore[arg-type]


def block_3d(smiles: str, seed: int = 3, hydrogens: bool = True, v3000: bool = False) -> str:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=seed) == 0
    mol = mol if hydrogens else Chem.RemoveHs(mol)
    return Chem.MolToMolBlock(mol, forceV3000=v3000)


@pytest.mark.parametrize(
    ("smiles", "atoms"),
    [
        ("CCO", 3),
        ("[H][H]", 2),
        ("[H]", 1),
        ("[He]", 1),
        ("O", 1),
        ("[Na+].[Cl-]", 2),
        ("CC(=O)[O-].[Na+]", 5),
        ("[Fe+2].[O-]S(=O)(=O)[O-]", 6),
        ("[CH3]", 1),
        ("C[CH]C", 3),
        ("[2H]C([2H])([2H])O", 5),
        ("CC(=O)O[Hg]c1ccccc1", 11),
        ("F[P-](F)(F)(F)(F)F.[Li+]", 8),
        ("C12C3C4C1C5C2C3C45", 8),
        ("[C-]#[O+]", 2),
        ("FC(Cl)Br", 4),
        ("C/C=C/C", 4),
        ("[CH3:3][OH:7]", 2),
    ],
)
def test_unusual_molecules_become_records(smiles: str, atoms: int) -> None:
    record = build_record(raw(smiles), TWO)
    assert record.num_atoms == atoms
    assert record.positions.dtype == np.float32
    assert np.isfinite(record.positions).all()
    assert 1 <= record.num_conformers <= 2
    assert record.atomic_numbers is not None and record.atomic_numbers.dtype == np.uint8
    parsed = Chem.MolFromSmiles(record.smiles)
    assert [a.GetAtomicNum() for a in parsed.GetAtoms()] == record.atomic_numbers.tolist()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("c1ccccc1C(C)(C)(C)(C)C", "valence for atom # 6 C, 6"),
        ("c1cccc1", "kekulize"),
        ("CC(", "syntax error"),
        ("C1CC", "unclosed ring"),
        ("*CC", "placeholder"),
        ("C[Zz]", "cannot be read"),
    ],
)
def test_unparsable_smiles_say_why(text: str, words: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MoleculeError, match=words) as caught:
        build_record(raw(text), TWO)
    assert caught.value.status == "unparsable"
    assert capfd.readouterr().err == ""


def test_other_refusals() -> None:
    with pytest.raises(MoleculeError, match="line 3 is torn"):
        build_record(raw("CCO", problem="line 3 is torn"), TWO)
    with pytest.raises(MoleculeError, match="11 heavy atoms; the limit is 10") as caught:
        build_record(raw("C" * 11), ChemistryOptions(max_atoms=10))
    assert caught.value.status == "too_large"
    with pytest.raises(MoleculeError, match="mol block cannot be read"):
        build_record(raw("not\na\nblock\nat all", "mol"), TWO)
    with pytest.raises(ConfigError, match="num_conformers"):
        ChemistryOptions(num_conformers=0)


def test_valence_is_not_checked_at_metals_only() -> None:
    record = build_record(raw("O=N(C)(C)[Fe]"), TWO)
    assert record.num_atoms == 5
    assert isinstance(build(raw("CN(C)(C)C"), TWO), MoleculeError)


@pytest.mark.parametrize(
    "smiles", ["CC(=O)Oc1ccccc1C(=O)O", "C[C@H](N)C(=O)O", "F/C=C/Cl", "CC(=O)[O-].[Na+]", "C[N+](=O)[O-]"]
)
def test_conformers_do_not_depend_on_the_way_of_writing(smiles: str) -> None:
    expected = build_record(raw(smiles), TWO)
    mol = Chem.MolFromSmiles(smiles)
    forms = [raw(Chem.MolToSmiles(mol, doRandom=True)) for _ in range(4)]
    forms.append(raw(Chem.MolToSmiles(Chem.AddHs(mol))))
    forms += [raw(block_3d(smiles, v3000=flag), "mol") for flag in (False, True)]
    forms.append(raw(block_3d(smiles, hydrogens=False), "mol"))
    for form in forms:
        record = build_record(form, TWO)
        assert record.smiles == expected.smiles
        graph = ("atom_features", "bond_index", "bond_features", "orbital_energies", "orbital_shares")
        for name in ("positions", "atomic_numbers", *graph):
            assert np.array_equal(getattr(record, name), getattr(expected, name)), (name, form.text)


def test_stereochemistry_is_read_from_3d_and_kept_in_the_conformers() -> None:
    record = build_record(raw(block_3d("C[C@H](N)C(=O)O"), "mol"), TWO)
    other = build_record(raw("C[C@@H](N)C(=O)O"), TWO)
    assert record.smiles == Chem.CanonSmiles("C[C@H](N)C(=O)O") != other.smiles
    mol = Chem.MolFromSmiles(record.smiles)
    conformer = Chem.Conformer(record.num_atoms)
    for index, point in enumerate(record.positions[1].tolist()):
        conformer.SetAtomPosition(index, point)
    mol.AddConformer(conformer)
    Chem.AssignStereochemistryFrom3D(mol)
    assert Chem.MolToSmiles(mol) == record.smiles


def test_given_geometry_is_kept_in_canonical_order() -> None:
    smiles = "OCC(N)=O"
    mol = Chem.MolFromMolBlock(block_3d(smiles), removeHs=True)
    record = build_record(raw(Chem.MolToMolBlock(mol), "mol"), ChemistryOptions(geometry="input"))
    order = Chem.MolFromSmiles(record.smiles).GetSubstructMatch(mol)
    given = mol.GetConformer().GetPositions()
    assert np.allclose(record.positions[0][list(order)], given - given.mean(0), atol=1e-3)
    assert record.conformer_source.tolist() == [0]
    full = build_record(raw(block_3d(smiles), "mol"), ChemistryOptions(geometry="input", hydrogens=True))
    assert full.num_atoms == 10
    lengths = np.linalg.norm(full.positions[0][:, None] - full.positions[0], axis=-1)[
        full.bond_index[0], full.bond_index[1]
    ]
    assert lengths.max() < 1.8


def test_a_drawing_is_no_geometry() -> None:
    drawing = Chem.MolToMolBlock(Chem.MolFromSmiles("CCO"))
    for row in (raw(drawing, "mol"), raw("CCO")):
        with pytest.raises(MoleculeError) as caught:
            build_record(row, ChemistryOptions(geometry="input"))
        assert caught.value.status == "no_geometry"


def test_features() -> None:
    record = build_record(raw("C[N+](=O)[O-]"), TWO)
    assert record.smiles == "C[N+](=O)[O-]"
    assert record.atom_features is not None and record.bond_index is not None and record.bond_features is not None
    carbon, nitrogen, doubly, singly = record.atom_features.tolist()
    assert carbon == [5, 0, 4, 5, 3, 0, 2, 0, 0]
    assert nitrogen == [6, 0, 3, 6, 0, 0, 1, 0, 0]
    assert doubly == [7, 0, 1, 5, 0, 0, 1, 0, 0]
    assert singly == [7, 0, 1, 4, 0, 0, 1, 0, 0]
    assert record.bond_index.tolist() == [[0, 1, 1, 2, 1, 3], [1, 0, 2, 1, 3, 1]]
    assert record.bond_index.dtype == np.int16
    assert record.bond_features[:, 0].tolist() == [0, 0, 1, 1, 0, 0]
    assert (build_record(raw("[CH2]C"), TWO).atom_features[:, 5] == 1).any()
    full = build_record(raw("C"), ChemistryOptions(num_conformers=1, hydrogens=True))
    assert full.num_atoms == 5 and full.atom_features[0, 4] == 4


def test_features_stay_in_their_ranges() -> None:
    for smiles in (
        "[U+6]",
        "[C@H](F)(Cl)Br",
        "F/C=C/Cl",
        "F[S](F)(F)(F)(F)F",
        "[Pt](Cl)(Cl)(N)N",
        "[Sn-9]",
        "c1ccccc1",
    ):
        record = build_record(raw(smiles), ChemistryOptions(num_conformers=1))
        assert (record.atom_features < np.array(ATOM_FEATURE_SIZES)).all()
        assert (record.bond_features < np.array(BOND_FEATURE_SIZES)).all()


def test_row_values_are_carried_and_features_can_be_left_out() -> None:
    row = RawMolecule(4, "x7", "CCO", targets={"gap": 2.5})
    record = build_record(row, ChemistryOptions(num_conformers=1, features=False))
    assert record.id == "x7" and record.targets == {"gap": 2.5}
    assert record.atom_features is None and record.bond_index is None and record.orbital_energies is None


def test_frontier_orbitals_are_those_of_the_whole_molecule_in_its_first_conformer() -> None:
    smiles = "OCC(N)=O"
    kept, full = (
        build_record(raw(smiles), ChemistryOptions(num_conformers=1, hydrogens=flag)) for flag in (False, True)
    )
    expected = frontier_orbitals(full.atomic_numbers, full.positions[0])
    np.testing.assert_allclose(kept.orbital_energies, expected.energies, atol=2e-3)
    np.testing.assert_allclose(kept.orbital_shares, expected.shares[: kept.num_atoms], atol=2e-4)
    assert full.orbital_shares.shape == (full.num_atoms, 4)
    assert full.orbital_energies.dtype == np.float32


def test_frontier_orbitals_know_the_charge_and_are_of_the_first_conformer() -> None:
    """Charges and conformers move levels by far more than rounding does."""
    record = build_record(raw("OCCCC(=O)[O-]"), ChemistryOptions(num_conformers=4, hydrogens=True))
    expected = [frontier_orbitals(record.atomic_numbers, positions, -1).energies for positions in record.positions]
    np.testing.assert_allclose(record.orbital_energies, expected[0], atol=5e-3)
    assert min(np.abs(record.orbital_energies - other).max() for other in expected[1:]) > 0.02
    uncharged = frontier_orbitals(record.atomic_numbers, record.positions[0]).energies
    assert np.abs(record.orbital_energies - uncharged).max() > 0.02


@pytest.mark.parametrize("hydrogens", [False, True])
def test_frontier_orbitals_of_a_given_geometry_know_its_hydrogens(hydrogens: bool) -> None:
    smiles = "OCC(N)=O"
    given = ChemistryOptions(geometry="input", hydrogens=hydrogens)
    with_all = build_record(raw(block_3d(smiles), "mol"), given)
    mol = Chem.MolFromMolBlock(block_3d(smiles), removeHs=False)
    expected = frontier_orbitals(
        np.array([a.GetAtomicNum() for a in mol.GetAtoms()]), mol.GetConformer().GetPositions()
    )
    np.testing.assert_allclose(with_all.orbital_energies, expected.energies, atol=0.01)
    placed = build_record(raw(block_3d(smiles, hydrogens=False), "mol"), given)
    np.testing.assert_allclose(placed.orbital_energies, expected.energies, atol=1.0)  # other places of the hydrogens


def test_frontier_orbitals_can_be_left_out() -> None:
    record = build_record(raw("CCO"), ChemistryOptions(num_conformers=1, orbitals="none"))
    assert record.orbital_energies is None and record.orbital_shares is None and record.atom_features is not None


def test_a_flat_drawing_has_no_frontier_orbitals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformers, "embed", lambda *arguments: 0)
    record = build_record(raw("OCC(N)=O"), TWO)
    assert CONFORMER_SOURCES[record.conformer_source[0]] == "flat_2d"
    assert np.isnan(record.orbital_energies).all() and record.orbital_shares.shape == (5, 4)


def test_unexpected_errors_become_values(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Record:
        raise RuntimeError("Pre-condition Violation")

    monkeypatch.setattr(build_module, "canonicalise", broken)
    result = build(raw("CCO"), TWO)
    assert isinstance(result, MoleculeError) and result.status == "failed"
    assert "Pre-condition Violation" in str(result)


def test_chemistry_never_imports_torch() -> None:
    code = "import sys, geomformer.chem.build, geomformer.executors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_block_without_atoms_is_no_molecule() -> None:
    for geometry in ("generate", "input"):
        found = build(raw(Chem.MolToMolBlock(Chem.Mol()), "mol"), ChemistryOptions(geometry=geometry))  # type: ignore[arg-type]
        assert isinstance(found, MoleculeError) and (found.status, found.message) == (
            "unparsable",
            "The structure has no atoms.",
        )


def test_a_chain_too_long_for_rdkit_to_write_is_refused_before() -> None:
    # RDKit's SMILES writer overflows the stack at some 20,000 atoms, so this runs in a process of its own.
    code = (
        "from geomformer.chem.build import ChemistryOptions, build\n"
        "from geomformer.records import RawMolecule\n"
        "print(build(RawMolecule(0, 'm', 'C' * 30_000), ChemistryOptions()).status)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout.strip()) == (0, "too_large")


@pytest.mark.parametrize("value", ["nan", "inf", "1e30", "-20000"])
def test_coordinates_that_cannot_be_are_no_geometry(value: str) -> None:
    rows = block_3d("CCO", v3000=True).split("\n")
    first = next(i for i, row in enumerate(rows) if "BEGIN ATOM" in row) + 1
    words = rows[first].split()
    rows[first] = " ".join(["M  V30", *words[2:4], value, *words[5:]])
    text = "\n".join(rows)
    with pytest.raises(MoleculeError, match="beyond 10000 Angstrom") as refused:
        build_record(raw(text, "mol"), ChemistryOptions(geometry="input"))
    assert refused.value.status == "no_geometry"
    # Only the graph is read here, and as a label the geometry is left out.
    assert build_record(raw(text, "mol", reference_block=text), TWO).target_positions is None
