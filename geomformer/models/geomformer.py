"""GeoMFormer: the two-stream Transformer of the paper, whole."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from geomformer.config.model import ModelConfig
from geomformer.nn.basis import GaussianBasis, cosine_cutoff
from geomformer.nn.block import BlockOptions, GeoMFormerBlock, Norms
from geomformer.nn.encodings import AtomEmbedding, CentroidInput, NeighbourInput, StructuralEncoding, mask_keys
from geomformer.nn.heads import ScalarHead, VectorHead
from geomformer.nn.neighbours import Edges, bias_over_copies, find_edges
from geomformer.nn.ops import drop, lookup, safe_norm
from geomformer.records import ATOM_FEATURE_SIZES, BOND_FEATURE_SIZES, MAX_PATH, Batch

V = TypeVar("V")

NUM_ELEMENTS = 119
NUM_TAGS = 3


@dataclass
class ModelOutput:
    """What a model returns. B systems, N atoms, T scalars, V vectors, P stream pairs.

    Attributes:
        scalars: (B, T), or None without scalar targets.
        vectors: (B, N, V, 3), or None; zero at padding.
        z_inv, z_equ: final streams of each pair, (B, N, D) and (B, N, 3, D).
    """

    scalars: Tensor | None
    vectors: Tensor | None
    z_inv: list[Tensor]
    z_equ: list[Tensor]


class StreamPair(nn.Module):
    """One (invariant, equivariant) pair: its input layers, its blocks and its final norms."""

    def __init__(self, config: ModelConfig, source: str) -> None:
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


@dataclass
class AtomInputs:
    """Invariant inputs of the atoms: types (B, N), categories (B, N, F) or None, numbers (B, N, F) or None."""

    types: Tensor
    categories: Tensor | None
    numbers: Tensor | None


class GeoMFormer(nn.Module):
    """Two streams per pair, one structural bias for all of them, one scalar and one vector head (paper section 4).

    With more than one pass the vector is a displacement, and the same network runs again on the geometry that the pass
    before it predicted (iterative refinement of Uni-Mol+, Lu et al., Nat. Commun. 15, 7104, 2024).

    Geometry, kernels, Equ-LN and heads run in float32 (or float64 if the model does), whatever the autocast type.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.pairs = nn.ModuleList(StreamPair(config, source) for source in config.streams)
        self.structural_encoding = make_structural_encoding(config) if config.structural_encoding else None
        width = config.embed_dim * len(config.streams)
        self.scalar_head = (
            ScalarHead(width, config.num_scalars, config.pooling, config.num_heads, config.hidden_dropout)
            if config.num_scalars
            else None
        )
        weighted = config.tags and config.pooling == "sum" and config.num_scalars > 0
        self.tag_weight = nn.Parameter(0.01 * torch.randn(NUM_TAGS)) if weighted else None
        self.vector_head = VectorHead(width, config.num_vectors) if config.num_vectors else None
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
        weight_BN = self.pooled_atoms(batch) if atom_weight is None else atom_weight
        with torch.autocast(batch.positions.device.type, enabled=False):
            inv = torch.cat(z_inv, -1).to(batch.positions.dtype)
            equ = torch.cat(z_equ, -1).to(batch.positions.dtype)
            scalars = self.scalar_head(inv, weight_BN) if self.scalar_head is not None else None
            vectors = None
            if self.vector_head is not None:
                vectors = self.vector_head(inv, equ).transpose(-1, -2) * batch.own[:, :, None, None]
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

    def pooled_atoms(self, batch: Batch) -> Tensor:
        """(B, N), weights of the atoms that scalars are made of: all of the system, or those that may move (tag 1 and
        2, if there are any) where tags are read, each kind with a learnt weight if it is a sum (Graphormer-3D).
        """
        if not self.config.tags:
            return batch.own
        tags_BN = required(batch.tags, "tags")
        moving_BN = batch.own & (tags_BN > 0)
        moving_BN = torch.where(moving_BN.any(1, keepdim=True), moving_BN, batch.own)
        return moving_BN if self.tag_weight is None else moving_BN * lookup(self.tag_weight, tags_BN)

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())


def num_types(config: ModelConfig) -> int:
    """Kinds of atoms that kernels tell apart: elements, or the two signs of charge."""
    return 2 if config.particles else NUM_ELEMENTS


def category_sizes(config: ModelConfig) -> list[int]:
    sizes = [] if config.particles else [NUM_ELEMENTS]
    if config.atom_features:
        sizes += ATOM_FEATURE_SIZES
    if config.tags:
        sizes.append(NUM_TAGS)
    return sizes


def num_numbers(config: ModelConfig) -> int:
    return int(config.particles) + int(config.speed)


def atom_inputs(config: ModelConfig, batch: Batch) -> AtomInputs:
    """Gathers the invariant inputs that the configuration names from the batch."""
    categories: list[Tensor] = []
    numbers: list[Tensor] = []
    if config.particles:
        charges = required(batch.particle_charges, "particle charges")
        types = (charges > 0).long()
        numbers.append(charges[..., None].to(batch.positions.dtype))
    else:
        types = required(batch.atomic_numbers, "atomic numbers")
        categories.append(types[..., None])
    if config.atom_features:
        categories.append(required(batch.atom_features, "2D atom features"))
    if config.tags:
        categories.append(required(batch.tags, "tags")[..., None])
    if config.speed:
        numbers.append(safe_norm(required(batch.velocities, "velocities"))[..., None])
    return AtomInputs(
        types,
        torch.cat(categories, -1) if categories else None,
        torch.cat(numbers, -1) if numbers else None,
    )


def required(value: V | None, name: str) -> V:
    if value is None:
        raise ValueError(f"the model reads {name}, the batch has none")
    return value


def bias_without_encoding(edges: Edges, cutoff: float, types_BN: Tensor) -> Tensor:
    """Log sum_S f_ijS: what is left of the bias over copies without a structural encoding. (B, 1, N, N)"""
    b, n = types_BN.shape
    zeros_E1 = edges.d.new_zeros(len(edges.d), 1)
    return bias_over_copies(zeros_E1, cosine_cutoff(edges.d, cutoff), edges, (b, n)).permute(0, 3, 1, 2)


def make_kernels(config: ModelConfig, count: int) -> GaussianBasis:
    return GaussianBasis(count, config.kernel_start, config.kernel_reach)


def make_structural_encoding(config: ModelConfig) -> StructuralEncoding:
    return StructuralEncoding(
        num_types(config),
        make_kernels(config, config.num_kernels),
        config.num_heads if config.bias_per_head else 1,
        config.kernel_affine == "factorised",
        BOND_FEATURE_SIZES if config.bond_encoding else (),
        MAX_PATH + 2 if config.path_encoding else 0,
    )


def make_equivariant_input(config: ModelConfig, source: str) -> nn.Module:
    if config.equivariant_input == "neighbours" and source == "positions":
        kernels = make_kernels(config, config.num_kernels)
        # Two signs of charge have no rare pairs, and a sum over both particles cannot tell like from unlike.
        factorised = config.kernel_affine == "factorised" or not config.particles
        return NeighbourInput(config.embed_dim, num_types(config), kernels, config.neighbour_cutoff, factorised)
    kernels = make_kernels(config, config.embed_dim)
    return CentroidInput(config.embed_dim, num_types(config), kernels, centre=source == "positions")


def block_options(config: ModelConfig) -> BlockOptions:
    shared = {name: getattr(config, name) for name in BlockOptions.__dataclass_fields__ if name != "dim"}
    return BlockOptions(dim=config.embed_dim, **shared)
