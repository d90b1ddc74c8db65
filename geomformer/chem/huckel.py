"""Orbitals by extended Hückel theory, at the cost of one small eigenvalue problem.

Minimal basis of valence s and p orbitals of Slater type, H_ij = K'_ij S_ij (H_ii + H_jj) / 2 with the weighted constant
K' = K + D^2 + D^4 (1 - K), D = (H_ii - H_jj) / (H_ii + H_jj), K = 1.75.

Sources: Hoffmann, J. Chem. Phys. 39, 1397 (1963); Ammeter et al., J. Am. Chem. Soc. 100, 3686 (1978) for K';
parameters of most main-group elements and zinc: Alvarez, Tables of parameters for extended Hückel calculations (1989),
as distributed with YAeHMOP.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import numpy as np

BOHR = 0.529177210903
"""Angstrom."""
WOLFSBERG_HELMHOLZ = 1.75

ELEMENTS: dict[int, tuple[int, int, tuple[float, float], tuple[float, float] | None]] = {
    1: (1, 1, (-13.6, 1.3), None),
    3: (1, 2, (-5.4, 0.65), (-3.5, 0.65)),
    4: (2, 2, (-10.0, 0.975), (-6.0, 0.975)),
    5: (3, 2, (-15.2, 1.3), (-8.5, 1.3)),
    6: (4, 2, (-21.4, 1.625), (-11.4, 1.625)),
    7: (5, 2, (-26.0, 1.95), (-13.4, 1.95)),
    8: (6, 2, (-32.3, 2.275), (-14.8, 2.275)),
    9: (7, 2, (-40.0, 2.425), (-18.1, 2.425)),
    11: (1, 3, (-5.1, 0.733), (-3.0, 0.733)),
    12: (2, 3, (-9.0, 1.1), (-4.5, 1.1)),
    13: (3, 3, (-12.3, 1.167), (-6.5, 1.167)),
    14: (4, 3, (-17.3, 1.383), (-9.2, 1.383)),
    15: (5, 3, (-18.6, 1.75), (-14.0, 1.3)),
    16: (6, 3, (-20.0, 2.122), (-11.0, 1.827)),
    17: (7, 3, (-26.3, 2.183), (-14.2, 1.733)),
    19: (1, 4, (-4.34, 0.874), (-2.73, 0.874)),
    20: (2, 4, (-7.0, 1.2), (-4.0, 1.2)),
    30: (2, 4, (-12.41, 2.01), (-6.53, 1.7)),
    31: (3, 4, (-14.58, 1.77), (-6.75, 1.55)),
    32: (4, 4, (-16.0, 2.16), (-9.0, 1.85)),
    33: (5, 4, (-16.22, 2.23), (-12.16, 1.89)),
    34: (6, 4, (-20.5, 2.44), (-14.4, 2.07)),
    35: (7, 4, (-22.07, 2.588), (-13.1, 2.131)),
    49: (3, 5, (-12.6, 1.903), (-6.19, 1.677)),
    50: (4, 5, (-16.16, 2.12), (-8.32, 1.82)),
    51: (5, 5, (-18.8, 2.323), (-11.7, 1.999)),
    52: (6, 5, (-20.8, 2.51), (-14.8, 2.16)),
    53: (7, 5, (-18.0, 2.679), (-12.7, 2.322)),
}
"""By atomic number: valence electrons, principal quantum number, then energy (eV) and exponent (1/bohr) of the s and of
the p orbitals."""

_GRID = np.arange(0.3, 15.0, 0.025)
"""Distances at which overlaps are tabulated, Angstrom: from `chem.orbitals.COLLAPSED` to vanishing (below 1e-8 but for
alkali and alkaline earth metals)."""
_LAGUERRE, _LEGENDRE = np.polynomial.laguerre.laggauss(8), np.polynomial.legendre.leggauss(24)


def solve(numbers: np.ndarray, positions: np.ndarray, charge: int = 0) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Solves H c = E S c.

    Args:
        numbers: atomic numbers, hydrogens included. (N,)
        positions: (N, 3), Angstrom.
        charge: of the molecule, in e.

    Returns:
        energies of all orbitals, ascending (O,), eV; the Mulliken population of every atom in each (N, O); how many are
        occupied by two electrons. None where an element has no parameters (noble gases, most transition metals, the
        heaviest elements) and where atoms are so close that the orbitals are not independent.
    """
    from scipy.linalg import LinAlgError, eigh  # late: workers that make no orbitals start without scipy

    if not all(int(number) in ELEMENTS for number in numbers):
        return None
    levels = orbital_levels(numbers)
    overlap = overlap_matrix(numbers, positions)
    try:
        energies, coefficients = eigh(hamiltonian(levels, overlap), overlap, check_finite=False)
    except LinAlgError:
        return None
    first = np.cumsum([0, *np.where(numbers[:-1] > 1, 4, 1)])
    electrons = sum(ELEMENTS[int(number)][0] for number in numbers) - charge
    return energies, np.add.reduceat(coefficients * (overlap @ coefficients), first, axis=0), electrons // 2


