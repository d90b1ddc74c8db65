from __future__ import annotations

import csv
import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checks.molecules import relaxed
from scipy.stats import spearmanr

from geomformer.chem import orbitals, xtb
from geomformer.chem.build import ChemistryOptions, build
from geomformer.datasets.options import PrepareOptions
from geomformer.errors import ConfigError
from geomformer.records import RawMolecule

tblite = pytest.importorskip("tblite.interface", reason="tblite is not installed")
from tblite.exceptions import TBLiteRuntimeError  # noqa: E402

SAMPLE = Path(__file__).parents[3] / "data" / "samples" / "pcqm4mv2_valid.csv"
HOMO, LUMO = 3, 4


@pytest.mark.parametrize(
    ("smiles", "occupied"),
    [("O", 4), ("[NH4+]", 4), ("[OH-]", 4), ("[CH3]", 3), ("O=O", 6), ("C[Hg]C", 8), ("Cl[Ce](Cl)Cl", 12)],
)
def test_electrons_are_counted_with_their_charge(smiles: str, occupied: int) -> None:
    """Valence electrons in pairs; of an odd number the last stays alone."""
    numbers, positions, charge = relaxed(smiles)
    energies, populations, found = xtb.solve(numbers, positions, charge) or pytest.fail("no orbitals")
    assert found == occupied
    assert np.all(np.diff(energies) >= 0) and populations.shape == (len(numbers), len(energies))
    np.testing.assert_allclose(populations.sum(0), 1.0, atol=1e-9)


def test_populations_are_those_of_the_charges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the populations of the occupied orbitals are the valence electrons that the program leaves at the atoms."""
    monkeypatch.setattr(xtb, "RELAXATION_STEPS", 0)
    monkeypatch.setattr(xtb, "ACCURACY", 1.0)
    numbers, positions, _ = relaxed("CC(=O)N")
    _, populations, occupied = xtb.solve(numbers, positions) or pytest.fail("no orbitals")
    calculator = tblite.Calculator("GFN1-xTB", numbers, positions / orbitals.huckel.BOHR)
    calculator.set("verbosity", 0)
    charges = calculator.singlepoint().get("charges")
    valence = np.array([{1: 1, 6: 4, 7: 5, 8: 6}[int(number)] for number in numbers])
    np.testing.assert_allclose(valence - 2 * populations[:, :occupied].sum(1), charges, atol=1e-3)


def test_gaps_follow_those_of_density_functional_theory() -> None:
    """More closely than extended Hückel theory does, on molecules of PCQM4Mv2."""
    with SAMPLE.open(newline="", encoding="utf8") as file:
        rows = list(itertools.islice(csv.DictReader(file), 0, 400, 10))
    molecules = [relaxed(row["smiles"]) for row in rows]
    labels = [float(row["gap_ev"]) for row in rows]
    gaps = {
        method: [np.diff(orbitals.frontier_orbitals(*molecule, method).energies)[HOMO] for molecule in molecules]
        for method in ("huckel", "xtb")
    }
    ranks = {method: spearmanr(found, labels).statistic for method, found in gaps.items()}
    assert ranks["xtb"] > 0.85 and ranks["xtb"] > ranks["huckel"] + 0.05, ranks


def test_bond_lengths_that_are_a_little_wrong_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """By 0.05 Angstrom per coordinate the gap changes by 0.3 eV, of which the descent leaves a tenth."""
    numbers, positions, _ = relaxed("CC(=O)Nc1ccccc1")
    noise = 0.05 * np.random.default_rng(2).normal(size=(5, *positions.shape))

    def changes() -> np.ndarray:
        gaps = [np.diff(orbitals.frontier_orbitals(numbers, positions + off, 0, "xtb").energies)[HOMO] for off in noise]
        kept = np.diff(orbitals.frontier_orbitals(numbers, positions, 0, "xtb").energies)[HOMO]
        return np.abs(np.array(gaps) - kept)

    after = changes()
    monkeypatch.setattr(xtb, "RELAXATION_STEPS", 0)
    before = changes()
    assert after.max() < 0.1 and before.mean() > 5 * after.mean()


def test_a_geometry_that_cannot_be_improved_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the program fails after a step, the orbitals are those of the geometry before it."""
    numbers, positions, _ = relaxed("CC(=O)N")
    monkeypatch.setattr(xtb, "RELAXATION_STEPS", 0)
    expected, *_ = xtb.solve(numbers, positions) or pytest.fail("no orbitals")
    monkeypatch.setattr(xtb, "RELAXATION_STEPS", 5)
    update = tblite.Calculator.update
    calls = itertools.count()

    def fails_later(calculator: tblite.Calculator, place: np.ndarray) -> None:
        if next(calls):
            raise TBLiteRuntimeError("the charges do not settle")
        update(calculator, place)

    monkeypatch.setattr(tblite.Calculator, "update", fails_later)
    found, *_ = xtb.solve(numbers, positions) or pytest.fail("no orbitals")
    np.testing.assert_array_equal(found, expected)


