"""A few steps down a potential energy surface, for theories that are too expensive for many.

Newton's method from a model Hessian that knows which atoms are bonded, corrected by what the gradients say (BFGS).
Without it the stiff bonds keep the steps small: ten steps from a multiple of the identity do no more than two.

Sources: Lindh, Bernhardsson, Karlström, Malmqvist, Chem. Phys. Lett. 241, 423 (1995) for the Hessian; Nocedal, Wright,
Numerical Optimization (2006), chapter 6 for its update.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

ALPHA = np.array([[1.0, 0.3949, 0.3949], [0.3949, 0.28, 0.28], [0.3949, 0.28, 0.28]])
"""1/bohr^2, by the rows of the periodic table of two elements; what lies below the third counts as the third."""
BOND_LENGTH = np.array([[1.35, 2.10, 2.53], [2.10, 2.87, 3.40], [2.53, 3.40, 3.40]])
"""bohr, by the same rows."""
STRETCH, BEND, TORSION = 0.45, 0.15, 0.005
"""Force constants where all bonds have their length, hartree/bohr^2 and hartree."""
NEGLIGIBLE = 0.05
"""Closeness below which two atoms are not looked at as a part of bends and torsions."""
STRAIGHT = 0.1
"""Sine of an angle below which it counts as straight."""
FREE = 0.005
"""hartree/bohr^2 added in every direction: all there is where no bond, bend or torsion holds."""
CROWDED = 12.0
"""Bonded atoms per atom, on average, from which no bends and torsions are looked for: a molecule has 2 to 4, one whose
coordinates came in another unit so many that they would not fit into memory."""
MAX_MOVE = 0.3
"""bohr that an atom goes at most in one step."""


def descend(
    surface: Callable[[np.ndarray], tuple[float, np.ndarray] | None], numbers: np.ndarray, start: np.ndarray, steps: int
) -> int:
    """Asks `surface` at `start` and after each of `steps` steps, as long as its answers are numbers.

    Args:
        surface: energy (hartree) and gradient (N, 3), hartree/bohr, at positions (N, 3), bohr; None where it has none.
        numbers: atomic numbers. (N,)
        start: (N, 3), bohr.
        steps: how many to take.

    Returns:
        which of its answers, counted from 0, has the lowest energy; -1 where there was none.
    """
    position = start
    energies: list[float] = []
    hessian = move = before = None
    for step in range(steps + 1):
        answer = surface(position)
        if answer is None or not np.isfinite(answer[0]):
            break
        energies.append(answer[0])
        gradient = answer[1].ravel()
        if step == steps or not np.isfinite(gradient).all():
            break
        if hessian is None or move is None or before is None:
            hessian = model_hessian(numbers, start)
        else:
            hessian = updated(hessian, move, gradient - before)
        move, before = limited(-np.linalg.solve(hessian, gradient)), gradient
        position = position + move.reshape(-1, 3)
    return int(np.argmin(energies)) if energies else -1


def updated(hessian: np.ndarray, move: np.ndarray, change: np.ndarray) -> np.ndarray:
    """H + y y^T / y^T s - H s s^T H / s^T H s for the step s and the change y of the gradient; H as it is where that
    would not stay positive definite.
    """
    if change @ move <= 1e-8:
        return hessian
    along = hessian @ move
    return hessian + np.outer(change, change) / (change @ move) - np.outer(along, along) / (move @ along)


def limited(move: np.ndarray) -> np.ndarray:
    """The step, shortened until no atom goes further than `MAX_MOVE`. (3N,)"""
    furthest = np.linalg.norm(move.reshape(-1, 3), axis=1).max()
    return move * min(1.0, MAX_MOVE / furthest) if furthest > 0 else move


def model_hessian(numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Sum of k b b^T over stretches, bends and torsions, b the gradient of each; k is a constant times the closeness of
    the pairs of atoms along it. (3N, 3N), hartree/bohr^2

    Args:
        numbers: atomic numbers. (N,)
        positions: (N, 3), bohr.
    """
    closeness = closeness_of(numbers, positions)
    bonded = closeness > NEGLIGIBLE
    hessian = FREE * np.eye(positions.size)
    i, j = np.nonzero(np.triu(closeness > 0))
    hessian += springs(len(numbers), (i, j), stretches(positions, i, j), STRETCH * closeness[i, j])
    if bonded.sum() > CROWDED * len(bonded):
        return hessian
    i, j, k = np.nonzero(bonded[:, :, None] & bonded[None] & np.triu(~np.eye(len(bonded), dtype=bool))[:, None])
    for gradients in bends(positions, i, j, k):
        hessian += springs(len(numbers), (i, j, k), gradients, BEND * closeness[i, j] * closeness[j, k])
    i, j, k, m = chains(bonded)
    strength = TORSION * closeness[i, j] * closeness[j, k] * closeness[k, m]
    return hessian + springs(len(numbers), (i, j, k, m), torsions(positions, i, j, k, m), strength)


