"""The `model` section of the network of spherical harmonics."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from geomformer.config.network import PairListConfig


class HarmonicsConfig(PairListConfig):
    """the network of spherical harmonics: size, inputs and outputs."""

    architecture: Literal["harmonics"] = "harmonics"
    num_layers: int = Field(3, ge=1, description="layers")