def test_the_lowest_geometry_is_the_one_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the last one that was asked for, whose answer a later one must not have overwritten either."""
    numbers, positions, _ = relaxed("CC(=O)N")
    monkeypatch.setattr(xtb, "RELAXATION_STEPS", 0)
    expected, *_ = xtb.solve(numbers, positions) or pytest.fail("no orbitals")

    def uphill(surface: Callable[[np.ndarray], object], numbers: np.ndarray, start: np.ndarray, steps: int) -> int:
        for stretched in (1.0, 1.1, 1.2):
            assert surface(stretched * start) is not None
        return 0

    monkeypatch.setattr(xtb, "descend", uphill)
    found, *_ = xtb.solve(numbers, positions) or pytest.fail("no orbitals")
    np.testing.assert_array_equal(found, expected)


def test_charges_move_the_levels() -> None:
    """Of ammonium they lie some 9 eV below those that its atoms would have without the charge."""
    numbers, positions, charge = relaxed("[NH4+]")
    ion, neutral = (xtb.solve(numbers, positions, q) or pytest.fail("no orbitals") for q in (charge, 0))
    assert ion[2] == neutral[2] == 4 and ion[0][0] < neutral[0][0] - 4.0


def test_large_molecules_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers, positions, _ = relaxed("CC(=O)N")
    after, *_ = xtb.solve(numbers, positions) or pytest.fail("no orbitals")
    monkeypatch.setattr(xtb, "RELAXED_ATOMS", len(numbers) - 1)
    found, *_ = xtb.solve(numbers, positions) or pytest.fail("no orbitals")
    monkeypatch.setattr(xtb, "RELAXATION_STEPS", 0)
    before, *_ = xtb.solve(numbers, positions) or pytest.fail("no orbitals")
    np.testing.assert_array_equal(found, before)
    assert np.abs(after - before).max() > 0.01


def test_what_the_program_refuses_is_unknown() -> None:
    lonely = np.zeros((1, 3))
    for numbers, positions, charge in (
        ([95], lonely, 0),  # beyond radon
        ([1], lonely, 1),  # no electron
        ([58], lonely, 4),  # fewer than none
        ([1] * 401, 2.0 * np.stack([np.arange(401)] * 3, 1), -1),  # too many atoms
        ([6, 6], np.zeros((2, 3)), 0),  # two nuclei in one place
    ):
        found = orbitals.frontier_orbitals(np.array(numbers), positions, charge, "xtb")
        assert np.isnan(found.energies).all() and np.isnan(found.shares).all(), numbers


def test_without_tblite_the_user_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is read, and by a worker of another machine for the whole run, not for each of its rows."""
    monkeypatch.setattr(xtb, "is_installed", lambda: False)
    with pytest.raises(ConfigError, match="take the package tblite") as caught:
        PrepareOptions(chemistry={"orbitals": "xtb"})
    assert "pip install tblite" in caught.value.hint
    with pytest.raises(ConfigError, match="take the package tblite"):
        build(RawMolecule(0, "0", "CCO"), ChemistryOptions(num_conformers=1, orbitals="xtb"))
    PrepareOptions(chemistry={"orbitals": "huckel"})


def test_a_package_that_cannot_be_loaded_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tblite.interface", None)
    assert not xtb.is_installed.__wrapped__()


@pytest.mark.parametrize("number", range(1, 87))
def test_valence_electrons_are_those_of_the_program(number: int) -> None:
    """So that none is asked to hold more charge than it has electrons, which ends the process."""
    electrons = xtb.valence_electrons(number)
    numbers = np.array([number, number])
    calculator = tblite.Calculator("GFN1-xTB", numbers, np.array([[0.0, 0, 0], [0, 0, 30.0]]))
    for key, value in (("verbosity", 0), ("accuracy", 1000.0), ("temperature", 0.1)):
        calculator.set(key, value)
    found = calculator.singlepoint()
    assert found.get("orbital-occupations").sum() == pytest.approx(2 * electrons)
