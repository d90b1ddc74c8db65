from __future__ import annotations

import math

import numpy as np
import pytest
from checks.molecules import relaxed

from geomformer.chem import xtb
from geomformer.chem.orbitals import FrontierOrbitals, frontier_orbitals
from geomformer.records import OrbitalMethod

HOMO, LUMO = 3, 4


METHODS = [
    "huckel",
    pytest.param("xtb", marks=pytest.mark.skipif(not xtb.is_installed(), reason="tblite is not installed")),
]
either = pytest.mark.parametrize("method", METHODS)


def orbitals(smiles: str, method: OrbitalMethod) -> FrontierOrbitals:
    return frontier_orbitals(*relaxed(smiles), method)


def rotation(rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(3, 3)))[0]


@either
def test_conjugation_closes_the_gap(method: OrbitalMethod) -> None:
    gaps = [np.diff(orbitals("C=C" + "C=C" * more, method).energies)[HOMO] for more in range(4)]
    assert gaps == sorted(gaps, reverse=True) and gaps[0] - gaps[-1] > 1.0
    assert np.diff(orbitals("CCCC", method).energies)[HOMO] > gaps[0]


@either
def test_a_lone_pair_lies_where_it_belongs(method: OrbitalMethod) -> None:
    numbers, positions, _ = relaxed("CCCCN")
    shares = frontier_orbitals(numbers, positions, 0, method).shares
    assert shares[:, 0].argmax() == 4 and numbers[4] == 7
    np.testing.assert_allclose(shares.sum(0), 1.0, atol=1e-3)


@either
@pytest.mark.parametrize("smiles", ["CC(=O)Nc1ccccc1", "c1ccccc1", "C#N", "O=C=O", "C", "O=O", "[NH4+]", "[CH3]"])
def test_rotation_reflection_and_order_change_nothing(smiles: str, method: OrbitalMethod) -> None:
    """Also where orbitals are degenerate, at the edge of the gap and across it."""
    rng = np.random.default_rng(1)
    numbers, positions, charge = relaxed(smiles)
    expected = frontier_orbitals(numbers, positions, charge, method)
    for determinant in (1, -1):
        turn = rotation(rng)
        turn *= determinant * np.sign(np.linalg.det(turn))
        order = rng.permutation(len(numbers))
        found = frontier_orbitals(numbers[order], (positions @ turn.T + 3.0)[order], charge, method)
        np.testing.assert_allclose(found.energies, expected.energies, atol=2e-3)
        np.testing.assert_allclose(found.shares, expected.shares[order], atol=2e-4)


@either
def test_equal_atoms_have_equal_shares(method: OrbitalMethod) -> None:
    angles = np.arange(6) * math.pi / 3
    ring = np.stack([np.cos(angles), np.sin(angles), np.zeros(6)], axis=1)
    numbers = np.repeat([6, 1], 6)
    shares = frontier_orbitals(numbers, np.concatenate([1.395 * ring, 2.48 * ring]), 0, method).shares
    assert np.ptp(shares[:6], axis=0).max() < 2e-4 and np.allclose(shares[:6, 0], 1 / 6, atol=0.01)


@either
def test_values_are_rounded(method: OrbitalMethod) -> None:
    """So that the number of threads of the eigenvalue problem is not seen."""
    found = orbitals("CC(=O)Nc1ccc(O)cc1", method)
    assert np.array_equal(found.energies, found.energies.round(3))
    assert np.array_equal(found.shares, found.shares.round(4))


def test_what_has_no_orbitals_is_unknown() -> None:
    two = np.array([[0.0, 0.0, 0.0], [1.6, 0.0, 0.0]])
    for numbers, positions, charge in (
        ([26, 8], two, 0),  # no parameters
        ([2], two[:1], 0),
        ([6, 6], np.zeros((2, 3)), 0),  # not independent
        ([1], two[:1], 1),  # no electron
        ([1, 1], two, -2),  # no free orbital
    ):
        found = frontier_orbitals(np.array(numbers), positions, charge)
        assert np.isnan(found.energies).all() and np.isnan(found.shares).all(), numbers


def test_small_molecules_know_the_orbitals_they_have() -> None:
    found = frontier_orbitals(np.array([1, 1]), np.array([[0.0, 0.0, 0.0], [0.74, 0.0, 0.0]]))
    assert np.isfinite(found.energies).nonzero()[0].tolist() == [HOMO, LUMO]
    np.testing.assert_allclose(found.shares, 0.5, atol=1e-6)
    bonding = (-13.6 + 1.75 * -13.6 * overlap_of_hydrogen()) / (1 + overlap_of_hydrogen())
    assert found.energies[HOMO] == pytest.approx(bonding, abs=2e-3)
    carbon = frontier_orbitals(np.array([6]), np.zeros((1, 3)))
    np.testing.assert_allclose(carbon.energies[[HOMO, LUMO]], -11.4, atol=1e-5)
    assert np.allclose(carbon.shares, 1.0)


def overlap_of_hydrogen() -> float:
    p = 1.3 * 0.74 / 0.529177210903
    return math.exp(-p) * (1 + p + p**2 / 3)
