from __future__ import annotations

import itertools
import math
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from checks.molecules import relaxed

from geomformer.chem.huckel import BOHR
from geomformer.chem.relaxation import FREE, MAX_MOVE, bends, descend, limited, model_hessian, torsions, updated

SMILES = ["CC(=O)Nc1ccccc1", "C#N", "O=C=O", "CC#CC", "C", "[Na+].[Cl-]", "O=S(=O)(O)c1ccc(Br)cc1"]


def molecule(smiles: str) -> tuple[np.ndarray, np.ndarray]:
    numbers, positions, _ = relaxed(smiles)
    return numbers, positions / BOHR


def angle(x: np.ndarray) -> float:
    u, v = x[0] - x[1], x[2] - x[1]
    return math.acos(u @ v / np.linalg.norm(u) / np.linalg.norm(v))


def dihedral(x: np.ndarray) -> float:
    a, b, c = np.diff(x, axis=0)
    return math.atan2(np.linalg.norm(b) * a @ np.cross(b, c), np.cross(a, b) @ np.cross(b, c))


def numerical(function: Callable[[np.ndarray], float], x: np.ndarray, step: float = 1e-5) -> np.ndarray:
    result = np.zeros_like(x)
    for place in np.ndindex(*x.shape):
        shift = np.zeros_like(x)
        shift[place] = step
        change = math.remainder(function(x + shift) - function(x - shift), 2 * math.pi)  # across 180 degrees
        result[place] = change / (2 * step)
    return result


@pytest.mark.parametrize("seed", range(5))
def test_gradients_are_those_of_the_angles(seed: int) -> None:
    x = 2.0 * np.random.default_rng(seed).normal(size=(4, 3))
    one = [np.array([atom]) for atom in range(4)]
    bend, second = bends(x, *one[:3])
    np.testing.assert_allclose(np.concatenate(bend), numerical(angle, x[:3]), atol=1e-7)
    assert not np.concatenate(second).any()
    np.testing.assert_allclose(np.concatenate(torsions(x, *one)), numerical(dihedral, x), atol=1e-7)


def test_a_straight_angle_bends_in_both_directions_across() -> None:
    """By as much as the atoms move, over their distance from the one in the middle."""
    x = np.array([[0.0, 0, 0], [0, 0, 2.0], [0, 0, 5.0]])
    one = [np.array([atom]) for atom in range(3)]
    gradients = np.stack([np.concatenate(found) for found in bends(x, *one)])
    across = np.einsum("cax,cay->axy", gradients, gradients)
    for atom, rate in enumerate((1 / 2, 1 / 2 + 1 / 3, 1 / 3)):
        np.testing.assert_allclose(across[atom], rate**2 * np.diag([1, 1, 0]), atol=1e-12)
    assert not np.concatenate(torsions(np.vstack([x, [1.0, 0, 6]]), *one, np.array([3]))).any()


@pytest.mark.parametrize("smiles", SMILES)
def test_the_model_hessian_turns_with_the_molecule(smiles: str) -> None:
    """It is symmetric, positive definite, and holds nothing against the molecule moving as a whole but `FREE`."""
    rng = np.random.default_rng(3)
    numbers, x = molecule(smiles)
    hessian = model_hessian(numbers, x)
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-12)
    assert np.linalg.eigvalsh(hessian).min() > 0.99 * FREE
    whole = np.tile(np.eye(3), (len(x), 1))
    np.testing.assert_allclose(hessian @ whole, FREE * whole, atol=1e-10)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    order = rng.permutation(len(x))
    found = model_hessian(numbers[order], (x @ turn.T + 2.0)[order]).reshape(len(x), 3, len(x), 3)
    blocks = hessian.reshape(len(x), 3, len(x), 3)[order][:, :, order]
    np.testing.assert_allclose(found, np.einsum("iajb,xa,yb->ixjy", blocks, turn, turn), atol=1e-8)


@pytest.mark.parametrize("smiles", ["CCO", "C1CC1Cl", "CI", "c1ccsc1"])
def test_the_model_hessian_is_that_of_lindh(smiles: str) -> None:
    """Written anew: constants from the paper, every coordinate once, its gradient from finite differences."""
    numbers, x = molecule(smiles)
    rows = [0 if number <= 2 else 1 if number <= 10 else 2 for number in numbers]
    alpha = [[1.0, 0.3949, 0.3949], [0.3949, 0.28, 0.28], [0.3949, 0.28, 0.28]]
    length = [[1.35, 2.10, 2.53], [2.10, 2.87, 3.40], [2.53, 3.40, 3.40]]

    def closeness(*atoms: int) -> float:
        pairs = itertools.pairwise(atoms)
        powers = [alpha[rows[i]][rows[j]] * (length[rows[i]][rows[j]] ** 2 - sum((x[i] - x[j]) ** 2)) for i, j in pairs]
        return math.exp(sum(powers))

    def term(strength: float, function: Callable[[np.ndarray], float], atoms: list[int]) -> np.ndarray:
        b = np.zeros_like(x)
        b[atoms] = numerical(function, x[atoms])
        return strength * closeness(*atoms) * np.outer(b, b)

    expected = FREE * np.eye(x.size)
    near = {pair for pair in itertools.permutations(range(len(x)), 2) if closeness(*pair) > 0.05}
    for pair in itertools.combinations(range(len(x)), 2):
        expected += term(0.45, lambda ends: float(np.linalg.norm(ends[0] - ends[1])), list(pair))
    for i, j, k in itertools.permutations(range(len(x)), 3):
        if i < k and {(i, j), (j, k)} <= near:
            expected += term(0.15, angle, [i, j, k])
    for i, j, k, m in itertools.permutations(range(len(x)), 4):
        if j < k and {(i, j), (j, k), (k, m)} <= near:
            expected += term(0.005, dihedral, [i, j, k, m])
    np.testing.assert_allclose(model_hessian(numbers, x), expected, atol=1e-7)


