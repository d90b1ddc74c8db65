"""Radial functions by hand, at zero too, and pairs that have no direction."""

from __future__ import annotations

import math

import pytest
import torch

from geomformer.nn.neighbours import find_edges
from geomformer.nn.radial import BesselRBF, ExpNormalRBF, GaussianRBF, make_rbf, other_pairs, unit_vectors

D = torch.tensor([0.3, 1.7, 4.2], dtype=torch.float64)


def test_gaussian() -> None:
    rbf = GaussianRBF(11, 5.0).double()
    for row, d in enumerate(D.tolist()):
        expected = [math.exp(-0.5 * ((d - 0.5 * k) / 0.5) ** 2) for k in range(11)]
        assert rbf(D)[row].tolist() == pytest.approx(expected, rel=1e-6)


def test_bessel() -> None:
    rbf = BesselRBF(6, 5.0).double()
    for row, d in enumerate(D.tolist()):
        expected = [math.sin(k * math.pi * d / 5.0) / d for k in range(1, 7)]
        assert rbf(D)[row].tolist() == pytest.approx(expected, rel=1e-5)


def test_bessel_at_zero_is_its_limit_and_flat() -> None:
    rbf = BesselRBF(4, 5.0).double()
    d = torch.tensor([0.0, 1e-6], dtype=torch.float64, requires_grad=True)
    values = rbf(d)
    assert torch.allclose(values[0], values[1])
    (slope,) = torch.autograd.grad(values.sum(), d, create_graph=True)
    (second,) = torch.autograd.grad(slope.sum(), d)
    assert slope[0] == 0.0 and second.isfinite().all()


@pytest.mark.parametrize("trainable", [True, False])
def test_exp_normal(trainable: bool) -> None:
    rbf = ExpNormalRBF(8, 5.0, trainable).double()
    start = math.exp(-5.0)
    beta = (2.0 / 8 * (1.0 - start)) ** -2
    for row, d in enumerate(D.tolist()):
        centres = [start + k * (1.0 - start) / 7 for k in range(8)]
        assert rbf(D)[row].tolist() == pytest.approx(
            [math.exp(-beta * (math.exp(-d) - mu) ** 2) for mu in centres], rel=1e-5
        )
    assert len(list(rbf.parameters())) == (2 if trainable else 0)


def test_kinds() -> None:
    assert isinstance(make_rbf("gaussian", 4, 5.0), GaussianRBF) and isinstance(make_rbf("bessel", 4, 5.0), BesselRBF)


def test_pairs_without_a_direction() -> None:
    """An atom with itself is no pair of others; two atoms at one place, and an atom with its own copy, are."""
    positions = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [3.0, 0.0, 4.0]]])
    pairs = torch.tensor([[0, 0, 0, 0], [0, 1, 2, 0]])
    shifts = torch.tensor([[0.0, 0, 0], [0, 0, 0], [0, 0, 0], [2.0, 0, 0]])
    edges = find_edges(positions, torch.ones(1, 3, dtype=torch.bool), pairs, shifts)
    assert other_pairs(edges).tolist() == [False, True, True, True]
    expected = torch.tensor([[0.0, 0, 0], [0, 0, 0], [0.6, 0, 0.8], [1, 0, 0]])
    assert torch.allclose(unit_vectors(edges), expected)
