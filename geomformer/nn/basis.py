"""Gaussian basis kernels of a distance, with a per-type affine (paper appendix A).

Legend: `nn.ops`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from geomformer.nn.ops import lookup

MIN_WIDTH = 0.01
"""Angstrom. Widths are drawn near zero by the paper's U(0, 3) start: an unclamped kernel would be a spike."""

MIN_EXPONENT = -80.0
"""exp of less is a denormal number in float32, on which a CPU computes several times slower."""


class GaussianBasis(nn.Module):
    """psi_k(x) = 1 / (sqrt(2 pi) s_k) exp(-((x - mu_k) / s_k)^2 / 2), s_k = |sigma_k| + MIN_WIDTH.

    Paper appendix A; the printed leading minus is absorbed by the linear map that follows.

    Args:
        num_kernels: K.
        start: "uniform" draws mu and sigma from U(0, 3), as the code the paper builds on; "spread" sets centres
            evenly over 0 to `reach`, with the spacing as width, so that every distance is resolved from the start.
        reach: Angstrom.
    """

    def __init__(self, num_kernels: int, start: str = "spread", reach: float = 9.0) -> None:
        super().__init__()
        if start == "uniform":
            centres, widths = torch.rand(num_kernels) * 3.0, torch.rand(num_kernels) * 3.0
        else:
            centres = torch.linspace(0.0, reach, num_kernels)
            widths = torch.full((num_kernels,), reach / max(num_kernels - 1, 1))
        self.centres = nn.Parameter(centres)
        self.widths = nn.Parameter(widths)

    def forward(self, x: Tensor) -> Tensor:
        """(...) -> (..., K). The exponent takes the prefactor in, which saves a pass over the largest tensor."""
        width_K = self.widths.abs() + MIN_WIDTH
        inverse_K = width_K.reciprocal() * math.sqrt(0.5)
        scaled = torch.addcmul(-self.centres * inverse_K, x[..., None], inverse_K)
        log_prefactor_K = -(width_K * math.sqrt(2.0 * math.pi)).log()
        return torch.addcmul(log_prefactor_K, scaled, scaled, value=-1.0).clamp_min(MIN_EXPONENT).exp()


class AtomAffine(nn.Module):
    """gamma_i d_i + beta_i with learnable scalars per atom type (paper section 4.2, input layer)."""

    def __init__(self, num_types: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(num_types))
        self.beta = nn.Parameter(torch.zeros(num_types))

    def forward(self, d_BN: Tensor, types_BN: Tensor) -> Tensor:
        return lookup(self.gamma, types_BN) * d_BN + lookup(self.beta, types_BN)


class PairAffine(nn.Module):
    """gamma_ij d_ij + beta_ij with learnable scalars per pair of atom types (paper appendix A).

    Args:
        num_types: number of atom types.
        factorised: gamma_ij = g_i + g_j and beta_ij = b_i + b_j, so that rare pairs are trained through their atoms;
            otherwise a table over ordered pairs, as printed.
    """

    def __init__(self, num_types: int, factorised: bool = True) -> None:
        super().__init__()
        self.factorised = factorised
        shape = (num_types,) if factorised else (num_types, num_types)
        self.gamma = nn.Parameter(torch.full(shape, 0.5 if factorised else 1.0))
        self.beta = nn.Parameter(torch.zeros(shape))

    def forward(self, d: Tensor, row_types: Tensor, column_types: Tensor) -> Tensor:
        """Distances of any shape, and the types of both atoms, of the same shape or broadcast to it."""
        if self.factorised:
            gamma, beta = (lookup(table, row_types) + lookup(table, column_types) for table in (self.gamma, self.beta))
        else:
            pair_types = row_types * len(self.gamma) + column_types
            gamma, beta = (lookup(table.flatten(), pair_types) for table in (self.gamma, self.beta))
        return torch.addcmul(beta, gamma, d)


def cosine_cutoff(d: Tensor, cutoff: float) -> Tensor:
    """(cos(pi d / cutoff) + 1) / 2 inside the cutoff, zero outside; value and slope are continuous."""
    return 0.5 * (torch.cos(d.clamp(max=cutoff) * (math.pi / cutoff)) + 1.0)
