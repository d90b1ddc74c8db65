"""The model's equations read plainly: loops over atoms and heads, one system, no padding, float64.

Section 4.2 and appendix A of the paper with the project's stated deviations (per-head bias, relative isotropic eps).
Weights come from the modules' own linear maps; nothing else of them is used.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from geomformer.nn.attention import (
    EquivariantCrossAttention,
    EquivariantSelfAttention,
    InvariantCrossAttention,
    InvariantSelfAttention,
)
from geomformer.nn.block import GeoMFormerBlock
from geomformer.nn.encodings import CentroidInput, NeighbourInput, StructuralEncoding


def mapped(x: Tensor, linear: nn.Linear, part: int = 0, parts: int = 1) -> Tensor:
    """x W_part + b_part for the part-th of `parts` maps stacked in one linear layer."""
    weight = linear.weight.chunk(parts)[part]
    y = torch.einsum("...d,ed->...e", x, weight)
    return y if linear.bias is None else y + linear.bias.chunk(parts)[part]


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.erf(x / math.sqrt(2.0)))


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, num_heads: int) -> Tensor:
    """Q, K, V of one stream, (n, D) or (n, 3, D); bias (H or 1, n, n). Dot products of vectors sum over xyz."""
    n, dim = q.shape[0], q.shape[-1]
    heads = []
    for h in range(num_heads):
        channels = slice(h * dim // num_heads, (h + 1) * dim // num_heads)
        q_h, k_h, v_h = q[..., channels], k[..., channels], v[..., channels]
        scale = math.sqrt(q_h[0].numel())
        atoms = []
        for i in range(n):
            logits = [(q_h[i] * k_h[j]).sum() / scale + bias[h % bias.shape[0], i, j] for j in range(n)]
            exponentials = [torch.exp(logit - max(logits)) for logit in logits]
            atoms.append(sum(exponentials[j] / sum(exponentials) * v_h[j] for j in range(n)))
        heads.append(torch.stack(atoms))
    return torch.cat(heads, -1)


def inv_self(m: InvariantSelfAttention, z_inv: Tensor, bias: Tensor) -> Tensor:
    q, k, v = (mapped(z_inv, m.qkv, part, 3) for part in range(3))
    return mapped(attention(q, k, v, bias, m.num_heads), m.out)


def equ_self(m: EquivariantSelfAttention, z_equ: Tensor, bias: Tensor) -> Tensor:
    q, k, v = (mapped(z_equ, m.qkv, part, 3) for part in range(3))
    return mapped(attention(q, k, v, bias, m.num_heads), m.out)


def inv_cross(m: InvariantCrossAttention, z_inv: Tensor, z_equ: Tensor, bias: Tensor) -> Tensor:
    """K = <Z^E W_K1, Z^E W_K2>, V = <Z^E W_V1, Z^E W_V2>."""
    k1, v1, k2, v2 = (mapped(z_equ, m.kv, part, 4) for part in range(4))
    k, v = torch.einsum("nxd,nxd->nd", k1, k2), torch.einsum("nxd,nxd->nd", v1, v2)
    return mapped(attention(mapped(z_inv, m.q), k, v, bias, m.num_heads), m.out)


def equ_cross(m: EquivariantCrossAttention, z_equ: Tensor, z_inv: Tensor, bias: Tensor) -> Tensor:
    """K = Z^E W_K1 * Z^I W_K2, V = Z^E W_V1 * Z^I W_V2."""
    q = mapped(z_equ, m.q)
    k1, v1 = (mapped(z_equ, m.kv, part, 2) for part in range(2))
    k2, v2 = (mapped(z_inv, m.gates, part, 2) for part in range(2))
    k, v = torch.einsum("nxd,nd->nxd", k1, k2), torch.einsum("nxd,nd->nxd", v1, v2)
    return mapped(attention(q, k, v, bias, m.num_heads), m.out)


def inv_norm(norm: nn.Module, z_inv: Tensor) -> Tensor:
    assert isinstance(norm, nn.LayerNorm)
    out = torch.empty_like(z_inv)
    for i, z in enumerate(z_inv):
        mean = z.mean()
        variance = ((z - mean) ** 2).mean()
        out[i] = (z - mean) / torch.sqrt(variance + norm.eps) * norm.weight + norm.bias
    return out


def whitened(z_3d: Tensor, eps: float, tiny: float) -> Tensor:
    """(C + eps tr(C)/3 I + tiny I)^(-1/2) z for one atom, through the eigenvectors of C."""
    covariance = torch.einsum("xd,yd->xy", z_3d, z_3d) / z_3d.shape[1]
    values, vectors = torch.linalg.eigh(covariance)
    values = values + eps * values.sum() / 3.0 + tiny
    return torch.einsum("xk,k,yk,yd->xd", vectors, values**-0.5, vectors, z_3d)


def equ_norm(z_equ: Tensor, gamma: Tensor, eps: float, tiny: float, group: str = "o3") -> Tensor:
    mean = z_equ.mean(0, keepdim=True) if group == "e3" else z_equ.mean(-1, keepdim=True)
    return torch.stack([whitened(z, eps, tiny) * gamma for z in z_equ - mean])


def block(m: GeoMFormerBlock, z_inv: Tensor, z_equ: Tensor, bias: Tensor, tiny: float) -> tuple[Tensor, Tensor]:
    """Eq. 3 for one system: z_inv (n, D), z_equ (n, 3, D), bias (H or 1, n, n)."""
    o = m.options

    def norms(pair: nn.Module, inv: Tensor, equ: Tensor) -> tuple[Tensor, Tensor]:
        return inv_norm(pair.inv, inv), equ_norm(equ, pair.equ.gamma, o.norm_eps, tiny, o.group)

    inv, equ = norms(m.self_norms, z_inv, z_equ)
    inv_1, equ_1 = z_inv + inv_self(m.inv_self, inv, bias), z_equ + equ_self(m.equ_self, equ, bias)
    inv, equ = norms(m.cross_norms, *((z_inv, z_equ) if o.wiring == "parallel" else (inv_1, equ_1)))
    inv_2 = inv_1 + inv_cross(m.inv_cross, inv, equ, bias)
    equ_2 = equ_1 + equ_cross(m.equ_cross, equ, inv, bias)
    inv, equ = norms(m.ffn_norms, inv_2, equ_2)
    gate = gelu(mapped(inv, m.equ_ffn.w2))
    hidden = torch.einsum("nxf,nf->nxf", mapped(equ, m.equ_ffn.w1), gate)
    return inv_2 + mapped(gelu(mapped(inv, m.inv_ffn.w1)), m.inv_ffn.w2), equ_2 + mapped(hidden, m.equ_ffn.w3)


def kernel(x: Tensor, centre: Tensor, width: Tensor) -> Tensor:
    """One Gaussian; widths are |sigma| + 0.01 Angstrom."""
    s = width.abs() + 0.01
    return torch.exp(-0.5 * ((x - centre) / s) ** 2) / (math.sqrt(2.0 * math.pi) * s)


def kernels(x: Tensor, basis: nn.Module) -> Tensor:
    return torch.stack([kernel(x, c, w) for c, w in zip(basis.centres, basis.widths, strict=True)])


def pair_distance(affine: nn.Module, d: Tensor, a: int, b: int) -> Tensor:
    """gamma_ab d + beta_ab."""
    if affine.factorised:
        return (affine.gamma[a] + affine.gamma[b]) * d + affine.beta[a] + affine.beta[b]
    return affine.gamma[a, b] * d + affine.beta[a, b]


def distance(a: Tensor, b: Tensor) -> Tensor:
    return torch.sqrt(((a - b) ** 2).sum())


def structural_encoding(m: StructuralEncoding, x: Tensor, types: Tensor, bond: Tensor, path: Tensor) -> Tensor:
    """(H or 1, n, n): GELU(b_ij W_1) W_2, plus a value per bond feature and per shortest path."""
    n = x.shape[0]
    out = torch.zeros(m.w2.out_features, n, n, dtype=x.dtype)
    for i in range(n):
        for j in range(n):
            d = pair_distance(m.affine, distance(x[i], x[j]), int(types[i]), int(types[j]))
            value = mapped(gelu(mapped(kernels(d, m.kernels), m.w1)), m.w2)
            if m.bond is not None:
                value = value + bond_value(m.bond, int(bond[i, j]))
            if m.path is not None:
                value = value + m.path.weight[int(path[i, j])]
            out[:, i, j] = value
    return out


def bond_value(m: nn.Module, code: int) -> Tensor:
    """Code 0: no bond. Else 1 + (type * 6 + stereo) * 2 + conjugated."""
    if code == 0:
        return m.none[0]
    code, conjugated = divmod(code - 1, 2)
    bond_type, stereo = divmod(code, 6)
    return m.tables[0][bond_type] + m.tables[1][stereo] + m.tables[2][conjugated]


def centroid_input(m: CentroidInput, x: Tensor, types: Tensor, eps: float) -> Tensor:
    """(n, 3, D): r' / sqrt(|r'|^2 + eps^2) times psi(gamma |r'| + beta) W."""
    centred = x - sum(x) / len(x) if m.centre else x
    out = []
    for r, a in zip(centred, types, strict=True):
        length = torch.sqrt((r**2).sum())
        g = mapped(kernels(m.affine.gamma[a] * length + m.affine.beta[a], m.kernels), m.linear)
        out.append(torch.einsum("x,d->xd", r / torch.sqrt(length**2 + eps**2), g))
    return torch.stack(out)


def neighbour_input(m: NeighbourInput, x: Tensor, types: Tensor, eps: float) -> Tensor:
    """(n, 3, D): the sum over neighbours inside the cutoff, r_ij = r_j - r_i."""
    out = torch.zeros(len(x), 3, m.linear.out_features, dtype=x.dtype)
    for i in range(len(x)):
        for j in range(len(x)):
            length = distance(x[i], x[j])
            if length >= m.cutoff:
                continue
            fade = 0.5 * (math.cos(math.pi * float(length) / m.cutoff) + 1.0)
            d = pair_distance(m.affine, length, int(types[i]), int(types[j]))
            g = mapped(kernels(d, m.kernels), m.linear)
            out[i] += fade * torch.einsum("x,d->xd", (x[j] - x[i]) / torch.sqrt(length**2 + eps**2), g)
    return out
