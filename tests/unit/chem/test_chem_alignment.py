from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from geomformer.chem.alignment import best_permutation, kabsch, permuted_rmsd, rmsd


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


SHAPES = {
    "generic": np.random.default_rng(0).normal(size=(9, 3)),
    "planar": np.random.default_rng(1).normal(size=(7, 3)) * [1, 1, 0],
    "collinear": np.outer(np.arange(4.0), [1.0, 2.0, -1.0]),
    "pair": np.array([[0.0, 0, 0], [0, 0, 1.1]]),
    "point": np.array([[1.0, 2.0, 3.0]]),
    "coincident": np.zeros((3, 3)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_kabsch_recovers_a_rigid_motion(name: str) -> None:
    rng = np.random.default_rng(5)
    mobile = SHAPES[name]
    target = mobile @ random_rotation(rng).T + rng.normal(size=3)
    rotation, translation = kabsch(mobile, target)
    assert np.allclose(mobile @ rotation.T + translation, target, atol=1e-9)
    assert np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
    assert np.isclose(np.linalg.det(rotation), 1.0)


def test_kabsch_never_reflects() -> None:
    mobile = SHAPES["generic"]
    mirrored = mobile * [-1, 1, 1]
    rotation, translation = kabsch(mobile, mirrored)
    assert np.isclose(np.linalg.det(rotation), 1.0)
    moved = mobile @ rotation.T + translation
    expected = np.sqrt(((moved - mirrored) ** 2).sum(-1).mean())
    assert expected > 0.1
    assert np.isclose(rmsd(mobile, mirrored), expected)


def test_kabsch_minimises() -> None:
    rng = np.random.default_rng(2)
    mobile, target = rng.normal(size=(6, 3)), rng.normal(size=(6, 3))
    rotation, translation = kabsch(mobile, target)
    best = ((mobile @ rotation.T + translation - target) ** 2).sum()
    for _ in range(50):
        angle = random_rotation(rng)
        other = (mobile - mobile.mean(0)) @ angle.T + target.mean(0)
        assert ((other - target) ** 2).sum() >= best - 1e-9


@pytest.mark.parametrize("shapes", [((3, 3), (4, 3)), ((0, 3), (0, 3)), ((3, 2), (3, 2))])
def test_kabsch_refuses_other_shapes(shapes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="one shape"):
        kabsch(np.zeros(shapes[0]), np.zeros(shapes[1]))


def test_best_permutation_finds_the_renaming() -> None:
    rng = np.random.default_rng(3)
    target = rng.normal(size=(5, 3))
    permutations = np.array([rng.permutation(5) for _ in range(30)])
    mobile = np.empty_like(target)
    mobile[permutations[17]] = target @ random_rotation(rng).T
    assert (best_permutation(mobile, target, permutations) == permutations[17]).all()
    assert permuted_rmsd(mobile, target, permutations)[17] < 1e-6


def test_alignment_needs_neither_rdkit_nor_torch() -> None:
    code = "import sys, geomformer.chem.alignment; sys.exit('rdkit' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
