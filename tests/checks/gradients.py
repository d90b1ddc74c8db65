"""Gradients of a model: finite everywhere, and equal to central differences in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from geomformer.models.network import ModelOutput
from geomformer.records import Batch

STEPS = (1e-6, 1e-7, 1e-8)
"""Tried in turn: the shortest lengths of the model (coincident atoms, a vector that vanishes) differ by orders of
magnitude, and so does the step at which truncation and round-off are both small. A wrong slope fails at all."""


def summary(output: ModelOutput) -> Tensor:
    """(B,): a fixed random combination of all outputs of each system."""
    weights = torch.Generator().manual_seed(7)
    total_B = torch.zeros(())
    for value in (output.scalars, output.vectors):
        if value is not None:
            w = torch.randn(value.shape[1:], generator=weights, dtype=torch.float64).to(value.dtype)
            total_B = total_B + (value * w).flatten(1).sum(1)
    return total_B


def assert_slopes(actual_B: Tensor, values: Callable[[float], Tensor], limit: float, what: str) -> None:
    """`actual_B` are the slopes at zero of `values` (a step -> (B,)); relative above one, absolute below."""
    best_B = torch.full_like(actual_B, float("inf"))
    for step in STEPS:
        with torch.no_grad():
            numeric_B = (values(step) - values(-step)) / (2 * step)
        error_B = (actual_B - numeric_B).abs() / numeric_B.abs().clamp(min=1.0)
        best_B = torch.minimum(best_B, error_B.nan_to_num(float("inf")))
        if best_B.max() < limit:
            return
    row = int(best_B.argmax())
    raise AssertionError(f"{what}: autograd gives {actual_B[row]:.10g} at row {row}, differences {numeric_B[row]:.10g}")


def assert_finite_gradients(model: nn.Module, batch: Batch) -> None:
    """Every gradient is finite, system by system, so that no degenerate one can spoil a whole training step."""
    positions = batch.positions.clone().requires_grad_()
    values_B = summary(model(replace(batch, positions=positions)))
    parameters = list(model.parameters())
    for row in range(batch.num_systems):
        gradients = torch.autograd.grad(values_B[row], [positions, *parameters], retain_graph=True, allow_unused=True)
        for gradient in gradients:
            largest = 0.0 if gradient is None else gradient.abs().max().item()
            assert largest < 1e6, f"gradient of row {row} reaches {largest}"


def assert_position_gradients(model: nn.Module, batch: Batch, limit: float) -> None:
    """Slopes along a random displacement, of all systems at once."""
    positions = batch.positions.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(summary(model(replace(batch, positions=positions))).sum(), positions)
    way = torch.randn_like(batch.positions) * batch.mask[..., None]

    def values(step: float) -> Tensor:
        return summary(model(replace(batch, positions=batch.positions + step * way)))

    assert_slopes((gradient * way).flatten(1).sum(1), values, limit, "positions")


def assert_parameter_gradients(model: nn.Module, batch: Batch, limit: float) -> None:
    """The slope along a random change of each parameter tensor in turn."""
    named = dict(model.named_parameters())
    gradients = torch.autograd.grad(summary(model(batch)).sum(), list(named.values()))
    for (name, parameter), gradient in zip(named.items(), gradients, strict=True):
        way, start = torch.randn_like(parameter), parameter.detach().clone()

        def values(step: float, p: Tensor = parameter, way: Tensor = way, start: Tensor = start) -> Tensor:
            p.copy_(start + step * way)
            return summary(model(batch)).sum()[None]

        assert_slopes((gradient * way).sum()[None], values, limit, name)
        with torch.no_grad():
            parameter.copy_(start)
