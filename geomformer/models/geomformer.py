"""GeoMFormer: the two-stream Transformer of the paper, whole."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from geomformer.config.geomformer import GeoMFormerConfig
from geomformer.models.network import (
    AtomInputs,
    ModelOutput,
    Network,
    atom_inputs,
    category_sizes,
    num_numbers,
    num_types,
    required,
)
from geomformer.nn.basis import GaussianBasis, cosine_cutoff
from geomformer.nn.block import BlockOptions, GeoMFormerBlock, Norms
from geomformer.nn.encodings import AtomEmbedding, CentroidInput, NeighbourInput, StructuralEncoding, mask_keys
from geomformer.nn.neighbours import Edges, bias_over_copies, find_edges
from geomformer.nn.ops import drop, safe_norm
from geomformer.records import BOND_FEATURE_SIZES, MAX_PATH, Batch


class StreamPair(nn.Module):
    """One (invariant, equivariant) pair: its input layers, its blocks and its final norms."""

    def __init__(self, config: GeoMFormerConfig, source: str) -> None:
        super().__init__()
        self.source = source
        self.dim = config.embed_dim
        self.embedding_dropout = config.embedding_dropout
        self.embedding = AtomEmbedding(config.embed_dim, category_sizes(config), num_numbers(config))
        first = "velocities" if source == "velocities" else "positions"
        self.equivariant_input = make_equivariant_input(config, first) if config.group == "o3" else None
        self.velocity_input = make_equivariant_input(config, "velocities") if source == "motion" else None
        options = block_options(config)
        self.blocks = nn.ModuleList(GeoMFormerBlock(options) for _ in range(config.num_layers))
        self.final_norms = Norms(options)

    def forward(
        self, batch: Batch, inputs: AtomInputs, edges: Edges | None, bias_BHNN: Tensor
    ) -> tuple[Tensor, Tensor]:
        z_inv = self.embedding(inputs.categories, inputs.numbers)
        z_inv = drop(z_inv, self.embedding_dropout) if self.training else z_inv
        z_equ = self.vectors(batch, inputs.types, edges)
        if self.velocity_input is not None:
            z_equ = z_equ + self.velocity_vectors(batch, inputs.types)
        for block in self.blocks:
            z_inv, z_equ = block(z_inv, z_equ, bias_BHNN, batch.own)
        return self.final_norms(z_inv, z_equ, batch.own)

    def velocity_vectors(self, batch: Batch, types_BN: Tensor) -> Tensor:
        """What velocities add to the vectors of a pair that holds both, (B, N, 3, D)."""
        v_BN3 = required(batch.velocities, "velocities")
        with torch.autocast(v_BN3.device.type, enabled=False):
            return cast(CentroidInput, self.velocity_input)(v_BN3, types_BN, batch.own)

    def vectors(self, batch: Batch, types_BN: Tensor, edges: Edges | None) -> Tensor:
        x_BN3 = batch.velocities if self.source == "velocities" else batch.positions
        if x_BN3 is None:
            raise ValueError(f"the model has a stream of {self.source}, the batch has none")
        if self.equivariant_input is None:
            return x_BN3[..., None].expand(*x_BN3.shape, self.dim).contiguous()
        with torch.autocast(x_BN3.device.type, enabled=False):
            if isinstance(self.equivariant_input, NeighbourInput):
                return self.equivariant_input(required(edges, "near pairs"), types_BN)
            return self.equivariant_input(x_BN3, types_BN, batch.mask, batch.own)


class GeoMFormer(Network):
    """Two streams per pair, one structural bias for all of them, one scalar and one vector head (paper section 4).

    With more than one pass the vector is a displacement, and the same network runs again on the geometry that the pass
    before it predicted (iterative refinement of Uni-Mol+, Lu et al., Nat. Commun. 15, 7104, 2024).

    Geometry, kernels, Equ-LN and heads run in float32 (or float64 if the model does), whatever the autocast type.
    """

    def __init__(self, config: GeoMFormerConfig) -> None:
        super().__init__(config)
        self.config: GeoMFormerConfig = config
        self.pairs = nn.ModuleList(StreamPair(config, source) for source in config.streams)
        self.structural_encoding = make_structural_encoding(config) if config.structural_encoding else None
        self.make_heads(config.embed_dim * len(config.streams), dropout=config.hidden_dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Linear maps keep the variance of their input; those that end a residual branch are divided by the root of
        the number of branches, so that depth does not grow the streams; the vector head starts at zero.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_uniform_(module.weight, nonlinearity="linear")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, GeoMFormerBlock):
                module.scale_residuals((3 * self.config.num_layers) ** -0.5)
        if self.vector_head is not None:
            self.vector_head.reset_last()

    def forward(self, batch: Batch, atom_weight: Tensor | None = None) -> ModelOutput:
        """Runs the model: scalars and streams of the last pass, vectors summed over passes.

        Args:
            batch: the systems.
            atom_weight: (B, N), which atoms the scalar head reads; see `pooled_atoms` for the default.
        """
        inputs = atom_inputs(self.config, batch)
        output = self.one_pass(batch, inputs, atom_weight)
        for _ in range(self.config.passes - 1):
            before = cast(Tensor, output.vectors)  # the configuration of more than one pass has one vector
            # Through detached positions each pass learns its own step, as in Uni-Mol+; the sum trains all of them.
            moved = batch.positions + before[:, :, 0].detach()
            output = self.one_pass(replace(batch, positions=moved), inputs, atom_weight)
            output = replace(output, vectors=before + cast(Tensor, output.vectors))
        return output

    def one_pass(self, batch: Batch, inputs: AtomInputs, atom_weight: Tensor | None) -> ModelOutput:
        """Runs the network once on the positions of the batch."""
        edges = None
        if self.config.reads_neighbours:
            edges = find_edges(batch.positions, batch.mask, batch.pairs, batch.pair_shifts)
        bias_BHNN = self.structural_bias(batch, inputs.types, edges)
        streams = [pair(batch, inputs, edges, bias_BHNN) for pair in self.pairs]
        z_inv, z_equ = [pair[0] for pair in streams], [pair[1] for pair in streams]
        scalars, vectors = self.read_out(batch, torch.cat(z_inv, -1), torch.cat(z_equ, -1), atom_weight)
        return ModelOutput(scalars, vectors, z_inv, z_equ)

    def structural_bias(self, batch: Batch, types_BN: Tensor, edges: Edges | None) -> Tensor:
        """(B, H or 1, N, N), -inf at padded keys; zero elsewhere when the structural encoding is switched off.

        With images as keys it stands for all copies of the key near the query, and is -inf where there is none.
        """
        with torch.autocast(batch.positions.device.type, enabled=False):
            bond = required(batch.bond_type, "bonds") if self.config.bond_encoding else None
            path = required(batch.shortest_path, "shortest paths") if self.config.path_encoding else None
            if self.config.images == "keys":
                near, cutoff = required(edges, "near pairs"), self.config.neighbour_cutoff
                if self.structural_encoding is None:
                    return bias_without_encoding(near, cutoff, types_BN)
                return self.structural_encoding.of_copies(near, cutoff, types_BN, bond, path)
            bias_BHNN = None
            if self.structural_encoding is not None:
                x_BN3 = batch.positions
                d_BNN = safe_norm(x_BN3[:, None, :, :] - x_BN3[:, :, None, :])
                bias_BHNN = self.structural_encoding(d_BNN, types_BN, bond, path)
        return mask_keys(bias_BHNN, batch.mask, batch.positions.dtype)


def bias_without_encoding(edges: Edges, cutoff: float, types_BN: Tensor) -> Tensor:
    """Log sum_S f_ijS: what is left of the bias over copies without a structural encoding. (B, 1, N, N)"""
    b, n = types_BN.shape
    zeros_E1 = edges.d.new_zeros(len(edges.d), 1)
    return bias_over_copies(zeros_E1, cosine_cutoff(edges.d, cutoff), edges, (b, n)).permute(0, 3, 1, 2)


def make_kernels(config: GeoMFormerConfig, count: int) -> GaussianBasis:
    return GaussianBasis(count, config.kernel_start, config.kernel_reach)


def make_structural_encoding(config: GeoMFormerConfig) -> StructuralEncoding:
    return StructuralEncoding(
        num_types(config),
        make_kernels(config, config.num_kernels),
        config.num_heads if config.bias_per_head else 1,
        config.kernel_affine == "factorised",
        BOND_FEATURE_SIZES if config.bond_encoding else (),
        MAX_PATH + 2 if config.path_encoding else 0,
    )


def make_equivariant_input(config: GeoMFormerConfig, source: str) -> nn.Module:
    if config.equivariant_input == "neighbours" and source == "positions":
        kernels = make_kernels(config, config.num_kernels)
        # Two signs of charge have no rare pairs, and a sum over both particles cannot tell like from unlike.
        factorised = config.kernel_affine == "factorised" or not config.particles
        return NeighbourInput(config.embed_dim, num_types(config), kernels, config.neighbour_cutoff, factorised)
    kernels = make_kernels(config, config.embed_dim)
    return CentroidInput(config.embed_dim, num_types(config), kernels, centre=source == "positions")


def block_options(config: GeoMFormerConfig) -> BlockOptions:
    shared = {name: getattr(config, name) for name in BlockOptions.__dataclass_fields__ if name != "dim"}
    return BlockOptions(dim=config.embed_dim, **shared)
