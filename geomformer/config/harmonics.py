"""The `model` section of the network of spherical harmonics."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from geomformer.config.network import PairListConfig


class HarmonicsConfig(PairListConfig):
    """Message passing with tensor products of spherical harmonics, of the kind of NequIP. It needs e3nn, the extra
    `ablations`.
    """

    architecture: Literal["harmonics"] = "harmonics"
    num_layers: int = Field(3, ge=1, description="layers")
    embed_dim: int = Field(64, ge=1, description="channels of degree 0")
    channels_1: int = Field(32, ge=1, description="channels of degree 1, vectors")
    channels_2: int = Field(16, ge=0, description="channels of degree 2; 0 for none")
    num_kernels: int = Field(8, ge=2, description="Bessel functions K")
    radial_dim: int = Field(
        32, ge=1, description="hidden channels of the network that weighs tensor products by distance"
    )
    average_neighbours: float = Field(
        10.0, gt=0, description="sums over neighbours are divided by the root of this number"
    )
