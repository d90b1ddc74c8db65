"""The EMT recipe: its potential against ASE's, what its splits mean, its records, and its baselines."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT

from geomformer.errors import DataError
from geomformer.prepared.dataset import PreparedDataset
from geomformer.records import Record

RECIPE = Path(__file__).parents[3] / "recipes" / "emt"
MODULES = ("calculator", "systems", "build_data", "baselines")
OOD = {"val_ood_ads": (True, False), "val_ood_cat": (False, True), "val_ood_both": (True, True)}


@pytest.fixture(scope="module")
def recipe():
    """The recipe's modules by name; they import each other from their own folder."""
    sys.path.insert(0, str(RECIPE))
    try:
        yield {name: importlib.import_module(name) for name in MODULES}
    finally:
        sys.path.remove(str(RECIPE))
        for name in MODULES:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def records(recipe):
    """The first records of the dataset, by the systems they were drawn as."""
    built = ((system, recipe["build_data"].build(system)) for system in recipe["systems"].draw_systems(20))
    found = [(system, record) for system, record in built if isinstance(record, Record)]
    assert len(found) > 15
    return found


def as_atoms(record, positions):
    return Atoms(record.atomic_numbers, positions.astype(float), cell=record.cell.astype(float), pbc=record.pbc)


def test_potential_is_that_of_ase(recipe, records):
    for _, record in records[:6]:
        ours, theirs = (as_atoms(record, record.positions[0]) for _ in range(2))
        ours.calc, theirs.calc = recipe["calculator"].PairwiseEMT(ours), EMT()
        # Twice: small moves are evaluated with the pairs found before, large ones with new ones.
        for step in (0.0, 0.1, 1.0):
            move = step * np.random.default_rng(0).uniform(-1, 1, ours.positions.shape)
            ours.positions += move
            theirs.positions += move
            assert ours.get_potential_energy() == pytest.approx(theirs.get_potential_energy(), abs=1e-8, rel=1e-10)
            assert np.allclose(ours.get_forces(), theirs.get_forces(), atol=1e-8, rtol=1e-8)


def test_potential_of_an_atom_alone(recipe):
    atom = Atoms("H", [[0.0, 0.0, 0.0]])
    atom.calc = recipe["calculator"].PairwiseEMT(atom)
    assert atom.get_potential_energy() == pytest.approx(3.21)
    assert not atom.get_forces().any()


def test_splits_hold_out_what_they_say(recipe):
    systems = list(recipe["systems"].draw_systems(3000))
    train = [system for system in systems if system.split == "train"]
    adsorbates, compositions = {item.adsorbate for item in train}, {item.elements for item in train}
    assert adsorbates.isdisjoint({"CH", "NO", "H2O"})
    assert len(adsorbates) == 16
    assert ("Pd",) not in compositions
    assert {element for pair in compositions if len(pair) == 2 for element in pair} == set(recipe["systems"].METALS)
    for system in systems:
        new_adsorbate, new_composition = OOD.get(system.split, (False, False))
        assert (system.adsorbate not in adsorbates) == new_adsorbate
        assert (system.elements not in compositions) == new_composition
    assert systems[:200] == list(recipe["systems"].draw_systems(200))


def test_records_are_relaxed_catalysts(recipe, records):
    for system, record in records:
        slab = record.tags < 2
        assert set(record.tags) == {0, 1, 2}
        assert record.pbc.all()
        assert slab.sum() == 3 * system.size[0] * system.size[1]
        assert np.array_equal(record.fixed, record.tags == 0)
        assert np.array_equal(record.positions[0][record.fixed], record.target_positions[record.fixed])
        relaxed = as_atoms(record, record.target_positions)
        relaxed.calc = EMT()
        assert np.linalg.norm(relaxed.get_forces()[~record.fixed], axis=1).max() < 0.06
        heights = record.positions[0, :, 2]
        assert heights.min() > 9.9
        assert record.cell[2, 2] - heights.max() > 9.9
        assert abs(record.targets["energy"]) < 3


def test_energy_is_relative_to_the_relaxed_clean_slab(recipe, records):
    system, record = next(item for item in records if item[0].facet == "fcc111" and len(item[0].elements) == 1)
    slab = recipe["systems"].ideal_slab(system, np.random.default_rng(0))
    clean = recipe["build_data"].relax(slab)
    together = as_atoms(record, record.target_positions)
    together.calc = EMT()
    assert record.targets["energy"] == pytest.approx(together.get_potential_energy() - clean, abs=1e-4)


