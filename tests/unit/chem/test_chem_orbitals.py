from __future__ import annotations

import math

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers
from scipy.integrate import dblquad

from geomformer.chem.orbitals import (
    ELEMENTS,
    FrontierOrbitals,
    frontier_orbitals,
    orbital_levels,
    overlap_matrix,
    slater_overlap,
    solve,
)

HOMO, LUMO = 3, 4


def molecule(smiles: str) -> tuple[np.ndarray, np.ndarray, int]:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=7) == 0
    rdForceFieldHelpers.MMFFOptimizeMolecule(mol)
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    return numbers, mol.GetConformer().GetPositions(), Chem.GetFormalCharge(mol)


def orbitals(smiles: str) -> FrontierOrbitals:
    return frontier_orbitals(*molecule(smiles))


def rotation(rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(3, 3)))[0]


@pytest.mark.parametrize(
    ("n", "parts", "closed"),
    [
        (1, "ss", lambda p: 1 + p + p**2 / 3),
        (2, "xx", lambda p: 1 + p + 2 * p**2 / 5 + p**3 / 15),
        (2, "zz", lambda p: 1 + p + p**2 / 5 - 2 * p**3 / 15 - p**4 / 15),
        (2, "ss", lambda p: 1 + p + 4 * p**2 / 9 + p**3 / 9 + p**4 / 45),
    ],
)
def test_overlaps_of_equal_exponents_are_mullikens(n: int, parts: str, closed: object) -> None:
    r = np.linspace(0.6, 12.0, 30)
    for zeta in (0.7, 1.625):
        expected = np.exp(-zeta * r) * closed(zeta * r)  # type: ignore[operator]
        np.testing.assert_allclose(slater_overlap((n, zeta), (n, zeta), parts, r), expected, atol=1e-12)


@pytest.mark.parametrize(("a", "b"), [((1, 1.3), (5, 2.3)), ((2, 1.625), (3, 2.1)), ((4, 2.6), (2, 1.95))])
def test_overlaps_of_other_exponents_are_their_integrals(a: tuple[int, float], b: tuple[int, float]) -> None:
    """Against an integral over cylindrical coordinates, of each orbital as it is written down."""
    distance = 3.1

    def radial(orbital: tuple[int, float], r: float) -> float:
        n, zeta = orbital
        return (2 * zeta) ** (n + 0.5) / math.sqrt(math.factorial(2 * n)) * r ** (n - 1) * math.exp(-zeta * r)

    def angular(part: str, z: float, s: float, r: float) -> float:
        values = {"s": 1.0, "z": math.sqrt(3) * z / r, "x": math.sqrt(1.5) * s / r}  # x: root of the mean cos^2
        return values[part] / math.sqrt(4 * math.pi)

    def integrand(s: float, z: float, parts: str) -> float:
        r_a, r_b = math.hypot(s, z), math.hypot(s, z - distance)
        first = radial(a, r_a) * angular(parts[0], z, s, r_a)
        return 2 * math.pi * s * first * radial(b, r_b) * angular(parts[1], z - distance, s, r_b)

    for parts in ("ss", "sz", "zs", "zz", "xx"):
        expected = dblquad(integrand, -25, 28, 1e-9, 25, args=(parts,), epsabs=1e-7)[0]
        assert slater_overlap(a, b, parts, np.array([distance]))[0] == pytest.approx(expected, abs=1e-5), parts


def test_energies_are_those_of_yaehmop() -> None:
    """The same theory and parameters, from the program that RDKit holds, which stops the process at some molecules."""
    eht = pytest.importorskip("rdkit.Chem.rdEHTTools")
    for smiles in ("CCO", "CC(=O)Nc1ccc(O)cc1", "CS(=O)(=O)c1ccccc1Cl", "CP(=O)(O)O", "C[N+](C)(C)C", "CC(=O)[O-]"):
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        numbers, positions, charge = molecule(smiles)
        mol.AddConformer(Chem.Conformer(len(numbers)))
        for atom, place in enumerate(positions.tolist()):
            mol.GetConformer().SetAtomPosition(atom, place)
        found, theirs = eht.RunMol(mol)
        occupied = theirs.numElectrons // 2
        expected = np.array(theirs.GetOrbitalEnergies())[occupied - 4 : occupied + 4]
        assert found
        np.testing.assert_allclose(frontier_orbitals(numbers, positions, charge).energies, expected, atol=0.005)


