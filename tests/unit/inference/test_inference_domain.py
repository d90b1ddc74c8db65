from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from checks.molecules import save_model
from rdkit import Chem

from geomformer.artifacts.files import DOMAIN
from geomformer.artifacts.store import Artifact
from geomformer.chem.features import atom_features, bond_features
from geomformer.errors import ArtifactError, DataError
from geomformer.files import file_sha256
from geomformer.inference import domain as domain_module
from geomformer.inference.domain import Domain, describe, read_domain
from geomformer.records import Record

ALCOHOLS = ["C" * n + "O" for n in range(2, 8)]


def record(smiles: str) -> Record:
    mol = Chem.MolFromSmiles(smiles)
    index, bonds = bond_features(mol)
    atoms = atom_features(mol)
    zeros = np.zeros((1, len(atoms), 3), np.float32)
    return Record(
        smiles,
        zeros,
        np.zeros(1, np.uint8),
        atoms[:, 0] + np.uint8(1),
        smiles,
        atom_features=atoms,
        bond_index=index,
        bond_features=bonds,
    )


def domain_of(smiles: list[str], times: int) -> Domain:
    return describe(record(text) for text in smiles for _ in range(times))


def domains(domain: Domain, *smiles: str) -> list[str]:
    return [item.domain for item in domain.judge([record(text) for text in smiles], np.zeros(len(smiles)))]


def test_unfamiliar_surroundings_sizes_and_charges_are_outside() -> None:
    domain = domain_of(ALCOHOLS, 20)
    inside = ["CCCCO", "CCO"]
    outside = ["CC#N", "CC=O", "CCCCCCCCCO", "CO", "[H][H]", "CC[O-]"]  # the third is too long only
    assert domains(domain, *inside, *outside) == ["inside"] * 2 + ["outside"] * 6
    assert domain.ranges.tolist() == [[1, 8], [0, 0]]


def test_molecules_that_were_trained_on_are_inside() -> None:
    names = ["CC#N", "C", "CO", "C[N+](C)(C)C", "FS(F)(F)(F)(F)F"]
    assert domains(domain_of(names, 20), *names) == ["inside"] * 5


def test_unpaired_electrons_are_outside_however_often_they_were_seen() -> None:
    domain = domain_of(["CC[CH2]", "CCO", "CC[O]"], 20)
    assert domains(domain, "CC[CH2]", "CCO", "CC[O]") == ["outside", "inside", "outside"]


def test_a_charge_or_size_of_few_molecules_is_outside() -> None:
    few = [record("CC(=O)[O-]")] * 19 + [record("CC(=O)O")] * 40
    assert domains(describe(few), "CC(=O)[O-]", "CC(=O)O") == ["outside", "inside"]
    assert domains(describe([*few, few[0]]), "CC(=O)[O-]") == ["inside"]
    long = [record("C" * 9)] * 19 + [record("C" * 8)] * 40
    assert domains(describe(long), "C" * 9, "C" * 8) == ["outside", "inside"]
    assert domains(describe([*long, long[0]]), "C" * 9) == ["inside"]


def test_a_wide_environment_needs_several_molecules() -> None:
    # Twelve atoms of one kind in one molecule are one molecule.
    ring = "C1CCCCCCCCCCC1"
    sizes = [len(describe([record(text) for text in [ring] * times]).radius_2) for times in (1, 2, 3)]
    assert sizes == [0, 0, 1]


def test_a_molecule_whose_orbitals_could_not_be_found_is_outside() -> None:
    domain = domain_of(ALCOHOLS, 20)
    known, unknown = (
        dataclasses.replace(record("CCO"), orbital_energies=np.full(8, value)) for value in (-5.0, np.nan)
    )
    small = dataclasses.replace(record("CCO"), orbital_energies=np.array([np.nan] * 3 + [-12.0] * 5))
    found = domain.judge([known, unknown, small, record("CCO")], np.zeros(4))
    assert [item.domain for item in found] == ["inside", "outside", "inside", "inside"]


def test_a_tenth_of_the_atoms_may_be_unfamiliar() -> None:
    trained = domain_of(["C" * 10 + "O", "C" * 40 + "O"], 20)
    ethers = ["C" * 10 + "O" + "C" * n for n in (18, 19)]  # 3 unfamiliar ones of 29 and of 30
    assert domains(trained, *ethers) == ["outside", "inside"]
    larger = dataclasses.replace(trained, max_unfamiliar=np.array([0.2]))
    assert domains(larger, *ethers) == ["inside", "inside"]


