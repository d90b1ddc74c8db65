"""EGNN (Satorras, Hoogeboom and Welling, ICML 2021), with velocities where the systems have some. Legend: `nn.ops`.

Every pair of atoms exchanges messages made of invariants, and positions move along the lines between atoms:

    m_ij  = phi_e(h_i, h_j, |x_i - x_j|^2, a_ij)
    x_i  <- x_i + mean_j (x_i - x_j) phi_x(m_ij) + phi_v(h_i) v_i
    h_i  <- h_i + phi_h(h_i, sum_j m_ij)

with a_ij the squared distance at the input and, for particles, the product of the charges. Nodes start from what atoms
are; those of particles from their speed alone, as in the authors' N-body experiment. The model's vector is how far an
atom has moved.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from geomformer.config.egnn import EGNNConfig
from geomformer.models.network import ModelOutput, Network, atom_inputs, category_sizes, num_numbers, required
from geomformer.nn.encodings import AtomEmbedding
from geomformer.records import Batch

SMALL_GAIN = 0.001
"""Positions hardly move before training."""


class EGNN(Network):
    """Layers of messages that move the atoms, then a scalar head on the nodes; the vector is x_L - x_0."""

    def __init__(self, config: EGNNConfig) -> None:
        super().__init__(config)
        numbers = num_numbers(config) - int(config.particles)  # charges act through their products alone
        self.embedding = AtomEmbedding(config.embed_dim, category_sizes(config), numbers)
        edge_inputs = 1 + int(config.particles)
        moves = [True] * (config.num_layers - 1) + [
            config.num_vectors > 0
        ]  # the last positions are an answer or nothing
        self.layers = nn.ModuleList(
            EGNNLayer(config.embed_dim, edge_inputs, config.particles, moving) for moving in moves
        )
        self.make_heads(config.embed_dim, vectors=False)

    def forward(self, batch: Batch, atom_weight: Tensor | None = None) -> ModelOutput:
        """Runs the network; see `Network.forward`."""
        inputs = atom_inputs(self.config, batch)
        numbers = inputs.numbers[..., 1:] if self.config.particles and inputs.numbers is not None else inputs.numbers
        pair_BNN1 = other_atoms(batch.mask)[..., None].to(batch.positions.dtype)
        h_BND, x_BN3 = self.embedding(inputs.categories, numbers), batch.positions
        v_BN3 = required(batch.velocities, "velocities") if self.config.particles else None
        edge_BNNA = self.edge_inputs(batch)
        for layer in self.layers:
            h_BND, x_BN3 = layer(h_BND, x_BN3, v_BN3, edge_BNNA, pair_BNN1)
        scalars, _ = self.read_out(batch, h_BND, None, atom_weight)
        moved_BN3 = (x_BN3 - batch.positions) * batch.own[..., None]
        return ModelOutput(scalars, moved_BN3[:, :, None] if self.config.num_vectors else None, [h_BND], [])

    def edge_inputs(self, batch: Batch) -> Tensor:
        """a_ij: squared distance at the input, product of charges. (B, N, N, A)"""
        a_BNN1 = difference(batch.positions).square().sum(-1, keepdim=True)
        if not self.config.particles:
            return a_BNN1
        q_BN = required(batch.particle_charges, "particle charges").to(a_BNN1.dtype)
        return torch.cat([a_BNN1, (q_BN[:, :, None] * q_BN[:, None, :])[..., None]], -1)


class EGNNLayer(nn.Module):
    """One round of messages."""

    def __init__(self, dim: int, edge_inputs: int, velocities: bool, moves: bool) -> None:
        super().__init__()
        self.message = nn.Sequential(
            nn.Linear(2 * dim + 1 + edge_inputs, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU()
        )
        self.node = mlp(2 * dim, dim, dim)
        self.step = small_step(dim) if moves else None
        self.inertia = mlp(dim, dim, 1) if velocities and moves else None

    def forward(
        self, h_BND: Tensor, x_BN3: Tensor, v_BN3: Tensor | None, edge_BNNA: Tensor, pair_BNN1: Tensor
    ) -> tuple[Tensor, Tensor]:
        r_BNN3 = difference(x_BN3)
        n = h_BND.shape[1]
        parts = [
            h_BND[:, :, None].expand(-1, -1, n, -1),
            h_BND[:, None].expand(-1, n, -1, -1),
            r_BNN3.square().sum(-1, keepdim=True),
            edge_BNNA,
        ]
        m_BNND = self.message(torch.cat(parts, -1)) * pair_BNN1
        if self.step is not None:
            count_BN1 = pair_BNN1.sum(2).clamp_min(1.0)
            x_BN3 = x_BN3 + (r_BNN3 * self.step(m_BNND) * pair_BNN1).sum(2) / count_BN1
        if self.inertia is not None and v_BN3 is not None:
            x_BN3 = x_BN3 + self.inertia(h_BND) * v_BN3
        return h_BND + self.node(torch.cat([h_BND, m_BNND.sum(2)], -1)), x_BN3


def mlp(dim: int, hidden: int, out: int) -> nn.Sequential:
    """Linear, SiLU, Linear."""
    return nn.Sequential(nn.Linear(dim, hidden), nn.SiLU(), nn.Linear(hidden, out))


def small_step(dim: int) -> nn.Sequential:
    """phi_x, whose last map has no bias and starts small."""
    last = nn.Linear(dim, 1, bias=False)
    nn.init.xavier_uniform_(last.weight, gain=SMALL_GAIN)
    return nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), last)


def difference(x_BN3: Tensor) -> Tensor:
    """x_i - x_j. (B, N, N, 3)"""
    return x_BN3[:, :, None] - x_BN3[:, None]


def other_atoms(mask_BN: Tensor) -> Tensor:
    """True where both atoms are real and not the same. (B, N, N)"""
    n = mask_BN.shape[1]
    return mask_BN[:, :, None] & mask_BN[:, None, :] & ~torch.eye(n, dtype=torch.bool, device=mask_BN.device)
