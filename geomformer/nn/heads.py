"""Heads: scalars per system and vectors per atom. Legend: `nn.ops`; T scalar targets, V vector targets."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geomformer.nn.ops import drop

EPS = 1e-4
"""Smooths |v| within a hundredth of the stream's unit."""


class ScalarHead(nn.Module):
    """T scalars per system from the invariant stream.

    h_i = GELU(Linear(z_i)) is pooled over atoms, y = head(pooled). "sum" is linear after the pooling, so that two
    distant molecules add up; "mean" and "attention" (learnt weights, one set per group of channels) suit intensive
    properties such as gaps and keep one more non-linear layer.

    Args:
        dim: D.
        num_targets: T.
        pooling: "mean", "sum" or "attention".
        num_heads: groups of channels that "attention" weights separately.
    """

    def __init__(self, dim: int, num_targets: int, pooling: str, num_heads: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        self.pooling = pooling
        self.dropout = dropout
        self.atom = nn.Linear(dim, dim)
        self.weight = nn.Linear(dim, num_heads) if pooling == "attention" else None
        self.hidden = nn.Linear(dim, dim) if pooling != "sum" else None
        self.out = nn.Linear(dim, num_targets)

    def forward(self, z_inv_BND: Tensor, weight_BN: Tensor) -> Tensor:
        """Returns (B, T). `weight_BN`: 1 where an atom counts, 0 elsewhere (padding; atoms outside a sum)."""
        p = self.dropout if self.training else 0.0
        hidden_BND = drop(F.gelu(self.atom(z_inv_BND)), p)
        pooled_BD = self.pool(hidden_BND, z_inv_BND, weight_BN.to(hidden_BND.dtype))
        if self.hidden is not None:
            pooled_BD = drop(F.gelu(self.hidden(pooled_BD)), p)
        return self.out(pooled_BD) if self.hidden is not None else self.out_sum(pooled_BD, weight_BN)

    def out_sum(self, pooled_BD: Tensor, weight_BN: Tensor) -> Tensor:
        """sum_i (w h_i + b) = w sum_i h_i + n b"""
        count_B1 = weight_BN.to(pooled_BD.dtype).sum(1, keepdim=True)
        return F.linear(pooled_BD, self.out.weight) + count_B1 * self.out.bias

    def pool(self, hidden_BND: Tensor, z_inv_BND: Tensor, weight_BN: Tensor) -> Tensor:
        if self.weight is not None:
            logits_BNH = self.weight(z_inv_BND).masked_fill(weight_BN[..., None] == 0, float("-inf"))
            weights_BNH = torch.softmax(logits_BNH, dim=1)
            grouped_BNHC = hidden_BND.unflatten(-1, (weights_BNH.shape[-1], -1))
            return (weights_BNH[..., None] * grouped_BNHC).sum(1).flatten(1)
        total_BD = torch.matmul(weight_BN[:, None, :], hidden_BND).squeeze(1)
        return total_BD / weight_BN.sum(1, keepdim=True) if self.pooling == "mean" else total_BD


class VectorHead(nn.Module):
    """V vectors per atom: a gated equivariant block (Schuett et al. 2021) and a last map that starts at zero.

    v = Z^E W_a, g = MLP([Z^I, |Z^E W_b|]), out = (v * g) W_c
    """

    def __init__(self, dim: int, num_vectors: int = 1) -> None:
        super().__init__()
        self.maps = nn.Linear(dim, 2 * dim, bias=False)
        self.gate = nn.Sequential(nn.Linear(2 * dim, dim), nn.GELU(), nn.Linear(dim, dim))
        self.out = nn.Linear(dim, num_vectors, bias=False)

    def reset_last(self) -> None:
        nn.init.zeros_(self.out.weight)

    def forward(self, z_inv_BND: Tensor, z_equ_BN3D: Tensor) -> Tensor:
        """Returns (B, N, 3, V)."""
        v_BN3D, w_BN3D = (F.linear(z_equ_BN3D, weight) for weight in self.maps.weight.chunk(2))
        length_BND = (w_BN3D.square().sum(2) + EPS).sqrt()
        gate_BND = self.gate(torch.cat([z_inv_BND, length_BND], dim=-1))
        return self.out(v_BN3D * gate_BND.unsqueeze(2))
