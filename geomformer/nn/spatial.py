"""The block of SAKE that turns edge vectors into invariants of a node, and what its ablations put in its place.

All of them read, for every pair, the attended edge E_ij (C = H d numbers) and u_ij, the direction from i to j (zero for
an atom with itself), and return the invariants s_i that the post-norm network reads, and the step dv_i of the velocity.
Means run over all real atoms of the system, the atom itself included; the three numbers of u_ij, not the many of
lambda_ij, are divided by how many these are. Legend: `nn.ops`; L coefficients, S invariants.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from geomformer.nn.harmonics import harmonics


class Coefficients(nn.Module):
    """lambda_ij = tanh(E_ij W), of every pair."""

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, count, bias=False)

    def forward(self, edge_BNNC: Tensor) -> Tensor:
        """(B, N, N, L)"""
        return torch.tanh(self.linear(edge_BNNC))


def combine(coefficients_BNNL: Tensor, u_BNNM: Tensor, share_BNN1: Tensor) -> Tensor:
    """mean_j lambda_ij^l u_ij. (B, N, M, L)

    `share_BNN1`: one over the number of atoms; zero for padding and an atom with itself, whose direction is none.
    """
    return torch.matmul((u_BNNM * share_BNN1).mT, coefficients_BNNL)


class SpatialAttention(nn.Module):
    """SAKE: M_i^c = mean_j lambda_ij^c u_ij, s_i^c = |M_i^c|^2, dv_i = W_v M_i."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.coefficients = Coefficients(channels, channels)
        self.step = nn.Linear(channels, 1, bias=False)
        self.num_invariants = channels

    def forward(
        self, edge_BNNC: Tensor, u_BNN3: Tensor, share_BNN1: Tensor, kept_BN3C: Tensor
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """Returns s (B, N, S), dv (B, N, 3) and the vectors to keep, (B, N, 3, C), of which there are none here."""
        m_BN3C = combine(self.coefficients(edge_BNNC), u_BNN3, share_BNN1)
        return self.invariants(m_BN3C), self.step(m_BN3C).squeeze(-1), kept_BN3C

    def invariants(self, m_BN3C: Tensor) -> Tensor:
        return m_BN3C.square().sum(2)


class DotProducts(SpatialAttention):
    """s_i^c = <(M_i W_1)^c, (M_i W_2)^c>: products of mixed combinations; W_1 = W_2 = 1 is SAKE."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.first = nn.Linear(channels, channels, bias=False)
        self.second = nn.Linear(channels, channels, bias=False)

    def invariants(self, m_BN3C: Tensor) -> Tensor:
        return (self.first(m_BN3C) * self.second(m_BN3C)).sum(2)


class PersistentVectors(DotProducts):
    """Vectors kept from layer to layer: V_i += mean_j (lambda_ij u_ij + mu_ij V_j), s_i of V_i as in `DotProducts`."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.transport = Coefficients(channels, channels)

    def forward(
        self, edge_BNNC: Tensor, u_BNN3: Tensor, share_BNN1: Tensor, kept_BN3C: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `SpatialAttention.forward`; the vectors start from zero in the first layer."""
        m_BN3C = combine(self.coefficients(edge_BNNC), u_BNN3, share_BNN1)
        mu_BNNC = self.transport(edge_BNNC) * share_BNN1
        kept_BN3C = kept_BN3C + m_BN3C + torch.einsum("bijc,bjxc->bixc", mu_BNNC, kept_BN3C)
        return self.invariants(kept_BN3C), self.step(m_BN3C).squeeze(-1), kept_BN3C


class PowerSpectrum(SpatialAttention):
    """s_il^c = 4 pi / (2 l + 1) sum_m (mean_j lambda_ij^c Y_lm(u_ij))^2 for every degree l; (1) is SAKE itself.

    dv_i is SAKE's, of the vectors of all coefficients.

    Args:
        channels: C.
        degrees: l.
        matched: the coefficients are divided among the degrees, so that invariants and parameters are as many as
            SAKE's; otherwise every degree reads all of them.
    """

    def __init__(self, channels: int, degrees: tuple[int, ...], matched: bool) -> None:
        super().__init__(channels)
        self.degrees = degrees
        self.matched = matched
        self.num_invariants = channels if matched else channels * len(degrees)

    def forward(
        self, edge_BNNC: Tensor, u_BNN3: Tensor, share_BNN1: Tensor, kept_BN3C: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `SpatialAttention.forward`."""
        lambda_BNNC, count = self.coefficients(edge_BNNC), len(self.degrees)
        parts = lambda_BNNC.chunk(count, -1) if self.matched else (lambda_BNNC,) * count
        powers = [
            combine(part, harmonics(u_BNN3, degree), share_BNN1).square().sum(2)
            for part, degree in zip(parts, self.degrees, strict=True)
        ]
        m_BN3C = combine(lambda_BNNC, u_BNN3, share_BNN1)
        return torch.cat(powers, -1), self.step(m_BN3C).squeeze(-1), kept_BN3C


class Distances(nn.Module):
    """EGNN: no invariants of directions; dv_i = mean_j lambda_ij u_ij moves atoms, whose distances are seen later."""

    num_invariants = 0

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.coefficients = Coefficients(channels, 1)

    def forward(
        self, edge_BNNC: Tensor, u_BNN3: Tensor, share_BNN1: Tensor, kept_BN3C: Tensor
    ) -> tuple[None, Tensor, Tensor]:
        """As `SpatialAttention.forward`, without invariants."""
        return None, combine(self.coefficients(edge_BNNC), u_BNN3, share_BNN1).squeeze(-1), kept_BN3C
