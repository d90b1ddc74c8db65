"""The `model` section of SAKE and of its ablations."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from geomformer.config.network import NetworkConfig


class SAKEConfig(NetworkConfig):
    """SAKE with the sizes of its MD17 experiment: 6 layers of 64 channels, 4 heads, 50 radial functions.

    `spatial` replaces the block between the pair coefficients and the invariants of a node, and nothing else.
    """

    architecture: Literal["sake"] = "sake"
    num_layers: int = Field(6, ge=1, description="layers")
    embed_dim: int = Field(64, ge=1, description="channels d of the nodes")
    num_heads: int = Field(4, ge=1, description="heads H of the semantic attention; H d coefficients per pair")
    num_kernels: int = Field(50, ge=2, description="radial functions K")
    kernel_reach: float = Field(5.0, gt=0, description="Angstrom that the radial functions resolve")
    cutoff: float | None = Field(
        None, gt=0, description="Angstrom, where a cosine cutoff ends the attention; null for none, as published"
    )
    update: bool = Field(True, description="velocities move the atoms from layer to layer")
    spatial: Literal["attention", "none", "none-matched", "harmonics", "dot", "persistent", "distances"] = Field(
        "attention",
        description="invariants of a node: norms of linear combinations of edge vectors (SAKE); none; none, with the "
        "parameters given to the node's network; power spectra of spherical harmonics; products of mixed combinations; "
        "the same of vectors kept from layer to layer (PaiNN); none but distances of atoms that move (EGNN)",
    )
    degrees: tuple[int, ...] = Field((1,), min_length=1, description="harmonics: degrees l; (1) is SAKE itself")
    match_channels: bool = Field(
        True,
        description="harmonics: the H d coefficients of a pair are divided among the degrees, so that invariants and "
        "parameters are as many as SAKE's; otherwise every degree reads all of them",
    )

    @model_validator(mode="after")
    def _consistent(self) -> SAKEConfig:
        if self.num_vectors > 1:
            raise ValueError(
                f"sake has one vector per atom, how far it moved: num_vectors must be 0 or 1, found {self.num_vectors}"
            )
        if self.num_vectors and not self.update:
            raise ValueError("the vector of sake is how far an atom moved: expected update: true or num_vectors: 0")
        if self.num_vectors and self.spatial.startswith("none") and not self.particles:
            raise ValueError(f"spatial: {self.spatial} moves no atom that rests: expected num_vectors: 0")
        if sorted(set(self.degrees)) != list(self.degrees) or not set(self.degrees) <= {0, 1, 2, 3}:
            raise ValueError(f"degrees: expected rising ones among 0, 1, 2, 3, found {list(self.degrees)}")
        if self.degrees != (1,) and self.spatial != "harmonics":
            raise ValueError(f"degrees other than (1) belong to spatial: harmonics, found spatial: {self.spatial}")
        if self.match_channels and self.num_heads * self.embed_dim % len(self.degrees):
            raise ValueError(
                f"num_heads * embed_dim = {self.num_heads * self.embed_dim} must be a multiple of the number of "
                f"degrees, {len(self.degrees)}"
            )
        return self
