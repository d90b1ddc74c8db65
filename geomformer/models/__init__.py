"""Networks by their configuration name."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from geomformer.config.network import NetworkConfig
    from geomformer.models.network import Network

NETWORKS = {
    "geomformer": ("geomformer.models.geomformer", "GeoMFormer"),
    "painn": ("geomformer.models.painn", "PaiNN"),
    "torchmd-et": ("geomformer.models.torchmd_et", "TorchMDET"),
    "sake": ("geomformer.models.sake", "SAKE"),
    "egnn": ("geomformer.models.egnn", "EGNN"),
    "harmonics": ("geomformer.models.harmonics", "Harmonics"),
}
"""Module and class by architecture."""


def build_model(config: NetworkConfig) -> Network:
    """Builds the network a configuration describes, with fresh parameters."""
    if config.members > 1:
        from geomformer.models.committee import Committee

        return Committee(config, build_model)
    module, name = NETWORKS[config.architecture]
    return getattr(import_module(module), name)(config)
