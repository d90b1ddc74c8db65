"""Several networks of one kind that answer as one: a deep ensemble.

Source: Lakshminarayanan, Pritzel, Blundell, NeurIPS 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from geomformer.config.network import NetworkConfig
from geomformer.models.network import ModelOutput, Network
from geomformer.records import Batch


class Committee(Network):
    """y = 1/M sum_m y_m, over M networks that were trained apart from different starts.

    Their errors are partly their own, and cancel. The streams of all networks are returned, one after another.

    Args:
        config: of each network, which `build` makes.
    """

    def __init__(self, config: NetworkConfig, build: Callable[[NetworkConfig], Network]) -> None:
        super().__init__(config)
        alone = config.model_copy(update={"members": 1})
        self.networks = nn.ModuleList(build(alone) for _ in range(config.members))

    def forward(self, batch: Batch, atom_weight: Tensor | None = None) -> ModelOutput:
        outputs: list[ModelOutput] = [network(batch, atom_weight) for network in self.networks]
        return ModelOutput(
            scalars=mean([output.scalars for output in outputs]),
            vectors=mean([output.vectors for output in outputs]),
            z_inv=[z for output in outputs for z in output.z_inv],
            z_equ=[z for output in outputs for z in output.z_equ],
            members=outputs,
        )


def mean(answers: Sequence[Tensor | None]) -> Tensor | None:
    """Of what all have; None where they have none."""
    found = [answer for answer in answers if answer is not None]
    return torch.stack(found).mean(0) if found else None
