from __future__ import annotations

import math

import numpy as np
import pytest
from checks.molecules import relaxed
from rdkit import Chem
from scipy.integrate import dblquad

from geomformer.chem.huckel import ELEMENTS, orbital_levels, overlap_matrix, slater_overlap, solve
from geomformer.chem.orbitals import frontier_orbitals


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
        numbers, positions, charge = relaxed(smiles)
        mol.AddConformer(Chem.Conformer(len(numbers)))
        for atom, place in enumerate(positions.tolist()):
            mol.GetConformer().SetAtomPosition(atom, place)
        found, theirs = eht.RunMol(mol)
        occupied = theirs.numElectrons // 2
        expected = np.array(theirs.GetOrbitalEnergies())[occupied - 4 : occupied + 4]
        assert found
        np.testing.assert_allclose(frontier_orbitals(numbers, positions, charge).energies, expected, atol=0.005)


def test_populations_are_those_of_all_electrons() -> None:
    """Of every orbital one in all; an atom far away keeps its own."""
    numbers, positions = np.array([6, 8, 17]), np.array([[0.0, 0, 0], [1.2, 0, 0], [40.0, 0, 0]])
    energies, populations, occupied = solve(numbers, positions) or pytest.fail("no orbitals")
    np.testing.assert_allclose(populations.sum(0), 1.0, atol=1e-9)
    assert len(energies) == 12 and occupied == 8 and np.all(np.diff(energies) >= 0)
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