def test_describing_does_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = domain_of(ALCOHOLS, 3)
    monkeypatch.setattr(domain_module, "CHUNK", 4)
    cut = domain_of(ALCOHOLS, 3)
    for field in dataclasses.fields(Domain):
        np.testing.assert_array_equal(getattr(whole, field.name), getattr(cut, field.name))
    assert (whole.radius_1[1:] > whole.radius_1[:-1]).all()


def test_expected_errors_follow_what_was_measured() -> None:
    domain = domain_of(ALCOHOLS, 3)
    records = [record(text) for text in ("CCO", "CC#N", "CCCC=O", "CCCCO", "CCCCCC#N", "CCN")]
    spreads = np.array([0.0, 0.1, 0.0, 0.2, 0.05, 0.3])
    shares = domain.judge(records, spreads)
    assert all(item.expected_error is None for item in shares)
    first = domain.fitted(records, spreads, np.full(6, 0.2) + 2 * spreads)
    expected = [item.expected_error for item in first.judge(records, spreads)]
    assert expected == pytest.approx(0.2 + 2 * spreads, abs=1e-5)


def test_errors_that_fall_with_the_spread_give_no_negative_slope() -> None:
    domain = domain_of(ALCOHOLS, 3)
    records = [record(text) for text in ("CCO", "CCCO", "CCCCO", "CCCCCO", "CC#N")]
    spreads = np.array([0.0, 0.1, 0.2, 0.3, 0.0])
    fitted = domain.fitted(records, spreads, 0.5 - spreads)
    assert (fitted.weights >= 0).all() and fitted.weights[3] == 0
    with pytest.raises(DataError, match="at least 4 molecules"):
        domain.fitted(records[:3], spreads[:3], spreads[:3])
    with pytest.raises(DataError, match="found none"):
        describe([])


def test_nothing_is_judged_to_be_nothing() -> None:
    assert domain_of(ALCOHOLS, 3).judge([], np.empty(0)) == []
    only = domain_of(["CCO"], 1)
    assert (len(only.radius_1), len(only.radius_2)) == (3, 0) and domains(only, "CCO", "CCN") == ["inside", "outside"]


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    domain = domain_of(ALCOHOLS, 3)
    return save_model(tmp_path, domain=domain.to_bytes())


def test_a_model_keeps_its_domain(artifact: Artifact, tmp_path: Path) -> None:
    assert artifact.manifest.files[DOMAIN] == file_sha256(artifact.path / DOMAIN)
    found, made = read_domain(artifact.path, artifact.manifest), domain_of(ALCOHOLS, 3)
    assert found is not None
    for field in dataclasses.fields(Domain):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(made, field.name))
        assert getattr(found, field.name).dtype == getattr(made, field.name).dtype
    plain = save_model(tmp_path, "plain")
    assert DOMAIN not in plain.manifest.files and read_domain(plain.path, plain.manifest) is None


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("radius_1", np.array([2, 1], np.uint32), "types, shapes or values"),
        ("radius_2", np.array([1, 2], np.int64), "types, shapes or values"),
        ("ranges", np.zeros((3, 2), np.int64), "types, shapes or values"),
        ("weights", np.zeros(3), "types, shapes or values"),
        ("weights", np.full(4, np.nan), "types, shapes or values"),
        ("max_unfamiliar", np.zeros(0), "types, shapes or values"),
    ],
)
def test_a_domain_that_makes_no_sense_is_refused(
    artifact: Artifact, field: str, value: np.ndarray, message: str
) -> None:
    broken = dataclasses.replace(domain_of(ALCOHOLS, 3), **{field: value})
    (artifact.path / DOMAIN).write_bytes(broken.to_bytes())
    with pytest.raises(ArtifactError, match=message):
        read_domain(artifact.path, artifact.manifest)


def test_a_file_that_is_no_domain_is_refused(artifact: Artifact) -> None:
    (artifact.path / DOMAIN).write_bytes((artifact.path / "selftest.safetensors").read_bytes())
    with pytest.raises(ArtifactError, match="expected max_unfamiliar"):
        read_domain(artifact.path, artifact.manifest)
    (artifact.path / DOMAIN).write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_domain(artifact.path, artifact.manifest)
