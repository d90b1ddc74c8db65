"""The equivariant transformer of TorchMD-Net (Tholke and De Fabritiis, ICLR 2022). Legend: `nn.ops`; A places of
atoms, E pairs.

Atoms have scalars x_i and vectors v_i. With r_ij = x_j - x_i, d its length, u = r / d and f the cosine cutoff, a layer
computes from y = LN(x), for every head and over the atoms within the cutoff, the atom itself (d = 0, u = 0) included,

    a_ij = SiLU(sum_c q_i k_j D^k_ij) f(d_ij)               D^k, D^v = SiLU(f(d) rbf(d) W + b)
    (s, s1, s2)_ij = value_j * D^v_ij
    X_i = sum_j a_ij s_ij                                   G_i = sum_j (v_j s1_ij + u_ij s2_ij)
    (o1, o2, o3) = X W_o + b_o                              (w1, w2, w3) = v W_v
    x += <w1, w2> o2 + o3                                   v += w3 o1 + G

with f on the values instead of on a where `vector_cutoff` says so. x starts from what the atom and its neighbours are,
v from zero; that of particles from velocities, which is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geomformer.config.torchmd_et import TorchMDETConfig
from geomformer.models.network import (
    ModelOutput,
    Network,
    VelocityInput,
    atom_inputs,
    category_sizes,
    num_numbers,
    reset_xavier,
)
from geomformer.nn.basis import cosine_cutoff
from geomformer.nn.encodings import AtomEmbedding
from geomformer.nn.neighbours import Edges, find_edges, sum_over_queries
from geomformer.nn.ops import lookup
from geomformer.nn.radial import ExpNormalRBF, other_pairs, unit_vectors
from geomformer.records import Batch


class TorchMDET(Network):
    """Embedding of atoms and neighbours, attention layers, a last LN of the scalars, then the heads."""

    def __init__(self, config: TorchMDETConfig) -> None:
        super().__init__(config)
        dim, kernels = config.embed_dim, config.num_kernels
        self.cutoff = config.neighbour_cutoff
        self.embedding = AtomEmbedding(dim, category_sizes(config), num_numbers(config))
        self.neighbour_embedding = NeighbourEmbedding(dim, kernels, category_sizes(config), num_numbers(config))
        self.velocity_input = VelocityInput(dim) if config.particles and config.speed else None
        self.rbf = ExpNormalRBF(kernels, config.neighbour_cutoff, config.trainable_kernels)
        self.layers = nn.ModuleList(
            ETAttention(dim, config.num_heads, kernels, config.vector_cutoff) for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(dim)
        reset_xavier(self)
        self.make_heads(dim)

    def forward(self, batch: Batch, atom_weight: Tensor | None = None) -> ModelOutput:
        """Runs the network; see `Network.forward`."""
        inputs = atom_inputs(self.config, batch)
        with torch.autocast(batch.positions.device.type, enabled=False):
            edges = find_edges(batch.positions, batch.mask, batch.pairs, batch.pair_shifts)
            weight_E = cosine_cutoff(edges.d, self.cutoff)
            near_E = edges.d < self.cutoff
            u_E3, rbf_EK = unit_vectors(edges), self.rbf(edges.d) * weight_E[:, None]
        x_AD = self.embedding(inputs.categories, inputs.numbers).flatten(0, 1)
        others_E = weight_E * other_pairs(edges)
        x_AD = self.neighbour_embedding(x_AD, inputs.categories, inputs.numbers, edges, rbf_EK, others_E)
        v_A3D = x_AD.new_zeros(len(x_AD), 3, x_AD.shape[1])
        if self.velocity_input is not None:
            v_A3D = self.velocity_input(batch).flatten(0, 1)
        for layer in self.layers:
            dx_AD, dv_A3D = layer(x_AD, v_A3D, edges, u_E3, rbf_EK, weight_E, near_E)
            x_AD, v_A3D = x_AD + dx_AD, v_A3D + dv_A3D
        z_inv, z_equ = (z.unflatten(0, batch.mask.shape) for z in (self.norm(x_AD), v_A3D))
        scalars, vectors = self.read_out(batch, z_inv, z_equ, atom_weight)
        return ModelOutput(scalars, vectors, [z_inv], [z_equ])


class NeighbourEmbedding(nn.Module):
    """x_i <- W [x_i, sum_j emb(j) * (f(d_ij) rbf(d_ij) W_d + b) f(d_ij)], over the other atoms."""

    def __init__(self, dim: int, num_kernels: int, sizes: list[int], num_numbers: int) -> None:
        super().__init__()
        self.embedding = AtomEmbedding(dim, sizes, num_numbers)
        self.distance = nn.Linear(num_kernels, dim)
        self.combine = nn.Linear(2 * dim, dim)

    def forward(
        self,
        x_AD: Tensor,
        categories_BNF: Tensor | None,
        numbers_BNF: Tensor | None,
        edges: Edges,
        rbf_EK: Tensor,
        weight_E: Tensor,
    ) -> Tensor:
        other_AD = self.embedding(categories_BNF, numbers_BNF).flatten(0, 1)
        terms_ED = lookup(other_AD, edges.key) * self.distance(rbf_EK) * weight_E[:, None]
        return self.combine(torch.cat([x_AD, sum_over_queries(terms_ED, edges, len(x_AD))], -1))


class ETAttention(nn.Module):
    """One attention over neighbours that feeds both streams; returns what it adds to them.

    Args:
        dim: D.
        num_heads: H.
        num_kernels: K.
        vector_cutoff: the cutoff weighs the values instead of the attention.
    """

    def __init__(self, dim: int, num_heads: int, num_kernels: int, vector_cutoff: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.vector_cutoff = vector_cutoff
        self.norm = nn.LayerNorm(dim)
        self.q, self.k, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, 3 * dim)
        self.dk, self.dv = nn.Linear(num_kernels, dim), nn.Linear(num_kernels, 3 * dim)
        self.vectors = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, 3 * dim)

    def forward(
        self,
        x_AD: Tensor,
        v_A3D: Tensor,
        edges: Edges,
        u_E3: Tensor,
        rbf_EK: Tensor,
        weight_E: Tensor,
        near_E: Tensor,
    ) -> tuple[Tensor, Tensor]:
        y_AD = self.norm(x_AD)
        q_ED, k_ED = lookup(self.q(y_AD), edges.query), lookup(self.k(y_AD), edges.key)
        a_EH = F.silu(self.heads(q_ED * k_ED * F.silu(self.dk(rbf_EK))).sum(-1))
        values_EHC = self.heads(lookup(self.value(y_AD), edges.key) * F.silu(self.dv(rbf_EK)))
        if self.vector_cutoff:
            values_EHC = values_EHC * weight_E[:, None, None]
        else:  # then nothing but the list of pairs keeps far vectors out, and it may hold pairs beyond the cutoff
            a_EH = a_EH * weight_E[:, None]
            values_EHC = values_EHC * near_E[:, None, None]
        s_EHC, s1_EHC, s2_EHC = values_EHC.chunk(3, -1)
        sum_AD = sum_over_queries((a_EH[..., None] * s_EHC).flatten(1), edges, len(x_AD))
        v_E3D = lookup(v_A3D.flatten(1), edges.key).unflatten(1, (3, -1))
        terms_E3D = v_E3D * s1_EHC.flatten(1)[:, None] + u_E3[:, :, None] * s2_EHC.flatten(1)[:, None]
        g_A3D = sum_over_queries(terms_E3D.flatten(1), edges, len(x_AD)).unflatten(1, (3, -1))
        o1_AD, o2_AD, o3_AD = self.out(sum_AD).chunk(3, -1)
        w1_A3D, w2_A3D, w3_A3D = self.vectors(v_A3D).chunk(3, -1)
        return (w1_A3D * w2_A3D).sum(1) * o2_AD + o3_AD, w3_A3D * o1_AD[:, None] + g_A3D

    def heads(self, x_EC: Tensor) -> Tensor:
        """(E, H * C) -> (E, H, C)"""
        return x_EC.unflatten(-1, (self.num_heads, -1))
