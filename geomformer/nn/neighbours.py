"""Pairs of atoms as a list: which copy of which atom lies near which atom. Legend: `nn.ops`; E pairs.

In a crystal an atom meets several copies of another, each at its own distance. Copies carry the states of their parent,
so all that tells them apart is geometry, which enters an attention through its bias only. The sum over copies can
therefore be taken once, before the first layer:

    sum_S f_ijS exp(q_i k_j + B_ijS) v_j = exp(q_i k_j + B_ij) v_j,    B_ij = log sum_S f_ijS exp(B_ijS)

with f a smooth cutoff. Attention then costs N^2 however many copies there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geomformer.nn.ops import lookup, safe_norm

LARGEST_BIAS = 60.0
"""Biases are cut here, so that the sum of their exponentials needs no maximum taken out of it in float32."""


@dataclass(frozen=True)
class Edges:
    """E ordered pairs of a batch, an atom with itself among them.

    Attributes:
        query, key: places of both atoms, row * N + atom. (E,)
        r: from the query to this copy of the key. (E, 3)
        d: its length. (E,)
    """

    query: Tensor
    key: Tensor
    r: Tensor
    d: Tensor


def find_edges(x_BN3: Tensor, mask_BN: Tensor, pairs_2E: Tensor | None, shifts_E3: Tensor | None) -> Edges:
    """The pairs that are listed, at the present positions.

    Args:
        x_BN3: positions.
        mask_BN: real atoms.
        pairs_2E: places of query and key; None takes all pairs of real atoms of each system.
        shifts_E3: lattice vector from the key to its copy; None for none.
    """
    query_E, key_E = all_pairs(mask_BN) if pairs_2E is None else pairs_2E
    x_A3 = x_BN3.flatten(0, 1)
    r_E3 = lookup(x_A3, key_E) - lookup(x_A3, query_E)
    if shifts_E3 is not None:
        r_E3 = r_E3 + shifts_E3
    return Edges(query_E, key_E, r_E3, safe_norm(r_E3))


def all_pairs(mask_BN: Tensor) -> tuple[Tensor, Tensor]:
    """Places of both atoms of every ordered pair of real atoms."""
    n = mask_BN.shape[1]
    row, i, j = (mask_BN[:, :, None] & mask_BN[:, None, :]).nonzero(as_tuple=True)
    return row * n + i, row * n + j


def sum_over_queries(values_EK: Tensor, edges: Edges, num_places: int) -> Tensor:
    """Adds the values of all pairs of each query. (E, K) -> (A, K)"""
    zeros_AK = values_EK.new_zeros(num_places, values_EK.shape[1])
    return zeros_AK.index_add(0, edges.query, values_EK)


def bias_over_copies(bias_EH: Tensor, cutoff_E: Tensor, edges: Edges, shape: tuple[int, int]) -> Tensor:
    """B_ij = log sum_S f_ijS exp(B_ijS), -inf where no copy of j is near i. (E, H) -> (B, N, N, H)

    Padded atoms see themselves alone: a row of -inf would be NaN.
    """
    b, n = shape
    slot_E = edges.query * n + edges.key % n
    weight_EH = bias_EH.clamp(-LARGEST_BIAS, LARGEST_BIAS).exp() * cutoff_E[:, None]
    sum_BNNH = weight_EH.new_zeros(b * n * n, bias_EH.shape[1]).index_add(0, slot_E, weight_EH).view(b, n, n, -1)
    seen_BNNH = sum_BNNH > 0
    bias_BNNH = torch.where(seen_BNNH, sum_BNNH, 1.0).log().masked_fill(~seen_BNNH, float("-inf"))
    itself_NN1 = torch.eye(n, dtype=torch.bool, device=bias_EH.device)[..., None]
    return torch.where(itself_NN1 & ~seen_BNNH, 0.0, bias_BNNH)
