"""Tensor operations shared by the layers.

Shape legend of `nn`: B molecules, N padded atoms, D channels, H heads, C channels of one head, K kernels, 3 space.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def safe_norm(x: Tensor) -> Tensor:
    """Euclidean norm over the last axis whose gradient (and second derivative) at zero is zero instead of NaN."""
    squared = x.square().sum(-1)
    positive = squared > 0
    return torch.where(positive, squared, 1.0).sqrt() * positive


def direction(x: Tensor, eps: float) -> Tensor:
    """X / sqrt(|x|^2 + eps^2): the unit vector far from zero, linear near it, so that it is smooth everywhere."""
    return x * (x.square().sum(-1, keepdim=True) + eps * eps).rsqrt()


def lookup(table: Tensor, index: Tensor) -> Tensor:
    """table[index] along the first axis, with a gradient that adds up in the same order in every run.

    The gradient of plain indexing is summed by competing threads on a CPU, which differs in the last bits each time.
    """
    if table.dim() == 1:
        return F.embedding(index, table[:, None]).squeeze(-1)
    return F.embedding(index, table)


def attend(q_BHNC: Tensor, k_BHMC: Tensor, v_BHMC: Tensor, bias_BHNM: Tensor, dropout: float = 0.0) -> Tensor:
    """softmax(q k^T / sqrt(C) + bias) v, for all four attentions.

    A GPU runs its fused kernels, which have no second derivative. On a CPU none of them takes a bias that needs a
    gradient, and at the size of molecules the explicit product is as fast. There keys come first, and a bias whose
    transpose is contiguous is read without a copy: softmax over rows shorter than a few vector registers takes 4 to 7
    times as long as softmax over columns. From 64 atoms on columns are slower, by less than the products beside cost.

    Args:
        q_BHNC, k_BHMC, v_BHMC: queries, keys, values; an equivariant head has C = 3 * channels.
        bias_BHNM: added to the logits (H may be 1); -inf where a key is padding.
        dropout: probability of dropping an attention weight.

    Returns:
        (B, H, N, C)
    """
    bias_BHNM = bias_BHNM.to(q_BHNC.dtype).expand(*q_BHNC.shape[:3], k_BHMC.shape[2])
    if q_BHNC.is_cuda:
        return F.scaled_dot_product_attention(q_BHNC, k_BHMC, v_BHMC, attn_mask=bias_BHNM, dropout_p=dropout)
    scale = q_BHNC.shape[-1] ** -0.5
    bias_AMN = bias_BHNM.mT.flatten(0, 1)  # A = B * H
    logits_AMN = torch.baddbmm(bias_AMN, k_BHMC.flatten(0, 1), q_BHNC.flatten(0, 1).mT, alpha=scale)
    weights_AMN = drop(torch.softmax(logits_AMN, dim=1).to(v_BHMC.dtype), dropout)
    return torch.bmm(weights_AMN.mT, v_BHMC.flatten(0, 1)).view(*q_BHNC.shape[:3], -1)


def drop(x: Tensor, p: float, shape: Sequence[int] | None = None) -> Tensor:
    """Dropout: x times a mask of `shape` (that of x if not given), see `drop_mask`."""
    if not p:
        return x
    if shape is None and x.device.type != "cpu":
        return F.dropout(x, p)
    return x * drop_mask(x, p, x.shape if shape is None else shape)


def drop_mask(x: Tensor, p: float, shape: Sequence[int]) -> Tensor:
    """Zero with probability p, else 1 / (1 - p), in the type of x and on its device.

    On a CPU every decision takes one random byte instead of a random number of its own, which is several times faster
    and rounds p to a multiple of 1/256, at least one.
    """
    if x.device.type != "cpu":
        return F.dropout(x.new_ones(shape), p)
    kept = min(max(1, round((1.0 - p) * 256)), 255)
    count = math.prod(shape)
    words = torch.empty(-(-count // 8), dtype=torch.int64).random_(-(2**63), None)
    mask = (words.view(torch.uint8)[:count] < kept).view(shape)
    return mask.to(x.dtype).mul_(256 / kept)


def channel_drop(z_BN3D: Tensor, p: float) -> Tensor:
    """Drops whole vectors (one decision for x, y and z), which commutes with rotation."""
    return drop(z_BN3D, p, channel_shape(z_BN3D))


def add_dropped(z: Tensor, increment: Tensor, channel_p: float, path_p: float) -> Tensor:
    """Z + dropped increment, of either stream, in one pass.

    Args:
        z, increment: (B, N, D) or (B, N, 3, D).
        channel_p: probability to drop a channel of an atom, of vectors the whole vector.
        path_p: probability to drop the increment of a whole molecule (stochastic depth).
    """
    paths = (z.shape[0],) + (1,) * (z.dim() - 1)
    drops = ((channel_p, channel_shape(z)), (path_p, paths))
    masks = [drop_mask(z, p, shape) for p, shape in drops if p]  # of z: the increment may be bf16
    return torch.addcmul(z, increment, functools.reduce(torch.mul, masks)) if masks else z + increment


def channel_shape(z: Tensor) -> Sequence[int]:
    """Shape of what says something of every channel of every atom, once for x, y and z of a vector."""
    return z.shape if z.dim() == 3 else (*z.shape[:2], 1, z.shape[3])


def inverse_sqrt_3x3(a: Tensor, steps: int) -> Tensor:
    """A^(-1/2) of symmetric positive definite 3x3 matrices, without an eigendecomposition.

    The square root S of A / tr(A) obeys its own characteristic equation, so it is known once its trace x is: x is the
    largest root of x^4 - 2 x^2 - 8 det(S) x + 1 - 4 m = 0, m the sum of principal minors of A / tr(A) (Hoger and
    Carlson, Q. Appl. Math. 42, 113, 1984). It solves x = sqrt(1 + 2 sqrt(m + 2 det(S) x)), whose right side at sqrt(3),
    an upper bound, is a closer one: from there Newton's method falls monotonically onto it. The root is simple for
    every positive definite A, equal eigenvalues included: value, gradient and second derivative are smooth there, which
    those of an eigendecomposition are not.

    Args:
        a: (..., 3, 3), float32 or float64; float32 suits condition numbers up to about 100.
        steps: Newton steps; 3 reach round-off for condition numbers up to 4, 5 for any that float64 can hold.

    Returns:
        (..., 3, 3)
    """
    trace = a.diagonal(dim1=-2, dim2=-1).sum(-1)
    a = a / trace[..., None, None]
    minors = 0.5 * (1.0 - a.square().sum((-2, -1)))
    third = (a[..., 0, :] * torch.linalg.cross(a[..., 1, :], a[..., 2, :], dim=-1)).sum(-1).sqrt()
    first = (1.0 + 2.0 * (minors + 2.0 * 3.0**0.5 * third).sqrt()).sqrt()
    constant, linear, quarter = 1.0 - 4.0 * minors, 8.0 * third, 2.0 * third
    for _ in range(steps):  # at these sizes the number of operations is the cost
        cube = first.square() * first
        value = torch.addcmul(constant, first, torch.sub(cube, first, alpha=2) - linear)
        first = torch.addcdiv(first, value, cube - first - quarter, value=-0.25)
    second = 0.5 * (first.square() - 1.0)
    denominator = first * second - third
    p2 = first / (denominator * third)
    p1 = (1.0 - first * (first.square() - second) / denominator) / third
    p0 = (second - first.square() * third / denominator) / third
    scale = trace.rsqrt()
    p0, p1, p2 = (p0 * scale)[..., None, None], (p1 * scale)[..., None, None], (p2 * scale)[..., None, None]
    identity = torch.eye(3, dtype=a.dtype, device=a.device)
    return p0 * identity + p1 * a + p2 * (a @ a)
