"""The four attentions of a GeoMFormer block (paper Eq. 4 to 7).

Every map is linear; those that act on vectors have no bias. Queries, keys and values of vectors are flattened to
3 * channels per head, which turns the equivariant dot product into an ordinary one. Legend: `nn.ops`.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from geomformer.nn.ops import attend


class _Heads(nn.Module):
    """Splits channels into heads and joins them again, for both streams."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout

    def split_inv(self, x_BND: Tensor, parts: int = 1) -> tuple[Tensor, ...]:
        """(B, N, parts * D) -> parts x (B, H, N, C). Parts are told apart before they are copied: their gradients are
        then joined and put back into place in one pass.
        """
        x_BNPHC = x_BND.unflatten(-1, (parts, self.num_heads, -1))
        return tuple(x_BNHC.transpose(1, 2).contiguous() for x_BNHC in x_BNPHC.unbind(2))

    def join_inv(self, x_BHNC: Tensor) -> Tensor:
        return x_BHNC.transpose(1, 2).flatten(-2)

    def split_equ(self, x_BN3D: Tensor, parts: int = 1) -> tuple[Tensor, ...]:
        """(B, N, 3, parts * D) -> parts x (B, H, N, 3 C)"""
        x_BN3PHC = x_BN3D.unflatten(-1, (parts, self.num_heads, -1))
        return tuple(x_BN3HC.permute(0, 3, 1, 2, 4).flatten(-2) for x_BN3HC in x_BN3PHC.unbind(3))

    def join_equ(self, x_BHNC: Tensor) -> Tensor:
        return x_BHNC.unflatten(-1, (3, -1)).permute(0, 2, 3, 1, 4).flatten(-2)

    @property
    def active_dropout(self) -> float:
        return self.dropout if self.training else 0.0


class InvariantSelfAttention(_Heads):
    """Inv-Self-Attn (Eq. 5): Q = Z^I W_Q, K = Z^I W_K, V = Z^I W_V."""

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__(dim, num_heads, dropout)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, z_inv_BND: Tensor, bias_BHNN: Tensor) -> Tensor:
        q, k, v = self.split_inv(self.qkv(z_inv_BND), 3)
        return self.out(self.join_inv(attend(q, k, v, bias_BHNN, self.active_dropout)))


class EquivariantSelfAttention(_Heads):
    """Equ-Self-Attn (Eq. 5): Q = Z^E W_Q, K = Z^E W_K, V = Z^E W_V."""

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__(dim, num_heads, dropout)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, z_equ_BN3D: Tensor, bias_BHNN: Tensor) -> Tensor:
        q, k, v = self.split_equ(self.qkv(z_equ_BN3D), 3)
        return self.out(self.join_equ(attend(q, k, v, bias_BHNN, self.active_dropout)))


class InvariantCrossAttention(_Heads):
    """Inv-Cross-Attn (Eq. 6): Q = Z^I W_Q, K = <Z^E W_K1, Z^E W_K2>, V = <Z^E W_V1, Z^E W_V2>."""

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__(dim, num_heads, dropout)
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 4 * dim, bias=False)
        self.out = nn.Linear(dim, dim)

    def forward(self, z_inv_BND: Tensor, z_equ_BN3D: Tensor, bias_BHNN: Tensor) -> Tensor:
        # Two products with halves of one weight: gradients of halves of one product would be joined at full size.
        first_BN3D, second_BN3D = (F.linear(z_equ_BN3D, weight) for weight in self.kv.weight.chunk(2))
        k, v = self.split_inv((first_BN3D * second_BN3D).sum(2), 2)
        (q,) = self.split_inv(self.q(z_inv_BND))
        return self.out(self.join_inv(attend(q, k, v, bias_BHNN, self.active_dropout)))


class EquivariantCrossAttention(_Heads):
    """Equ-Cross-Attn (Eq. 7): Q = Z^E W_Q, K = Z^E W_K1 * Z^I W_K2, V = Z^E W_V1 * Z^I W_V2."""

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__(dim, num_heads, dropout)
        self.q = nn.Linear(dim, dim, bias=False)
        self.kv = nn.Linear(dim, 2 * dim, bias=False)
        self.gates = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, z_equ_BN3D: Tensor, z_inv_BND: Tensor, bias_BHNN: Tensor) -> Tensor:
        kv_BN3D = self.kv(z_equ_BN3D) * self.gates(z_inv_BND).unsqueeze(2)
        k, v = self.split_equ(kv_BN3D, 2)
        (q,) = self.split_equ(self.q(z_equ_BN3D))
        return self.out(self.join_equ(attend(q, k, v, bias_BHNN, self.active_dropout)))