def test_coordinates_in_another_unit_cost_no_memory() -> None:
    """Four hundred atoms within two Angstrom: 80,000 pairs, and more bends and torsions than could be counted."""
    x = 4.0 * np.random.default_rng(0).random((400, 3))
    tracemalloc.start()
    model_hessian(np.full(400, 6), x)
    assert tracemalloc.get_traced_memory()[1] < 300e6
    tracemalloc.stop()


def test_the_update_knows_what_the_last_step_did() -> None:
    """H' s = y, and H' as it was across both; H where the surface is curved the other way."""
    rng = np.random.default_rng(0)
    hessian, move = model_hessian(*molecule("CO")), rng.normal(size=18)
    change = 2.0 * hessian @ move
    found = updated(hessian, move, change)
    np.testing.assert_allclose(found @ move, change, atol=1e-10)
    across = rng.normal(size=18)
    across -= across @ change / (change @ change) * change
    np.testing.assert_allclose(found @ across, hessian @ across, atol=1e-10)
    assert updated(hessian, move, -change) is hessian


def test_one_atom_is_held_by_nothing() -> None:
    np.testing.assert_array_equal(model_hessian(np.array([6]), np.zeros((1, 3))), FREE * np.eye(3))


def test_bonds_are_stiffer_than_angles_and_these_than_torsions() -> None:
    """As in ethane: hartree/bohr^2 from the literature's 0.3 to 0.5 for a bond down to 0.005 for its rotation."""
    values = np.linalg.eigvalsh(model_hessian(*molecule("CC")))
    assert values[6] < 0.03 < values[-7] < values[-1] < 2.0


@pytest.mark.parametrize("smiles", ["CC(=O)Nc1ccccc1", "C#N", "C"])
def test_descent_finds_the_minimum_of_springs(smiles: str) -> None:
    """Of a surface 1.5 times as stiff as the model: what the Hessian does not know the gradients say."""
    numbers, x = molecule(smiles)
    stiff = 1.5 * model_hessian(numbers, x)
    asked: list[np.ndarray] = []

    def surface(place: np.ndarray) -> tuple[float, np.ndarray]:
        asked.append(place)
        away = (place - x).ravel()
        return 0.5 * away @ stiff @ away, (stiff @ away).reshape(-1, 3)

    start = x + 0.1 * np.random.default_rng(1).normal(size=x.shape)
    lowest = descend(surface, numbers, start, 8)
    energies = [surface(place)[0] for place in asked[:9]]
    assert len(energies) == 9 and lowest == int(np.argmin(energies)) and energies[lowest] < 1e-3 * energies[0]
    steps = np.diff(np.stack(asked[:9]), axis=0)
    assert np.linalg.norm(steps, axis=-1).max() <= MAX_MOVE + 1e-12


def test_descent_takes_the_lowest_of_the_answers_it_gets() -> None:
    numbers, x = np.array([1, 1]), np.array([[0.0, 0, 0], [1.4, 0, 0]])
    rising = iter([1.0, 0.5, 2.0])
    assert descend(lambda place: (next(rising), np.ones((2, 3))), numbers, x, 2) == 1
    ends = iter([(1.0, np.ones((2, 3))), None])
    assert descend(lambda place: next(ends), numbers, x, 5) == 0
    assert descend(lambda place: None, numbers, x, 5) == -1


@pytest.mark.parametrize(("odd", "lowest"), [((math.nan, np.ones((2, 3))), 0), ((0.0, np.full((2, 3), math.inf)), 1)])
def test_descent_ends_at_what_is_no_number(odd: tuple[float, np.ndarray], lowest: int) -> None:
    answers, places = [(1.0, np.ones((2, 3))), odd], []

    def surface(place: np.ndarray) -> tuple[float, np.ndarray]:
        places.append(place)
        return answers[len(places) - 1]

    assert descend(surface, np.array([1, 1]), np.array([[0.0, 0, 0], [1.4, 0, 0]]), 5) == lowest
    assert len(places) == 2 and np.isfinite(places).all()


def test_no_atom_goes_far_in_one_step() -> None:
    move = np.array([3.0, 4.0, 0.0, 0.1, 0.0, 0.0])
    np.testing.assert_allclose(limited(move), move * MAX_MOVE / 5.0)
    np.testing.assert_array_equal(limited(0.01 * move), 0.01 * move)
    assert not limited(np.zeros(6)).any()
