"""One GeoMFormer block (paper Eq. 3). Legend: `nn.ops`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from geomformer.nn.attention import (
    EquivariantCrossAttention,
    EquivariantSelfAttention,
    InvariantCrossAttention,
    InvariantSelfAttention,
)
from geomformer.nn.feedforward import EquivariantFeedForward, InvariantFeedForward
from geomformer.nn.norms import Centre, EquivariantLayerNorm, EquivariantRMSNorm
from geomformer.nn.ops import add_dropped


@dataclass(frozen=True)
class BlockOptions:
    """What a block is made of. `group` "o3" is the paper's model; "e3" its appendix C.2, where every module reads the
    equivariant stream minus its mean over atoms. The switches are those of the paper's Tables 8 to 12.
    """

    dim: int
    ffn_dim: int
    num_heads: int
    wiring: str = "sequential"
    group: str = "o3"
    norm: str = "whitening"
    norm_eps: float = 1.0
    inv_self_attention: bool = True
    inv_cross_attention: bool = True
    equ_self_attention: bool = True
    equ_cross_attention: bool = True
    inv_ffn: bool = True
    equ_ffn: bool = True
    inv_norm: bool = True
    equ_norm: bool = True
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    hidden_dropout: float = 0.0
    drop_path: float = 0.0


def make_inv_norm(options: BlockOptions) -> nn.Module:
    return nn.LayerNorm(options.dim) if options.inv_norm else nn.Identity()


def make_equ_norm(options: BlockOptions) -> nn.Module:
    """Equ-LN or one of its stand-ins; in group "e3" each of them subtracts the mean over atoms."""
    atoms = options.group == "e3"
    if not options.equ_norm:
        return Centre("atoms" if atoms else "none")
    if options.norm == "rms":
        return EquivariantRMSNorm(options.dim, "atoms" if atoms else "none")
    return EquivariantLayerNorm(options.dim, options.norm_eps, "atoms" if atoms else "channels")


class Norms(nn.Module):
    """LN of both streams, in front of a pair of modules."""

    def __init__(self, options: BlockOptions) -> None:
        super().__init__()
        self.inv = make_inv_norm(options)
        self.equ = make_equ_norm(options)

    def forward(self, z_inv_BND: Tensor, z_equ_BN3D: Tensor, mask_BN: Tensor) -> tuple[Tensor, Tensor]:
        return self.inv(z_inv_BND), self.equ(z_equ_BN3D, mask_BN)


class GeoMFormerBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward in both streams, pre-LN, with residuals (Eq. 3).

    Z'   = Z   + Self-Attn(LN(Z))
    Z''  = Z'  + Cross-Attn(LN(Z'^I), LN(Z'^E))          wiring "parallel": reads the block's input Z instead of Z'
    Z''' = Z'' + FFN(LN(Z''))
    """

    def __init__(self, options: BlockOptions) -> None:
        super().__init__()
        self.options = options
        o, attention = options, (options.dim, options.num_heads, options.attention_dropout)
        self.self_norms = Norms(o)
        self.cross_norms = Norms(o)
        self.ffn_norms = Norms(o)
        self.inv_self = InvariantSelfAttention(*attention) if o.inv_self_attention else None
        self.equ_self = EquivariantSelfAttention(*attention) if o.equ_self_attention else None
        self.inv_cross = InvariantCrossAttention(*attention) if o.inv_cross_attention else None
        self.equ_cross = EquivariantCrossAttention(*attention) if o.equ_cross_attention else None
        self.inv_ffn = InvariantFeedForward(o.dim, o.ffn_dim, o.activation_dropout) if o.inv_ffn else None
        self.equ_ffn = EquivariantFeedForward(o.dim, o.ffn_dim, o.activation_dropout) if o.equ_ffn else None

    def forward(
        self, z_inv_BND: Tensor, z_equ_BN3D: Tensor, bias_BHNN: Tensor, mask_BN: Tensor
    ) -> tuple[Tensor, Tensor]:
        z_inv, z_equ = z_inv_BND, z_equ_BN3D
        inv, equ = self.self_norms(z_inv, z_equ, mask_BN)
        if self.inv_self:
            z_inv = self.add(z_inv, self.inv_self(inv, bias_BHNN))
        if self.equ_self:
            z_equ = self.add(z_equ, self.equ_self(equ, bias_BHNN))
        parallel = self.options.wiring == "parallel"
        inv, equ = self.cross_norms(*((z_inv_BND, z_equ_BN3D) if parallel else (z_inv, z_equ)), mask_BN)
        if self.inv_cross:
            z_inv = self.add(z_inv, self.inv_cross(inv, equ, bias_BHNN))
        if self.equ_cross:
            z_equ = self.add(z_equ, self.equ_cross(equ, inv, bias_BHNN))
        inv, equ = self.ffn_norms(z_inv, z_equ, mask_BN)
        if self.inv_ffn:
            z_inv = self.add(z_inv, self.inv_ffn(inv))
        if self.equ_ffn:
            z_equ = self.add(z_equ, self.equ_ffn(equ, inv))
        return z_inv, z_equ

    @torch.no_grad()
    def scale_residuals(self, factor: float) -> None:
        """Multiplies the last map of every residual branch."""
        attentions = (self.inv_self, self.equ_self, self.inv_cross, self.equ_cross)
        last = [attention.out for attention in attentions if attention]
        last += [self.inv_ffn.w2] if self.inv_ffn else []
        last += [self.equ_ffn.w3] if self.equ_ffn else []
        for linear in last:
            linear.weight *= factor

    def add(self, z: Tensor, increment: Tensor) -> Tensor:
        """Z + dropped increment, of either stream."""
        if not self.training:
            return z + increment
        return add_dropped(z, increment, self.options.hidden_dropout, self.options.drop_path)
