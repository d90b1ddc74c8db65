"""SAKE (Wang and Chodera, ICLR 2023), and the variants of its spatial attention. Legend: `nn.ops`; d = D channels, H
heads, C = H d coefficients.

Over all pairs of atoms of a system, with r_ij = x_j - x_i, D_ij = sqrt(|r_ij|^2 + 1e-5) and u = r / (D + 1e-5):

    edge         f = rbf(D) * (W_f [h_j, h_i] + b)       e_ij = W_2 SiLU(W_1 [h_j, h_i, f, D] + b_1) + b_2
    attention    a_ij = softmax_j(CELU_2(W_s e_ij + b_s) - 1e5 [i = j])       E_ij = e_ij (x) a_ij
    spatial      lambda_ij = tanh(W_x E_ij)   M_i = mean_j lambda_ij u_ij     s_i = |M_i|^2   (see `nn.spatial`)
    node         h_i += mlp([h_i, sum_j E_ij, mlp_s(s_i)])
    velocity     v_i <- 2 sigmoid(mlp_v(h_i)) v_i + W_v M_i                   x_i += v_i

v starts from the velocities of particles where `speed` is read, else from zero. Where there is a `cutoff`, a_ij is
multiplied by the cosine cutoff and divided by its sum over j: as published, and the weight of an atom's last neighbour
jumps where it leaves. The scalar head reads h, the vector is x_L - x_0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geomformer.config.sake import SAKEConfig
from geomformer.models.network import ModelOutput, Network, atom_inputs, category_sizes, num_numbers, required
from geomformer.nn.basis import cosine_cutoff
from geomformer.nn.encodings import AtomEmbedding
from geomformer.nn.radial import ExpNormalRBF
from geomformer.nn.spatial import Distances, DotProducts, PersistentVectors, PowerSpectrum, SpatialAttention
from geomformer.records import Batch

EPS = 1e-5
SELF_PENALTY = 1e5
"""Taken off the logit of an atom with itself, which counts only where there is no other."""


class SAKE(Network):
    """Layers over all pairs, then a scalar head; the vector is how far an atom has moved."""

    def __init__(self, config: SAKEConfig) -> None:
        super().__init__(config)
        self.config: SAKEConfig = config
        self.embedding = AtomEmbedding(config.embed_dim, category_sizes(config), num_numbers(config))
        # Where the last layer moves the atoms to is an answer, or nobody's input.
        moves = [config.update] * (config.num_layers - 1) + [config.update and config.num_vectors > 0]
        self.layers = nn.ModuleList(SAKELayer(config, moving) for moving in moves)
        self.make_heads(config.embed_dim, vectors=False)

    def forward(self, batch: Batch, atom_weight: Tensor | None = None) -> ModelOutput:
        """Runs the network; see `Network.forward`."""
        inputs = atom_inputs(self.config, batch)
        h_BND, x_BN3 = self.embedding(inputs.categories, inputs.numbers), batch.positions
        v_BN3 = torch.zeros_like(x_BN3)
        if self.config.particles and self.config.speed:
            v_BN3 = required(batch.velocities, "velocities")
        channels = self.config.num_heads * self.config.embed_dim
        kept_BN3C = x_BN3.new_zeros(*x_BN3.shape, channels)
        pairs = Pairs(batch.mask, x_BN3.dtype)
        for layer in self.layers:
            h_BND, x_BN3, v_BN3, kept_BN3C = layer(h_BND, x_BN3, v_BN3, kept_BN3C, pairs)
        scalars, _ = self.read_out(batch, h_BND, None, atom_weight)
        moved_BN3 = (x_BN3 - batch.positions) * batch.own[..., None]
        return ModelOutput(scalars, moved_BN3[:, :, None] if self.config.num_vectors else None, [h_BND], [])


class Pairs:
    """What all layers need to know of the pairs of a batch.

    Attributes:
        mask_B1N1: logit added for the key: -inf at padding.
        itself_NN1: 1 for an atom with itself.
        share_BNN1: one over the number of atoms of the system, zero for padding and an atom with itself.
    """

    def __init__(self, mask_BN: Tensor, dtype: torch.dtype) -> None:
        n = mask_BN.shape[1]
        key_B1N1 = mask_BN[:, None, :, None]
        # A padded query reads all keys of its system; what it gets is not read.
        self.mask_B1N1 = torch.zeros(key_B1N1.shape, dtype=dtype, device=mask_BN.device).masked_fill(
            ~key_B1N1, float("-inf")
        )
        self.itself_NN1 = torch.eye(n, dtype=dtype, device=mask_BN.device)[..., None]
        both_BNN1 = (mask_BN[:, :, None, None] & key_B1N1).to(dtype) * (1.0 - self.itself_NN1)
        self.share_BNN1 = both_BNN1 / mask_BN.sum(1).to(dtype)[:, None, None, None]


class SAKELayer(nn.Module):
    """One round of edges, attention, invariants, nodes and velocities."""

    def __init__(self, config: SAKEConfig, moves: bool) -> None:
        super().__init__()
        dim, self.num_heads = config.embed_dim, config.num_heads
        channels = config.num_heads * dim
        self.cutoff = config.cutoff
        self.edge = EdgeModel(dim, config.num_kernels, config.kernel_reach)
        self.semantic = nn.Linear(dim, config.num_heads)
        self.spatial = make_spatial(config)
        invariants = 0 if self.spatial is None else self.spatial.num_invariants
        self.post_norm = two_maps(invariants, dim, dim) if invariants else None
        hidden = dim if config.spatial != "none-matched" else matched_width(dim, channels)
        self.node = two_maps(2 * dim + channels, hidden, dim)
        self.inertia = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, 1)) if moves else None

    def forward(
        self, h_BND: Tensor, x_BN3: Tensor, v_BN3: Tensor, kept_BN3C: Tensor, pairs: Pairs
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        r_BNN3 = x_BN3[:, None] - x_BN3[:, :, None]
        d_BNN1 = (r_BNN3.square().sum(-1, keepdim=True) + EPS).sqrt()
        e_BNND = self.edge(h_BND, d_BNN1)
        attended_BNNC = self.attend(e_BNND, d_BNN1, pairs)
        s_BND, dv_BN3 = torch.zeros_like(h_BND), torch.zeros_like(x_BN3)
        if self.spatial is not None:
            u_BNN3 = r_BNN3 / (d_BNN1 + EPS)
            s_BNS, dv_BN3, kept_BN3C = self.spatial(attended_BNNC, u_BNN3, pairs.share_BNN1, kept_BN3C)
            s_BND = s_BND if self.post_norm is None else self.post_norm(s_BNS)
        h_BND = h_BND + self.node(torch.cat([h_BND, attended_BNNC.sum(2), s_BND], -1))
        if self.inertia is not None:
            v_BN3 = 2.0 * torch.sigmoid(self.inertia(h_BND)) * v_BN3 + dv_BN3
            x_BN3 = x_BN3 + v_BN3
        return h_BND, x_BN3, v_BN3, kept_BN3C

    def attend(self, e_BNND: Tensor, d_BNN1: Tensor, pairs: Pairs) -> Tensor:
        """E_ij = e_ij (x) a_ij, zero at padded keys. (B, N, N, H d)"""
        logits_BNNH = F.celu(self.semantic(e_BNND), 2.0) - SELF_PENALTY * pairs.itself_NN1 + pairs.mask_B1N1
        a_BNNH = torch.softmax(logits_BNNH, 2)
        if self.cutoff is not None:
            a_BNNH = a_BNNH * cosine_cutoff(d_BNN1, self.cutoff)
            total_BN1H = a_BNNH.sum(2, keepdim=True)
            a_BNNH = a_BNNH / torch.where(total_BN1H > 0, total_BN1H, 1.0)
        return (a_BNNH[..., None] * e_BNND[..., None, :]).flatten(-2)


class EdgeModel(nn.Module):
    """e_ij = W_2 SiLU(W_1 [h_j, h_i, f_ij, D_ij] + b_1) + b_2, f_ij = rbf(D_ij) * (W_f [h_j, h_i] + b).

    A map of [h_j, h_i] is the sum of a map of h_j and one of h_i: taken per atom, it is not repeated for every pair.
    """

    def __init__(self, dim: int, num_kernels: int, reach: float) -> None:
        super().__init__()
        self.rbf = ExpNormalRBF(num_kernels, reach)
        self.filter_j = nn.Linear(dim, num_kernels, bias=False)
        self.filter_i = nn.Linear(dim, num_kernels)
        self.first_j = nn.Linear(dim, dim, bias=False)
        self.first_i = nn.Linear(dim, dim)
        self.first_f = nn.Linear(num_kernels + 1, dim, bias=False)
        self.second = nn.Linear(dim, dim)

    def forward(self, h_BND: Tensor, d_BNN1: Tensor) -> Tensor:
        """(B, N, N, d)"""
        f_BNNK = self.rbf(d_BNN1.squeeze(-1)) * (self.filter_j(h_BND)[:, None] + self.filter_i(h_BND)[:, :, None])
        first_BNND = self.first_f(torch.cat([f_BNNK, d_BNN1], -1))
        return self.second(F.silu(first_BNND + self.first_j(h_BND)[:, None] + self.first_i(h_BND)[:, :, None]))


def make_spatial(config: SAKEConfig) -> SpatialAttention | Distances | None:
    """The block that the configuration names; None where it is removed."""
    channels = config.num_heads * config.embed_dim
    if config.spatial == "harmonics":
        return PowerSpectrum(channels, config.degrees, config.match_channels)
    blocks: dict[str, type[SpatialAttention | Distances]] = {
        "attention": SpatialAttention,
        "dot": DotProducts,
        "persistent": PersistentVectors,
        "distances": Distances,
    }
    return blocks[config.spatial](channels) if config.spatial in blocks else None


def matched_width(dim: int, channels: int) -> int:
    """Hidden channels with which the node's network takes up the parameters of spatial attention, as near as it gets:
    those of W_x, W_v and the post-norm network.
    """
    removed = channels * channels + channels + (channels * dim + dim) + (dim * dim + dim)
    per_channel = 2 * dim + channels + 1 + dim
    return dim + round(removed / per_channel)


def two_maps(inputs: int, hidden: int, out: int) -> nn.Sequential:
    """Two linear maps, each followed by SiLU."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, out), nn.SiLU())
