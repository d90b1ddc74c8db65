"""Equ-LN and its stand-ins: values against eigenvectors, equivariance, first and second derivatives."""

from __future__ import annotations

import pytest
import torch
from checks import reference_block as plain
from checks.comparison import relative_error
from checks.systems import orthogonal
from torch import Tensor, nn

from geomformer.nn import norms
from geomformer.nn.norms import Centre, EquivariantLayerNorm, EquivariantRMSNorm, centred
from geomformer.nn.ops import inverse_sqrt_3x3

D = 8


def of_rank(rank: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """(2, 3, 3, D): every atom's channels span a space of `rank` dimensions, turned at random."""
    z = torch.randn(2, 3, 3, D, dtype=torch.float64)
    z[:, :, rank:] = 0.0
    return torch.einsum("xy,bnyd->bnxd", orthogonal(1), z).to(dtype)


def full_mask() -> Tensor:
    return torch.ones(2, 3, dtype=torch.bool)


def make(kind: str, centre: str = "channels") -> nn.Module:
    norm = EquivariantLayerNorm(D, centre=centre) if kind == "whitening" else EquivariantRMSNorm(D, centre)
    norm.gamma.data += 0.3 * torch.randn(D)
    return norm.double()


@pytest.mark.parametrize("eps", [1.0, 0.1, 1e-3, 1e-5])
@pytest.mark.parametrize("group", ["o3", "e3"])
def test_whitening_is_its_formula(eps: float, group: str) -> None:
    norm = EquivariantLayerNorm(D, eps, "atoms" if group == "e3" else "channels").double()
    norm.gamma.data += 0.3 * torch.randn(D)
    z = torch.randn(2, 5, 3, D).double()
    expected = torch.stack([plain.equ_norm(row, norm.gamma, eps, norms.FLOOR, group) for row in z])
    assert relative_error(norm(z, torch.ones(2, 5, dtype=torch.bool)), expected) < (1e-12 if eps >= 1e-3 else 1e-9)


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_whitening_is_its_formula_on_degenerate_input(rank: int) -> None:
    z = of_rank(rank)
    expected = torch.stack([plain.equ_norm(row, torch.ones(D), 1.0, norms.FLOOR) for row in z])
    assert relative_error(EquivariantLayerNorm(D).double()(z, full_mask()), expected) < 1e-12


def test_rms_is_its_formula() -> None:
    norm, z = make("rms", "none"), torch.randn(2, 3, 3, D).double()
    out = norm(z, full_mask())
    for b in range(2):
        for i in range(3):
            length = torch.sqrt(sum(z[b, i, :, c].dot(z[b, i, :, c]) for c in range(D)) / D + norms.FLOOR)
            assert relative_error(out[b, i], z[b, i] / length * norm.gamma) < 1e-12


@pytest.mark.parametrize("eps", [1e-5, 1e-3])
def test_small_eps_whitens_in_single_precision(eps: float) -> None:
    z = torch.randn(4, 6, 3, 64)
    out = EquivariantLayerNorm(64, eps)(z, torch.ones(4, 6, dtype=torch.bool))
    assert out.dtype == torch.float32
    expected = torch.stack([plain.equ_norm(row.double(), torch.ones(64), eps, norms.FLOOR) for row in z])
    assert relative_error(out.double(), expected) < 1e-5


@pytest.mark.parametrize("kind", ["whitening", "rms"])
@pytest.mark.parametrize("centre", ["channels", "atoms", "none"])
@pytest.mark.parametrize("determinant", [1, -1])
def test_norms_turn_with_their_input(kind: str, centre: str, determinant: int) -> None:
    norm, matrix = make(kind, centre), orthogonal(determinant)
    for rank in (1, 2, 3):
        z = of_rank(rank)
        turned = torch.einsum("xy,bnyd->bnxd", matrix, norm(z, full_mask()))
        assert relative_error(norm(torch.einsum("xy,bnyd->bnxd", matrix, z), full_mask()), turned) < 1e-12


@pytest.mark.parametrize("kind", ["whitening", "rms"])
@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_first_and_second_derivatives(kind: str, rank: int) -> None:
    """At rank 0 the norm bends within sqrt(FLOOR): the differences step far inside it."""
    norm = make(kind)
    z = of_rank(rank)[:1, :1].requires_grad_()
    mask = torch.ones(1, 1, dtype=torch.bool)
    step = {"eps": 1e-6} if rank else {"eps": 1e-3 * norms.FLOOR**0.5}
    assert torch.autograd.gradcheck(lambda x: norm(x, mask), (z,), **step, atol=1e-6, rtol=1e-4)
    assert torch.autograd.gradgradcheck(lambda x: norm(x, mask), (z,), **step, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", ["whitening", "rms"])
@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_derivatives_are_finite_in_single_precision(kind: str, rank: int) -> None:
    norm, z = make(kind).float(), of_rank(rank, torch.float32).requires_grad_()
    (first,) = torch.autograd.grad(norm(z, full_mask()).sin().sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), z)
    assert torch.isfinite(first).all()
    assert torch.isfinite(second).all()


def test_isotropic_covariance_is_smooth() -> None:
    """Three equal eigenvalues: where the derivative of an eigendecomposition is infinite."""
    z = torch.zeros(1, 1, 3, 6)
    z[0, 0] = torch.cat([torch.eye(3), -torch.eye(3)], 1)
    z = z.requires_grad_()
    mask = torch.ones(1, 1, dtype=torch.bool)
    (first,) = torch.autograd.grad(EquivariantLayerNorm(6)(z, mask).sin().sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), z)
    assert torch.isfinite(first).all()
    assert torch.isfinite(second).all()


