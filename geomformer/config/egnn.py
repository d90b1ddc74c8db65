"""The `model` section of EGNN."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from geomformer.config.network import NetworkConfig


class EGNNConfig(NetworkConfig):
    """EGNN as published for particles: 4 layers of 64 channels."""

    architecture: Literal["egnn"] = "egnn"
    num_layers: int = Field(4, ge=1, description="layers")
    embed_dim: int = Field(64, ge=1, description="channels D of nodes and messages")

    @model_validator(mode="after")
    def _consistent(self) -> EGNNConfig:
        if self.num_vectors > 1:
            raise ValueError(
                f"egnn has one vector per atom, how far it moved: num_vectors must be 0 or 1, found {self.num_vectors}"
            )
        if self.particles and not self.speed:
            raise ValueError("egnn reads particles by their speed: expected speed: true")
        return self