def closeness_of(numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """exp(alpha (r_0^2 - r^2)): about 1 at the length r_0 of a bond; 0 on the diagonal. (N, N)"""
    row = np.digitize(numbers, [3, 11])
    r2 = ((positions[:, None] - positions) ** 2).sum(-1)
    alpha, length = ALPHA[row[:, None], row], BOND_LENGTH[row[:, None], row]
    result = np.exp(alpha * (length**2 - r2))
    np.fill_diagonal(result, 0.0)
    return result


def springs(
    size: int, atoms: tuple[np.ndarray, ...], gradients: tuple[np.ndarray, ...], strength: np.ndarray
) -> np.ndarray:
    """Sum of k b b^T over M coordinates, each of which moves the same few atoms. (3N, 3N)"""
    blocks = np.zeros((size, size, 3, 3))
    for atom, gradient in zip(atoms, gradients, strict=True):
        for other, its_gradient in zip(atoms, gradients, strict=True):
            np.add.at(blocks, (atom, other), (strength[:, None] * gradient)[:, :, None] * its_gradient[:, None, :])
    return blocks.transpose(0, 2, 1, 3).reshape(3 * size, 3 * size)


def stretches(x: np.ndarray, i: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, ...]:
    direction, _ = _unit(x[i] - x[j])
    return direction, -direction


def bends(x: np.ndarray, i: np.ndarray, j: np.ndarray, k: np.ndarray) -> list[tuple[np.ndarray, ...]]:
    """Gradients of the angle at j: of one in the plane of the three atoms and, where they stand in a line, of a second
    one across it.
    """
    (u, length_u), (v, length_v) = _unit(x[i] - x[j]), _unit(x[k] - x[j])
    cosine = (u * v).sum(-1, keepdims=True)
    sine = np.sqrt(np.maximum(1 - cosine**2, 0.0))
    straight = sine < STRAIGHT
    line, _ = _unit(u - v)
    # Any direction across a line will do; the axis that it follows least gives one.
    across, _ = _unit(np.cross(line, np.eye(3)[np.abs(line).argmin(-1)]))
    safe = np.where(straight, 1.0, sine)
    at_i = np.where(straight, across, (cosine * u - v) / safe) / length_u
    at_k = np.where(straight, across, (cosine * v - u) / safe) / length_v
    second = np.cross(line, across) * straight
    second_i, second_k = second / length_u, second / length_v
    return [(at_i, -at_i - at_k, at_k), (second_i, -second_i - second_k, second_k)]


def chains(bonded: np.ndarray) -> tuple[np.ndarray, ...]:
    """Atoms i-j-k-m of which each is bonded to the next, each chain once."""
    first = np.stack(np.nonzero(np.triu(bonded)), axis=1)
    found = [
        (i, j, k, m)
        for j, k in first
        for i in np.flatnonzero(bonded[j])
        for m in np.flatnonzero(bonded[k])
        if len({i, j, k, m}) == 4
    ]
    return tuple(np.array(found, dtype=int).reshape(-1, 4).T)


def torsions(x: np.ndarray, i: np.ndarray, j: np.ndarray, k: np.ndarray, m: np.ndarray) -> tuple[np.ndarray, ...]:
    """Gradients of the dihedral angle of i-j-k-m; 0 where three of them stand in a line."""
    first, (axis, length), last = x[j] - x[i], _unit(x[k] - x[j]), x[m] - x[k]
    normal_i, normal_m = np.cross(first, axis), np.cross(axis, last)
    off_i, off_m = (np.linalg.norm(n, axis=-1, keepdims=True) for n in (normal_i, normal_m))
    bent = (off_i > STRAIGHT * length) & (off_m > STRAIGHT * length)
    at_i = np.where(bent, -normal_i, 0.0) / np.where(bent, off_i, 1.0) ** 2
    at_m = np.where(bent, normal_m, 0.0) / np.where(bent, off_m, 1.0) ** 2
    p, q = (first * axis).sum(-1, keepdims=True) / length, (last * axis).sum(-1, keepdims=True) / length
    return at_i, -(1 + p) * at_i + q * at_m, p * at_i - (1 + q) * at_m, at_m


def _unit(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    length = np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), math.ulp(1.0))
    return vectors / length, length
