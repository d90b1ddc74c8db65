"""The optimiser and its learning rate."""

from __future__ import annotations

import math

import torch
from torch import nn

from geomformer.config.run import OptimConfig


def learning_rate(config: OptimConfig, step: int, max_steps: int) -> float:
    """Rate of optimiser step `step` (from 0): linear warm-up, then linear or cosine decay to zero, or constant."""
    warmup = round(config.warmup_fraction * max_steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    remaining = (max_steps - step) / max(max_steps - warmup, 1)
    if config.schedule == "linear":
        return config.learning_rate * remaining
    if config.schedule == "cosine":
        return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * (1.0 - remaining)))
    return config.learning_rate


def build_optimizer(config: OptimConfig, model: nn.Module) -> torch.optim.Optimizer:
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
    return kinds[config.name](
        model.parameters(),
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        foreach=True,
    )
