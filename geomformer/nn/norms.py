"""Normalisation of the equivariant stream (paper appendix A); the invariant one uses `torch.nn.LayerNorm`.

Legend: `nn.ops`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from geomformer.nn.ops import inverse_sqrt_3x3

FLOOR = 0.1
"""Added to the covariance, in units of the stream squared (streams are of order one). It bounds the gain of a norm on a
vector that symmetry keeps at zero (an atom at the centroid, a single atom), where any relative term vanishes: without
it the slopes of all norms multiply, to 1e70 at 12 layers and a floor of 1e-6."""

SINGLE_PRECISION_EPS = 0.1
"""Below this eps the covariance is too badly conditioned for float32 and is inverted in float64."""


class EquivariantLayerNorm(nn.Module):
    """Equ-LN(z_i) = U (z_i - mu 1^T) * gamma, U = (C + eps tr(C)/3 I + floor I)^(-1/2), C the 3x3 covariance.

    The paper's whitening is the limit eps -> 0. There the directions a planar or linear molecule does not have are
    noise divided by itself, at every layer; the relative, isotropic term bounds their gain by sqrt(1.5 / eps) per norm
    and keeps the map equivariant; the floor does the same for vectors that are zero by symmetry.

    Args:
        dim: D.
        eps: relative regulariser; 1 is stable for every geometry, 1e-5 close to the printed formula.
        centre: "channels" subtracts the mean over channels, as printed; "atoms" the mean over the atoms of the
            molecule, which makes the norm invariant to adding one vector to all atoms (paper appendix C.2).
    """

    def __init__(self, dim: int, eps: float = 1.0, centre: str = "channels") -> None:
        super().__init__()
        self.eps = eps
        self.centre = centre
        self.newton_steps = 3 if eps >= 1.0 else 5
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, z_BN3D: Tensor, mask_BN: Tensor) -> Tensor:
        with torch.autocast(z_BN3D.device.type, enabled=False):
            z_BN3D = centred(at_least_float32(z_BN3D), mask_BN, self.centre)
            c_BN33 = Covariance.apply(z_BN3D)
            return torch.matmul(self.whitening(c_BN33), z_BN3D) * self.gamma

    def whitening(self, c_BN33: Tensor) -> Tensor:
        exact = c_BN33.double() if self.eps < SINGLE_PRECISION_EPS else c_BN33
        ridge_BN = self.eps / 3.0 * exact.diagonal(dim1=-2, dim2=-1).sum(-1) + FLOOR
        identity = torch.eye(3, dtype=exact.dtype, device=exact.device)
        return inverse_sqrt_3x3(exact + ridge_BN[..., None, None] * identity, self.newton_steps).to(c_BN33.dtype)


class Covariance(torch.autograd.Function):
    """C = z z^T / D. Its gradient (G + G^T) z / D takes one product; autograd takes two, one of them transposed."""

    @staticmethod
    def forward(ctx: Any, z_BN3D: Tensor) -> Tensor:
        ctx.save_for_backward(z_BN3D)
        return torch.matmul(z_BN3D, z_BN3D.mT) / z_BN3D.shape[-1]

    @staticmethod
    def backward(ctx: Any, grad_BN33: Tensor) -> Tensor:
        (z_BN3D,) = ctx.saved_tensors
        return torch.matmul((grad_BN33 + grad_BN33.mT) / z_BN3D.shape[-1], z_BN3D)


class EquivariantRMSNorm(nn.Module):
    """z_i / sqrt(mean_c |z_ic|^2 + floor) * gamma: one length per atom, directions untouched."""

    def __init__(self, dim: int, centre: str = "none") -> None:
        super().__init__()
        self.centre = centre
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, z_BN3D: Tensor, mask_BN: Tensor) -> Tensor:
        z_BN3D = centred(at_least_float32(z_BN3D), mask_BN, self.centre)
        mean_square_BN = z_BN3D.square().mean(-1).sum(-1)
        return z_BN3D * (mean_square_BN + FLOOR).rsqrt()[..., None, None] * self.gamma


class Centre(nn.Module):
    """No norm, only the subtraction of a mean: what is left of Equ-LN when it is switched off."""

    def __init__(self, centre: str = "none") -> None:
        super().__init__()
        self.centre = centre

    def forward(self, z_BN3D: Tensor, mask_BN: Tensor) -> Tensor:
        return centred(z_BN3D, mask_BN, self.centre)


def at_least_float32(z: Tensor) -> Tensor:
    return z if z.dtype == torch.float64 else z.float()


def centred(z_BN3D: Tensor, mask_BN: Tensor, centre: str) -> Tensor:
    """Subtracts the mean over "channels" or over the real "atoms" of each molecule, or nothing ("none")."""
    if centre == "channels":
        return z_BN3D - z_BN3D.mean(-1, keepdim=True)
    if centre == "atoms":
        weight_BN11 = mask_BN[:, :, None, None].to(z_BN3D.dtype)
        total_B13D = (z_BN3D * weight_BN11).sum(1, keepdim=True)
        return z_BN3D - total_B13D / weight_BN11.sum(1, keepdim=True)
    return z_BN3D