def test_conjugation_closes_the_gap() -> None:
    gaps = [np.diff(orbitals("C=C" + "C=C" * more).energies)[HOMO] for more in range(4)]
    assert gaps == sorted(gaps, reverse=True) and gaps[0] - gaps[-1] > 1.0
    assert np.diff(orbitals("CCCC").energies)[HOMO] > gaps[0]


def test_a_lone_pair_lies_where_it_belongs() -> None:
    numbers, positions, _ = molecule("CCCCN")
    shares = frontier_orbitals(numbers, positions).shares
    assert shares[:, 0].argmax() == 4 and numbers[4] == 7
    np.testing.assert_allclose(shares.sum(0), 1.0, atol=1e-3)


@pytest.mark.parametrize("smiles", ["CC(=O)Nc1ccccc1", "c1ccccc1", "C#N", "O=C=O", "C", "O=O", "[NH4+]", "[CH3]"])
def test_rotation_reflection_and_order_change_nothing(smiles: str) -> None:
    """Also where orbitals are degenerate, at the edge of the gap and across it."""
    rng = np.random.default_rng(1)
    numbers, positions, charge = molecule(smiles)
    expected = frontier_orbitals(numbers, positions, charge)
    for determinant in (1, -1):
        turn = rotation(rng)
        turn *= determinant * np.sign(np.linalg.det(turn))
        order = rng.permutation(len(numbers))
        found = frontier_orbitals(numbers[order], (positions @ turn.T + 3.0)[order], charge)
        np.testing.assert_allclose(found.energies, expected.energies, atol=2e-3)
        np.testing.assert_allclose(found.shares, expected.shares[order], atol=2e-4)


def test_equal_atoms_have_equal_shares() -> None:
    angles = np.arange(6) * math.pi / 3
    ring = np.stack([np.cos(angles), np.sin(angles), np.zeros(6)], axis=1)
    numbers = np.repeat([6, 1], 6)
    shares = frontier_orbitals(numbers, np.concatenate([1.395 * ring, 2.48 * ring])).shares
    assert np.ptp(shares[:6], axis=0).max() < 2e-4 and np.allclose(shares[:6, 0], 1 / 6, atol=0.01)


def test_values_are_rounded() -> None:
    """So that the number of threads of the eigenvalue problem is not seen."""
    found = orbitals("CC(=O)Nc1ccc(O)cc1")
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


def test_populations_are_those_of_all_electrons() -> None:
    """Of every orbital one in all; an atom far away keeps its own."""
    numbers, positions = np.array([6, 8, 17]), np.array([[0.0, 0, 0], [1.2, 0, 0], [40.0, 0, 0]])
    energies, populations = solve(numbers, positions) or pytest.fail("no orbitals")
    np.testing.assert_allclose(populations.sum(0), 1.0, atol=1e-9)
    assert len(energies) == 12 and np.all(np.diff(energies) >= 0)
    assert np.isclose(np.abs(populations[2] - 1.0), 0.0, atol=1e-9).sum() == 4


def test_overlaps_fade_without_a_step() -> None:
    """Of the most diffuse atoms too: moved past the end of the table they change next to nothing."""
    sodium = np.array([11, 11])
    found = [frontier_orbitals(sodium, np.array([[0.0, 0, 0], [d, 0, 0]])).energies for d in (14.96, 14.99)]
    np.testing.assert_allclose(found[0], found[1], atol=2e-3)


@pytest.mark.parametrize("number", sorted(ELEMENTS))
def test_every_element_has_a_sound_basis(number: int) -> None:
    numbers = np.array([number, 6, 1])
    positions = np.array([[0.0, 0, 0], [1.9, 0.3, 0], [-0.4, 1.7, 0.6]])
    overlap = overlap_matrix(numbers, positions)
    assert len(overlap) == len(orbital_levels(numbers))
    np.testing.assert_allclose(overlap, overlap.T, atol=1e-8)
    assert np.linalg.eigvalsh(overlap)[0] > 0
    assert np.isfinite(frontier_orbitals(numbers, positions).shares).all()
