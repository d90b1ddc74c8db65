"""The `model` section of GeoMFormer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from geomformer.config.network import NetworkConfig


class GeoMFormerConfig(NetworkConfig):
    """Everything that decides the network's parameters and equations. Defaults are the project's own choice; the
    `*-paper` presets set what the paper prints.
    """

    architecture: Literal["geomformer"] = "geomformer"
    ffn_dim: int = Field(128, ge=1, description="hidden channels of the feed-forward networks")
    num_kernels: int = Field(64, ge=2, description="Gaussian kernels K of the structural encoding")
    kernel_start: Literal["spread", "uniform"] = Field(
        "spread", description="kernel centres at the start: even over `kernel_reach`, or U(0, 3) as in the paper's code"
    )
    kernel_reach: float = Field(9.0, gt=0, description="Angstrom covered by `spread` kernels")
    kernel_affine: Literal["factorised", "pairwise"] = Field(
        "factorised", description="distance scaling per atom type (summed over the pair) or per ordered pair (printed)"
    )
    streams: tuple[Literal["positions", "velocities", "motion"], ...] = Field(
        ("positions",),
        min_length=1,
        description="one (invariant, equivariant) pair of streams per entry; `motion` holds positions and velocities",
    )
    bond_encoding: bool = Field(True, description="add a bias per bond to the structural encoding")
    path_encoding: bool = Field(True, description="add a bias per shortest path length to the structural encoding")
    equivariant_input: Literal["centroid", "neighbours"] = Field(
        "centroid", description="vectors start from the molecule's centroid (paper) or from neighbours"
    )
    neighbour_cutoff: float = Field(5.0, gt=0, description="Angstrom, for `neighbours` and for images as `keys`")
    images: Literal["none", "tokens", "keys"] = Field(
        "none",
        description="periodic copies of atoms: not read; as atoms of their own near the adsorbate (Graphormer-3D); or "
        "as keys and values alone, every copy within `neighbour_cutoff` of an atom",
    )
    image_cutoff: float = Field(8.0, gt=0, description="Angstrom from the adsorbate, for images as `tokens`")
    max_tokens: int | None = Field(
        None, ge=1, description="training with images as `tokens`: atoms and images kept, those nearest the adsorbate"
    )
    structural_encoding: bool = Field(True, description="distance bias on all attentions")
    bias_per_head: bool = Field(True, description="one structural bias per head; the paper prints one for all heads")
    wiring: Literal["sequential", "parallel"] = Field("sequential", description="cross-attention reads Z' or Z")
    group: Literal["o3", "e3"] = Field("o3", description="e3: appendix C.2, translation-equivariant stream")
    norm: Literal["whitening", "rms"] = Field("whitening", description="Equ-LN or a length-only norm")
    norm_eps: float = Field(1.0, gt=0, description="relative regulariser of Equ-LN; towards 0 is the printed whitening")
    inv_self_attention: bool = True
    inv_cross_attention: bool = True
    equ_self_attention: bool = True
    equ_cross_attention: bool = True
    inv_ffn: bool = True
    equ_ffn: bool = True
    inv_norm: bool = True
    equ_norm: bool = True
    embedding_dropout: float = Field(0.0, ge=0, lt=1)
    attention_dropout: float = Field(0.0, ge=0, lt=1)
    activation_dropout: float = Field(0.0, ge=0, lt=1)
    hidden_dropout: float = Field(0.0, ge=0, lt=1)
    drop_path: float = Field(0.0, ge=0, lt=1)
    passes: int = Field(
        1, ge=1, description="runs of the same network, each on the geometry that the one before it predicted"
    )

    @property
    def reads_graph(self) -> bool:
        return super().reads_graph or self.bond_encoding or self.path_encoding

    @property
    def reads_neighbours(self) -> bool:
        """Whether the network reads a list of near pairs of atoms."""
        return self.images == "keys" or self.equivariant_input == "neighbours"

    @property
    def pair_cutoff(self) -> float | None:
        # Of particles, which are few and have no copies, all pairs are taken (`nn.neighbours.find_edges`).
        return self.neighbour_cutoff if self.reads_neighbours and not self.particles else None

    @property
    def token_cutoff(self) -> float | None:
        return self.image_cutoff if self.images == "tokens" else None

    @property
    def token_limit(self) -> int | None:
        return self.max_tokens

    @property
    def periodic(self) -> bool:
        return self.images != "none"

    @property
    def splits_channels(self) -> bool:
        return True

    @model_validator(mode="after")
    def _consistent(self) -> GeoMFormerConfig:
        if {"velocities", "motion"} & set(self.streams) and not self.particles:
            raise ValueError("streams with velocities need particles: true")
        if self.passes > 1 and self.images == "tokens":
            raise ValueError(f"passes {self.passes} move the atoms, images as tokens would stay: choose images: keys")
        if len(set(self.streams)) != len(self.streams):
            raise ValueError("each stream may stand once in `streams`")
        if self.passes > 1 and self.num_vectors != 1:
            raise ValueError(f"passes {self.passes} move the atoms by the vector: num_vectors must be 1")
        return self
