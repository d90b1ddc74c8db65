"""The `model` section of PaiNN."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from geomformer.config.network import PairListConfig


class PaiNNConfig(PairListConfig):
    """PaiNN as published: 3 layers of 128 channels, 20 radial functions, 5 Angstrom."""

    architecture: Literal["painn"] = "painn"
    num_layers: int = Field(3, ge=1, description="pairs of interaction and mixing")
    num_kernels: int = Field(20, ge=2, description="radial functions K")
    radial_basis: Literal["bessel", "gaussian"] = Field("bessel", description="kind of the radial functions")