def orbital_levels(numbers: np.ndarray) -> np.ndarray:
    """H_ii, eV: of every atom its s orbital and, unless it is hydrogen, three p orbitals. (O,)"""
    levels: list[float] = []
    for number in numbers:
        _, _, s, p = ELEMENTS[int(number)]
        levels += [s[0]] if p is None else [s[0], p[0], p[0], p[0]]
    return np.array(levels)


def hamiltonian(levels_O: np.ndarray, overlap_OO: np.ndarray) -> np.ndarray:
    """H_ij = K'_ij S_ij (H_ii + H_jj) / 2, and H_ii on the diagonal. (O, O), eV"""
    total = levels_O[:, None] + levels_O
    square = ((levels_O[:, None] - levels_O) / total) ** 2
    factor = WOLFSBERG_HELMHOLZ + square * (1 + square * (1 - WOLFSBERG_HELMHOLZ))
    result = 0.5 * factor * overlap_OO * total
    np.fill_diagonal(result, levels_O)
    return result


def overlap_matrix(numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """S_ij of all orbitals, in the order of `orbital_levels`. (O, O)"""
    size = len(numbers)
    delta_NN3 = positions[None].astype(np.float64) - positions[:, None]
    d_NN = np.sqrt((delta_NN3**2).sum(-1))
    direction_NN3 = delta_NN3 / np.maximum(d_NN, 1e-12)[..., None]
    ss, s_sigma, sigma_s, sigma_sigma, pi_pi = np.moveaxis(_integrals(numbers, d_NN), -1, 0)
    blocks = np.empty((size, 4, size, 4))
    blocks[:, 0, :, 0] = ss
    blocks[:, 0, :, 1:] = s_sigma[..., None] * direction_NN3
    blocks[:, 1:, :, 0] = np.moveaxis(sigma_s[..., None] * direction_NN3, -1, 1)
    along = direction_NN3[..., :, None] * direction_NN3[..., None, :]
    across = np.eye(3) - along
    blocks[:, 1:, :, 1:] = np.moveaxis(sigma_sigma[..., None, None] * along + pi_pi[..., None, None] * across, -2, 1)
    own = np.arange(size)
    blocks[own, :, own, :] = np.eye(4)
    exists = np.repeat((np.asarray(numbers) > 1)[:, None], 4, axis=1)
    exists[:, 0] = True
    return blocks.reshape(4 * size, 4 * size)[np.ix_(exists.ravel(), exists.ravel())]


def _integrals(numbers: np.ndarray, d_NN: np.ndarray) -> np.ndarray:
    """The five overlaps of every pair of atoms. (N, N, 5)"""
    result = np.zeros((*d_NN.shape, 5))
    atoms = {int(number): np.flatnonzero(numbers == number) for number in np.unique(numbers)}
    for (first, rows), (second, columns) in itertools.combinations_with_replacement(atoms.items(), 2):
        d = d_NN[np.ix_(rows, columns)]
        found = _overlaps(first, second)(np.clip(d, _GRID[0], _GRID[-1])) * (d < _GRID[-1])[..., None]
        result[np.ix_(rows, columns)] = found
        if first != second:  # seen from the other atom "along" points the other way
            result[np.ix_(columns, rows)] = found.swapaxes(0, 1)[..., [0, 2, 1, 3, 4]] * [1, -1, -1, 1, 1]
    return result


@functools.cache
def _overlaps(first: int, second: int) -> Any:
    """Overlaps of the orbitals of two elements by distance in Angstrom: (s, s), (s, p along), (p along, s),
    (p along, p along), (p across, p across), where "along" points from the first atom to the second. 0 without p.
    """
    from scipy.interpolate import CubicSpline

    _, n_a, s_a, p_a = ELEMENTS[first]
    _, n_b, s_b, p_b = ELEMENTS[second]
    table = np.zeros((len(_GRID), 5))
    for column, (a, b, parts) in enumerate(
        ((s_a, s_b, "ss"), (s_a, p_b, "sz"), (p_a, s_b, "zs"), (p_a, p_b, "zz"), (p_a, p_b, "xx"))
    ):
        if a is not None and b is not None:
            table[:, column] = slater_overlap((n_a, a[1]), (n_b, b[1]), parts, _GRID / BOHR)
    return CubicSpline(_GRID, table)


def slater_overlap(a: tuple[int, float], b: tuple[int, float], parts: str, r: np.ndarray) -> np.ndarray:
    """Overlap of two Slater orbitals N r^(n-1) exp(-zeta r) Y on the z axis, by quadrature in prolate spheroidal
    coordinates mu = (r_a + r_b) / R, nu = (r_a - r_b) / R, exact in mu. (R,)

    Args:
        a, b: n and zeta (1/bohr) of the orbital at the origin and of the one at z = R.
        parts: "ss", "sz", "zs", "zz" or "xx": the angular parts, where z points from a to b.
        r: distances R, bohr. (R,)
    """
    (n_a, zeta_a), (n_b, zeta_b) = a, b
    r = r[:, None, None]
    decay = 0.5 * r * (zeta_a + zeta_b)
    mu, nu = 1 + _LAGUERRE[0][:, None] / decay, _LEGENDRE[0]
    weight = _LAGUERRE[1][:, None] * _LEGENDRE[1] * np.exp(-decay - 0.5 * r * (zeta_a - zeta_b) * nu) / decay
    from_a, from_b = 0.5 * r * (mu + nu), 0.5 * r * (mu - nu)
    volume = 2 * math.pi * (0.5 * r) ** 3 * (mu**2 - nu**2)
    of_a: dict[str, Any] = {"s": 1.0, "z": math.sqrt(3) * (1 + mu * nu) / (mu + nu)}
    of_b: dict[str, Any] = {"s": 1.0, "z": math.sqrt(3) * (mu * nu - 1) / (mu - nu)}
    if parts == "xx":  # sine times sine times the mean of cos^2 over the azimuth
        angular = 1.5 * (mu**2 - 1) * (1 - nu**2) / (mu**2 - nu**2)
    else:
        angular = of_a[parts[0]] * of_b[parts[1]]
    radial = from_a ** (n_a - 1) * from_b ** (n_b - 1)
    norm = _norm(n_a, zeta_a) * _norm(n_b, zeta_b) / (4 * math.pi)
    return norm * (weight * volume * angular * radial).sum((1, 2))


def _norm(n: int, zeta: float) -> float:
    return (2 * zeta) ** (n + 0.5) / math.sqrt(math.factorial(2 * n))
