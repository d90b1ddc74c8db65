"""Radial functions of networks that sum over neighbours. Legend: `nn.ops`; E pairs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from geomformer.nn.neighbours import Edges


class GaussianRBF(nn.Module):
    """exp(-(d - mu_k)^2 / (2 s^2)) with K centres mu even over 0 to the cutoff, s their spacing; nothing is learnt."""

    def __init__(self, num_kernels: int, cutoff: float) -> None:
        super().__init__()
        self.centres: Tensor
        self.register_buffer("centres", torch.linspace(0.0, cutoff, num_kernels), persistent=False)
        self.width = cutoff / max(num_kernels - 1, 1)

    def forward(self, d: Tensor) -> Tensor:
        """(...) -> (..., K)"""
        return torch.exp(-0.5 * ((d[..., None] - self.centres) / self.width).square())


class BesselRBF(nn.Module):
    """sin(k pi d / cutoff) / d, k = 1..K (Gasteiger et al., ICLR 2020); at d = 0 its limit k pi / cutoff."""

    def __init__(self, num_kernels: int, cutoff: float) -> None:
        super().__init__()
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.arange(1, num_kernels + 1) * math.pi / cutoff, persistent=False)

    def forward(self, d: Tensor) -> Tensor:
        """(...) -> (..., K)"""
        apart = d[..., None] > 0
        safe = torch.where(apart, d[..., None], 1.0)
        return torch.where(apart, torch.sin(self.frequencies * safe) / safe, self.frequencies)


class ExpNormalRBF(nn.Module):
    """exp(-beta_k (exp(-alpha d) - mu_k)^2), alpha = 5 / reach (Unke and Meuwly, 2019).

    mu is even over exp(-5) to 1 and beta = (2 (1 - exp(-5)) / K)^-2 at the start.
    """

    def __init__(self, num_kernels: int, reach: float, trainable: bool = True) -> None:
        super().__init__()
        self.alpha = 5.0 / reach
        start = math.exp(-5.0)
        centres = torch.linspace(start, 1.0, num_kernels)
        betas = torch.full((num_kernels,), (2.0 / num_kernels * (1.0 - start)) ** -2)
        self.centres: Tensor
        self.betas: Tensor
        for name, values in (("centres", centres), ("betas", betas)):
            if trainable:
                self.register_parameter(name, nn.Parameter(values))
            else:
                self.register_buffer(name, values, persistent=False)

    def forward(self, d: Tensor) -> Tensor:
        """(...) -> (..., K)"""
        gap = torch.exp(-self.alpha * d[..., None]) - self.centres
        return torch.exp(-self.betas * gap.square())


def make_rbf(kind: str, num_kernels: int, cutoff: float) -> GaussianRBF | BesselRBF:
    """Radial functions by name: "gaussian" or "bessel"."""
    return GaussianRBF(num_kernels, cutoff) if kind == "gaussian" else BesselRBF(num_kernels, cutoff)


def unit_vectors(edges: Edges) -> Tensor:
    """R / d, zero where two atoms lie at one place, an atom with itself among them. (E, 3)"""
    return edges.r / torch.where(edges.d > 0, edges.d, 1.0)[:, None]


def other_pairs(edges: Edges) -> Tensor:
    """False for an atom with itself; its periodic copies are others. (E,)"""
    return (edges.query != edges.key) | (edges.d > 0)
