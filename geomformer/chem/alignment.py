"""Rigid superposition of point sets, in numpy alone: training uses it too."""

from __future__ import annotations

import numpy as np


def kabsch(mobile: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the proper rotation R and translation t that minimise the sum of |R mobile_i + t - target_i|^2.

    Where points are few, collinear or planar the minimiser is not unique; any proper one is returned.

    Args:
        mobile: points to be moved, Angstrom. (N, 3)
        target: where they should go. (N, 3)

    Returns:
        R (3, 3) with determinant +1 and t (3,): `mobile @ R.T + t` lies on `target`.

    Raises:
        ValueError: the shapes differ or hold no point.
    """
    mobile, target = np.asarray(mobile, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if mobile.shape != target.shape or mobile.ndim != 2 or mobile.shape[1] != 3 or len(mobile) == 0:
        raise ValueError(f"Expected two arrays of one shape (N, 3), N >= 1, found {mobile.shape} and {target.shape}.")
    mobile_center, target_center = mobile.mean(axis=0), target.mean(axis=0)
    u, _, vt = np.linalg.svd((target - target_center).T @ (mobile - mobile_center))
    # det(u vt) = -1 would be a reflection: the direction that matters least is turned round.
    sign = 1.0 if np.linalg.det(u) * np.linalg.det(vt) > 0 else -1.0
    rotation = (u * np.array([1.0, 1.0, sign])) @ vt
    return rotation, target_center - rotation @ mobile_center


def rmsd(mobile: np.ndarray, target: np.ndarray) -> float:
    """Root mean square distance after the best proper superposition, Angstrom. Both (N, 3)."""
    return float(permuted_rmsd(mobile, target, np.arange(len(mobile))[None])[0])


def permuted_rmsd(mobile: np.ndarray, target: np.ndarray, permutations: np.ndarray) -> np.ndarray:
    """Root mean square distances of `mobile[p]` to `target` after the best proper superposition, for every p.

    Args:
        mobile: (M, 3), Angstrom.
        target: (N, 3), Angstrom.
        permutations: rows of M-indices. (P, N)

    Returns:
        (P,) float64, Angstrom.
    """
    moved = np.asarray(mobile, dtype=np.float64)[permutations]  # (P, N, 3)
    moved = moved - moved.mean(axis=1, keepdims=True)
    fixed = np.asarray(target, dtype=np.float64)
    fixed = fixed - fixed.mean(axis=0)
    covariance = np.matmul(fixed.T, moved)  # (P, 3, 3)
    singular = np.linalg.svd(covariance, compute_uv=False)
    sign = np.where(np.linalg.det(covariance) < 0, -1.0, 1.0)
    overlap = singular[:, 0] + singular[:, 1] + sign * singular[:, 2]
    squares = (moved**2).sum(axis=(1, 2)) + (fixed**2).sum() - 2 * overlap
    return np.sqrt(np.clip(squares, 0, None) / len(fixed))


def best_permutation(mobile: np.ndarray, target: np.ndarray, permutations: np.ndarray) -> np.ndarray:
    """Returns the row p of `permutations` (P, N) that brings `mobile[p]` closest to `target`; ties: the first. (N,)"""
    if len(permutations) == 1:
        return permutations[0]
    distances = permuted_rmsd(mobile, target, permutations)
    # Round-off must not choose between equally good ones, or results would differ between machines.
    return permutations[int(np.argmax(distances <= distances.min() + 1e-6))]
