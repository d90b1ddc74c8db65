"""The `model` section of SAKE."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from geomformer.config.network import NetworkConfig


class SAKEConfig(NetworkConfig):
    """SAKE: size, inputs and outputs."""

    architecture: Literal["sake"] = "sake"
    num_layers: int = Field(6, ge=1, description="layers")
    embed_dim: int = Field(64, ge=1, description="channels d of the nodes")
    num_heads: int = Field(4, ge=1, description="attention heads")
