"""Exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """ema <- d * ema + (1 - d) * weights after every step, d = min(decay, (1 + step) / (10 + step)).

    The slow start keeps the random initial weights out of short runs. With decay 0 the average is the weights.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters: list[Tensor] = list(module.parameters())
        self.names = [name for name, _ in module.named_parameters()]
        self.average = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1.0 + step) / (10.0 + step))
        torch._foreach_lerp_(self.average, self.parameters, 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the module holds the average; afterwards its own weights again."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        for parameter, average in zip(self.parameters, self.average, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(kept)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.average, strict=True))

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, average in zip(self.names, self.average, strict=True):
            average.copy_(state[name])
