"""Comparison of model outputs relative to the largest value of the batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geomformer.models.network import ModelOutput

SMALLEST_SCALE = 1e-3
"""An output below this is zero by symmetry, and its error is read as absolute."""


@dataclass(frozen=True)
class Tolerance:
    """Largest relative error of scalars and of vectors in one precision."""

    dtype: torch.dtype
    scalars: float
    vectors: float


TOLERANCES = {
    torch.float64: Tolerance(torch.float64, 1e-10, 1e-10),
    torch.float32: Tolerance(torch.float32, 1e-4, 1e-3),
}


def relative_error(actual: Tensor, expected: Tensor, scale: Tensor | None = None) -> float:
    """Largest difference over the largest magnitude of `scale` (default: `expected`); NaN anywhere gives infinity."""
    if actual.numel() == 0:
        return 0.0
    reach = (expected if scale is None else scale).abs().max().clamp(min=SMALLEST_SCALE)
    error = ((actual - expected).abs().max() / reach).item()
    return error if error == error else float("inf")


def worst_system(actual: Tensor, expected: Tensor) -> int:
    difference = (actual - expected).abs().flatten(1).amax(1)
    return int(difference.nan_to_num(float("inf")).argmax())


def assert_same(
    actual: ModelOutput, expected: ModelOutput, tolerance: Tolerance, what: str, scale: ModelOutput | None = None
) -> None:
    """Scalars and vectors agree within `tolerance`, relative to the largest of `scale` (default: `expected`)."""
    for name, limit in (("scalars", tolerance.scalars), ("vectors", tolerance.vectors)):
        a, e, s = (None if output is None else getattr(output, name) for output in (actual, expected, scale))
        assert (a is None) == (e is None), f"{what}: {name} missing on one side"
        if a is not None and e is not None:
            error = relative_error(a, e, s)
            assert error < limit, f"{what}: {name} differ by {error:.1e} > {limit:g}, worst at row {worst_system(a, e)}"