@pytest.mark.parametrize("kind", ["whitening", "rms"])
def test_zero_stays_zero(kind: str) -> None:
    assert not make(kind)(torch.zeros(2, 3, 3, D).double(), full_mask()).any()


@pytest.mark.parametrize("eps", [1.0, 0.1, 1e-3])
def test_inverse_square_root(eps: float) -> None:
    values = torch.rand(50, 3).double() * torch.tensor([[1.0, 1.0, 0.0]])
    values[:5] = 1.0
    values = values + eps * values.sum(-1, keepdim=True) / 3.0
    turns = torch.stack([orthogonal(1) for _ in range(50)])
    a = turns @ torch.diag_embed(values) @ turns.mT
    exact = turns @ torch.diag_embed(values**-0.5) @ turns.mT
    result = inverse_sqrt_3x3(a, EquivariantLayerNorm(D, eps).newton_steps)
    for row in range(50):
        assert relative_error(result[row], exact[row]) < 1e-14 / eps
    if eps >= 0.1:
        single = inverse_sqrt_3x3(a.float(), EquivariantLayerNorm(D, eps).newton_steps)
        assert relative_error(single.double(), exact) < 1e-5 / eps


def test_mean_over_atoms_leaves_out_padding() -> None:
    z, mask = torch.randn(2, 4, 3, D), torch.tensor([[True] * 4, [True, True, False, False]])
    out = centred(z, mask, "atoms")
    assert torch.allclose(out[1, :2], z[1, :2] - z[1, :2].mean(0), atol=1e-6)
    assert torch.allclose(out[0].mean(0), torch.zeros(3, D), atol=1e-6)
    assert torch.equal(Centre("none")(z, mask), z)
    assert torch.equal(Centre("atoms")(z, mask), out)


def test_single_precision_under_autocast() -> None:
    """The covariance and its root are never formed in bfloat16."""
    norm, z = EquivariantLayerNorm(D), torch.randn(2, 3, 3, D)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = norm(z.bfloat16(), full_mask())
        exact = norm(z, full_mask())
    assert out.dtype == torch.float32
    assert torch.equal(exact, norm(z, full_mask()))
