"""Real spherical harmonics against the addition theorem and orthogonality."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from checks.systems import orthogonal

from geomformer.nn.harmonics import MAX_DEGREE, harmonics

DEGREES = range(MAX_DEGREE + 1)


def legendre(degree: int, x: torch.Tensor) -> torch.Tensor:
    coefficients = [0.0] * degree + [1.0]
    return torch.from_numpy(np.polynomial.legendre.legval(x.numpy(), coefficients))


def unit_vectors(count: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(count, 3, dtype=torch.float64), dim=-1)


@pytest.mark.parametrize("degree", DEGREES)
def test_addition_theorem(degree: int) -> None:
    u, v = unit_vectors(50), unit_vectors(50)
    products = (harmonics(u, degree) * harmonics(v, degree)).sum(-1)
    assert torch.allclose(products, legendre(degree, (u * v).sum(-1)), atol=1e-14)


@pytest.mark.parametrize("degree", DEGREES)
def test_homogeneous_and_zero_for_no_direction(degree: int) -> None:
    u = unit_vectors(5)
    assert torch.allclose(harmonics(2.0 * u, degree), 2.0**degree * harmonics(u, degree), atol=1e-13)
    assert not degree or not harmonics(torch.zeros(3), degree).any()


def test_orthogonal_on_the_sphere() -> None:
    """4 pi / (2 l + 1) delta, by a product quadrature that is exact for these polynomials."""
    z, weights = (torch.from_numpy(values) for values in np.polynomial.legendre.leggauss(8))
    phi = torch.arange(16, dtype=torch.float64) * (2.0 * np.pi / 16)
    ring = (1.0 - z.square()).sqrt()
    points = torch.stack([ring[:, None] * phi.cos(), ring[:, None] * phi.sin(), z[:, None].expand(8, 16)], -1)
    values = torch.cat([harmonics(points, degree) for degree in DEGREES], -1)
    gram = torch.einsum("zpa,zpb,z->ab", values, values, weights) * (2.0 * np.pi / 16)
    expected = torch.cat([torch.full((2 * degree + 1,), 4.0 * np.pi / (2 * degree + 1)).double() for degree in DEGREES])
    assert torch.allclose(gram, torch.diag(expected), atol=1e-13)


@pytest.mark.parametrize("degree", DEGREES)
def test_reflection_has_the_parity_of_the_degree(degree: int) -> None:
    u = unit_vectors(5)
    assert torch.allclose(harmonics(-u, degree), (-1.0) ** degree * harmonics(u, degree))


def test_degrees_beyond_the_last_are_refused() -> None:
    with pytest.raises(ValueError, match="found 4"):
        harmonics(torch.randn(3), MAX_DEGREE + 1)


def test_square_and_tetrahedron_differ_from_degree_two_on() -> None:
    """Four unit edges of equal weight: SAKE's degree 1 sees no difference, degrees 2 and 3 do."""
    square = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]]).double()
    tetrahedron = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]).double() / 3**0.5
    turn = orthogonal(1)
    powers = [
        [float(harmonics(edges @ turn.T, degree).mean(0).square().sum()) for degree in DEGREES]
        for edges in (square, tetrahedron)
    ]
    assert powers[0] == pytest.approx([1.0, 0.0, 0.25, 0.0], abs=1e-12)
    assert powers[1] == pytest.approx([1.0, 0.0, 0.0, 5.0 / 9.0], abs=1e-12)
