"""PaiNN (Schuett, Unke and Gastegger, ICML 2021). Legend: `nn.ops`; A places of atoms, E pairs.

Atoms have scalars q_i and vectors mu_i. With r_ij = x_j - x_i, d its length and u = r / d, every layer does

    interaction   (a, b, c)_ij = W(d_ij) * phi(q_j)         q_i += sum_j a      mu_i += sum_j (b u_ij + c mu_j)
    mixing        V, U = mu M    (a, b, c) = psi(q, |V|)    q   += a + c <V, U>   mu += b U

over the other atoms within the cutoff, W(d) = (rbf(d) A + b) f(d) with the cosine cutoff f, and phi, psi of two maps
with SiLU between. q starts from what the atoms are, mu from zero; that of particles from v w, which is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from geomformer.config.painn import PaiNNConfig
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
from geomformer.nn.radial import make_rbf, other_pairs, unit_vectors
from geomformer.records import Batch

EPS = 1e-8
"""Smooths |V| at zero, as published."""


class PaiNN(Network):
    """Interaction and mixing in turn, then the heads on q and mu."""

    def __init__(self, config: PaiNNConfig) -> None:
        super().__init__(config)
        dim = config.embed_dim
        self.cutoff = config.neighbour_cutoff
        self.embedding = AtomEmbedding(dim, category_sizes(config), num_numbers(config))
        self.velocity_input = VelocityInput(dim) if config.particles and config.speed else None
        self.rbf = make_rbf(config.radial_basis, config.num_kernels, config.neighbour_cutoff)
        self.interactions = nn.ModuleList(Interaction(dim, config.num_kernels) for _ in range(config.num_layers))
        self.mixings = nn.ModuleList(Mixing(dim) for _ in range(config.num_layers))
        reset_xavier(self)
        self.make_heads(dim)

    def forward(self, batch: Batch, atom_weight: Tensor | None = None) -> ModelOutput:
        """Runs the network; see `Network.forward`."""
        inputs = atom_inputs(self.config, batch)
        q_AD = self.embedding(inputs.categories, inputs.numbers).flatten(0, 1)
        mu_A3D = q_AD.new_zeros(len(q_AD), 3, q_AD.shape[1])
        if self.velocity_input is not None:
            mu_A3D = self.velocity_input(batch).flatten(0, 1)
        with torch.autocast(batch.positions.device.type, enabled=False):
            edges = find_edges(batch.positions, batch.mask, batch.pairs, batch.pair_shifts)
            u_E3, rbf_EK = unit_vectors(edges), self.rbf(edges.d)
            weight_E = cosine_cutoff(edges.d, self.cutoff) * other_pairs(edges)
        for interaction, mixing in zip(self.interactions, self.mixings, strict=True):
            q_AD, mu_A3D = interaction(q_AD, mu_A3D, edges, u_E3, rbf_EK, weight_E)
            q_AD, mu_A3D = mixing(q_AD, mu_A3D)
        z_inv, z_equ = (z.unflatten(0, batch.mask.shape) for z in (q_AD, mu_A3D))
        scalars, vectors = self.read_out(batch, z_inv, z_equ, atom_weight)
        return ModelOutput(scalars, vectors, [z_inv], [z_equ])


class Interaction(nn.Module):
    """(a, b, c)_ij = W(d_ij) * phi(q_j); q_i += sum_j a; mu_i += sum_j (b u_ij + c mu_j)."""

    def __init__(self, dim: int, num_kernels: int) -> None:
        super().__init__()
        self.phi = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, 3 * dim))
        self.filters = nn.Linear(num_kernels, 3 * dim)

    def forward(
        self, q_AD: Tensor, mu_A3D: Tensor, edges: Edges, u_E3: Tensor, rbf_EK: Tensor, weight_E: Tensor
    ) -> tuple[Tensor, Tensor]:
        w_EC = self.filters(rbf_EK) * weight_E[:, None]
        a_ED, b_ED, c_ED = (w_EC * lookup(self.phi(q_AD), edges.key)).chunk(3, -1)
        mu_E3D = lookup(mu_A3D.flatten(1), edges.key).unflatten(1, (3, -1))
        dmu_E3D = b_ED[:, None] * u_E3[:, :, None] + c_ED[:, None] * mu_E3D
        q_AD = q_AD + sum_over_queries(a_ED, edges, len(q_AD))
        return q_AD, mu_A3D + sum_over_queries(dmu_E3D.flatten(1), edges, len(q_AD)).unflatten(1, (3, -1))


class Mixing(nn.Module):
    """V, U = mu M; (a, b, c) = psi(q, |V|); q += a + c <V, U>; mu += b U."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.maps = nn.Linear(dim, 2 * dim, bias=False)
        self.psi = nn.Sequential(nn.Linear(2 * dim, dim), nn.SiLU(), nn.Linear(dim, 3 * dim))

    def forward(self, q_AD: Tensor, mu_A3D: Tensor) -> tuple[Tensor, Tensor]:
        v_A3D, u_A3D = self.maps(mu_A3D).chunk(2, -1)
        length_AD = (v_A3D.square().sum(1) + EPS).sqrt()
        a_AD, b_AD, c_AD = self.psi(torch.cat([q_AD, length_AD], -1)).chunk(3, -1)
        return q_AD + a_AD + c_AD * (v_A3D * u_A3D).sum(1), mu_A3D + b_AD[:, None] * u_A3D
