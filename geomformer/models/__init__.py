"""Networks by their configuration name."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from geomformer.config.model import ModelConfig
    from geomformer.models.geomformer import GeoMFormer

ARCHITECTURES = ("geomformer",)


def build_model(config: ModelConfig) -> GeoMFormer:
    """Builds the network a configuration describes, with fresh parameters."""
    from geomformer.models.geomformer import GeoMFormer

    return GeoMFormer(config)
