"""The `model` section of TorchMD-Net's equivariant transformer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from geomformer.config.network import PairListConfig


class TorchMDETConfig(PairListConfig):
    """The equivariant transformer with the sizes of its MD17 experiment: 6 layers of 128 channels, 8 heads, 32 radial
    functions, 5 Angstrom.
    """

    architecture: Literal["torchmd-et"] = "torchmd-et"
    num_layers: int = Field(6, ge=1, description="layers")
    num_kernels: int = Field(32, ge=2, description="radial functions K")
    trainable_kernels: bool = Field(False, description="centres and widths of the radial functions are learnt")
    vector_cutoff: bool = Field(
        True,
        description="the cutoff weighs the values, vectors among them, so that energies are continuous; the first "
        "version (false) weighs the attention alone",
    )

    @property
    def splits_channels(self) -> bool:
        return True