def test_checks_refuse_what_is_no_adsorbate_any_more(recipe):
    build, systems = recipe["build_data"], recipe["systems"]
    system = next(item for item in systems.draw_systems(400) if item.adsorbate == "CO" and item.facet == "fcc111")
    rng = np.random.default_rng(1)
    slab, adsorbate = systems.ideal_slab(system, rng), build.relaxed_adsorbate("CO")
    good = systems.with_adsorbate(slab, adsorbate, rng)
    build.check_relaxed(good, slab, adsorbate)
    apart, away, dug = good.copy(), good.copy(), good.copy()
    apart.positions[-1, 2] += 3.0
    away.positions[-2:, 2] += 5.0
    dug.positions[len(slab) - 1, 2] += 2.5
    for atoms, reason in ((apart, "dissociated"), (away, "desorbed"), (dug, "left its place")):
        with pytest.raises(DataError, match=reason):
            build.check_relaxed(atoms, slab, adsorbate)


def test_adsorbate_touches_the_slab_at_first(recipe, records):
    for _, record in records:
        atoms = as_atoms(record, record.positions[0])
        distances = atoms.get_all_distances(mic=True)[record.tags == 2][:, record.tags < 2]
        radii = recipe["build_data"].covalent_radii[record.atomic_numbers]
        sums = radii[record.tags == 2][:, None] + radii[record.tags < 2]
        assert 0.99 < (distances / sums).min() < 1.31


def test_script_writes_the_same_dataset_with_workers(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    written = []
    for workers in (0, 2):
        out = tmp_path / str(workers)
        command = [sys.executable, RECIPE / "build_data.py", "--out", out, "--systems", "6", "--workers", str(workers)]
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)
        written.append({path.name: path.read_bytes() for path in out.iterdir() if path.is_file()})
    assert written[0] == written[1]
    dataset = PreparedDataset(tmp_path / "2")
    lines = written[0]["systems.csv"].decode().splitlines()
    assert lines[0] == "id,split,adsorbate,facet,elements,fraction"
    assert len(lines) == 1 + sum(dataset.splits.values())
    assert dataset.manifest["level_of_theory"] == "EMT (ASE), adsorption energies"


def turned(record, rotation):
    """The same system in another frame."""
    return Record(
        id=record.id,
        atomic_numbers=record.atomic_numbers,
        positions=record.positions.astype(float) @ rotation.T,
        conformer_source=record.conformer_source,
        target_positions=record.target_positions.astype(float) @ rotation.T,
        cell=record.cell.astype(float) @ rotation.T,
        pbc=record.pbc,
        tags=record.tags,
        fixed=record.fixed,
        targets=record.targets,
    )


def test_displacement_baselines_turn_with_the_system(recipe, records):
    chosen = [record for _, record in records]
    fit = recipe["baselines"].Displacements(chosen)
    rotation = recipe["systems"].rotation(np.random.default_rng(3))
    for record in chosen[:4]:
        for predict in (fit.by_mean, fit.by_fit):
            moved = predict(record)
            assert np.array_equal(moved[record.fixed], record.positions[0][record.fixed])
            assert not np.array_equal(moved, record.positions[0])
            assert np.allclose(predict(turned(record, rotation)), moved @ rotation.T, atol=1e-4)


def test_ridge_finds_a_linear_law(recipe):
    rng = np.random.default_rng(0)
    features, weights = rng.normal(size=(2000, 5)), np.arange(5.0)
    fit = recipe["baselines"].fit_ridge(features, features @ weights + 7)
    assert np.allclose(fit(features), features @ weights + 7, atol=0.02)


def test_table_has_a_row_for_every_scored_split(recipe, records):
    labels = {system.id: {"adsorbate": system.adsorbate, "facet": system.facet} for system, _ in records}
    splits = {"train": [record for system, record in records if system.split == "train"]}
    splits["val_id"] = [record for system, record in records if system.split == "val_id"]
    lines = recipe["baselines"].table(splits, labels).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith(f"| val_id | {len(splits['val_id'])} |")
    assert "nan" not in lines[2]


def test_mean_displacements(recipe, records):
    found = recipe["baselines"].mean_displacements([record for _, record in records])
    # Atoms that go back from a Gaussian of 0.2 Angstrom per coordinate.
    assert found[1] == pytest.approx(0.2 * np.sqrt(8 / np.pi), abs=0.05)
    assert found[2] > found[1]


def test_labels_have_to_be_there(recipe, tmp_path):
    with pytest.raises(DataError, match=r"systems\.csv"):
        recipe["baselines"].read_labels(tmp_path / "systems.csv")
