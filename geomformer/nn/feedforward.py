"""The two feed-forward networks of a GeoMFormer block (paper section 4.2). Legend: `nn.ops`."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from geomformer.nn.ops import channel_drop, drop


class InvariantFeedForward(nn.Module):
    """Inv-FFN(Z^I) = GELU(Z^I W_1) W_2."""

    def __init__(self, dim: int, ffn_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.w1 = nn.Linear(dim, ffn_dim)
        self.w2 = nn.Linear(ffn_dim, dim)

    def forward(self, z_inv_BND: Tensor) -> Tensor:
        hidden = F.gelu(self.w1(z_inv_BND))
        return self.w2(drop(hidden, self.dropout) if self.training else hidden)


class EquivariantFeedForward(nn.Module):
    """Equ-FFN(Z^E) = (Z^E W_1 * GELU(Z^I W_2)) W_3: the invariant stream is the non-linearity."""

    def __init__(self, dim: int, ffn_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.w1 = nn.Linear(dim, ffn_dim, bias=False)
        self.w2 = nn.Linear(dim, ffn_dim)
        self.w3 = nn.Linear(ffn_dim, dim, bias=False)

    def forward(self, z_equ_BN3D: Tensor, z_inv_BND: Tensor) -> Tensor:
        hidden = self.w1(z_equ_BN3D) * F.gelu(self.w2(z_inv_BND)).unsqueeze(2)
        return self.w3(channel_drop(hidden, self.dropout) if self.training else hidden)
