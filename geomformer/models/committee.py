"""Several networks of one kind that answer as one: a deep ensemble.

Source: Lakshminarayanan, Pritzel, Blundell, NeurIPS 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from geomformer.config.network import NetworkConfig
from geomformer.models.network import ModelOutput, Network
from geomformer.records import Batch


class Committee(Network):
    """y = 1/M sum_m (a_m y_m + b_m), over M networks that were trained apart from different starts.

    Their errors are partly their own, and cancel. The factors a_m and shifts b_m bring outputs that were normalised by
    other means and scales to those of the committee; vectors have factors alone. The streams of all networks are
    returned, one after another.

    Args:
        config: of each network, which `build` makes.
    """

    scalar_factors: Tensor
    scalar_shifts: Tensor
    vector_factors: Tensor

    def __init__(self, config: NetworkConfig, build: Callable[[NetworkConfig], Network]) -> None:
        super().__init__(config)
        self.scalar_head = self.vector_head = self.tag_weight = None
        alone = config.model_copy(update={"members": 1})
        self.networks = nn.ModuleList(build(alone) for _ in range(config.members))
        self.register_buffer("scalar_factors", torch.ones(config.members, config.num_scalars))
        self.register_buffer("scalar_shifts", torch.zeros(config.members, config.num_scalars))
        self.register_buffer("vector_factors", torch.ones(config.members, config.num_vectors))

    def forward(self, batch: Batch, atom_weight: Tensor | None = None) -> ModelOutput:
        outputs = [self.scaled(member, network(batch, atom_weight)) for member, network in enumerate(self.networks)]
        return ModelOutput(
            scalars=mean([output.scalars for output in outputs]),
            vectors=mean([output.vectors for output in outputs]),
            z_inv=[z for output in outputs for z in output.z_inv],
            z_equ=[z for output in outputs for z in output.z_equ],
            members=outputs,
        )

    def scaled(self, member: int, output: ModelOutput) -> ModelOutput:
        scalars, vectors = output.scalars, output.vectors
        if scalars is not None:
            scalars = self.scalar_factors[member] * scalars + self.scalar_shifts[member]
        if vectors is not None:
            vectors = self.vector_factors[member][:, None] * vectors
        return replace(output, scalars=scalars, vectors=vectors)


def mean(answers: Sequence[Tensor | None]) -> Tensor | None:
    """None for networks without such an answer."""
    found = [answer for answer in answers if answer is not None]
    return torch.stack(found).mean(0) if found else None
