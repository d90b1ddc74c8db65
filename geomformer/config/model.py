"""The `model` section: one form per architecture, told apart by its `architecture` key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from geomformer.config.egnn import EGNNConfig
from geomformer.config.geomformer import GeoMFormerConfig
from geomformer.config.harmonics import HarmonicsConfig
from geomformer.config.network import NetworkConfig
from geomformer.config.painn import PaiNNConfig
from geomformer.config.sake import SAKEConfig
from geomformer.config.torchmd_et import TorchMDETConfig

CONFIGS: dict[str, type[NetworkConfig]] = {
    "geomformer": GeoMFormerConfig,
    "painn": PaiNNConfig,
    "torchmd-et": TorchMDETConfig,
    "sake": SAKEConfig,
    "egnn": EGNNConfig,
    "harmonics": HarmonicsConfig,
}
"""Section by architecture; the first one is meant where none is named."""

ARCHITECTURES = tuple(CONFIGS)


def architecture_of(values: Any) -> Any:
    """The `architecture` of a section, given as plain values or ready; the first one if it names none."""
    if isinstance(values, Mapping):
        return values.get("architecture", ARCHITECTURES[0])
    return getattr(values, "architecture", None)


ModelConfig = Annotated[
    Annotated[GeoMFormerConfig, Tag("geomformer")]
    | Annotated[PaiNNConfig, Tag("painn")]
    | Annotated[TorchMDETConfig, Tag("torchmd-et")]
    | Annotated[SAKEConfig, Tag("sake")]
    | Annotated[EGNNConfig, Tag("egnn")]
    | Annotated[HarmonicsConfig, Tag("harmonics")],
    Discriminator(architecture_of),
]
