"""Gradients on degenerate input, and how much noise out of the plane matters."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from checks.comparison import relative_error
from checks.gradients import assert_finite_gradients, assert_parameter_gradients, assert_position_gradients
from checks.systems import all_geometries, stack, system
from checks.variants import PAIRS, VARIANTS, build

CORE = {
    "default": {},
    "parallel": {"wiring": "parallel"},
    "e3": {"group": "e3"},
    "rms": {"norm": "rms"},
    "neighbours": {"equivariant_input": "neighbours"},
    "pairs": PAIRS,
}
# More passes read detached positions: autograd leaves out what differences of the whole see.
DIFFERENTIABLE = [name for name in VARIANTS if name != "velocities only" and "passes" not in name]


@pytest.mark.parametrize("name", [*CORE, "two passes"])
def test_gradients_are_finite_in_single_precision(name: str) -> None:
    model = build(dtype=torch.float32, **VARIANTS[name])
    assert_finite_gradients(model, all_geometries().to(dtype=torch.float32))


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_position_gradients(name: str) -> None:
    assert_position_gradients(build(**VARIANTS[name]), all_geometries(), 1e-5)


@pytest.mark.parametrize("name", CORE)
def test_parameter_gradients(name: str) -> None:
    assert_parameter_gradients(build(num_layers=1, **CORE[name]), all_geometries(), 1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_noise_out_of_plane_matters_little(seed: int) -> None:
    """Below 1 % of the largest output per 1e-3 Angstrom."""
    torch.manual_seed(seed)
    flat = 2.0 * torch.randn(10, 3, dtype=torch.float64) * torch.tensor([1.0, 1.0, 0.0])
    batch = stack([system(flat)])
    ripple = 1e-3 * torch.randn(10, 1, dtype=torch.float64) * torch.tensor([0.0, 0.0, 1.0])
    model = build()
    with torch.no_grad():
        before, after = model(batch), model(replace(batch, positions=batch.positions + ripple))
    assert relative_error(after.scalars, before.scalars) < 0.01
    assert relative_error(after.vectors, before.vectors) < 0.01
    assert after.vectors[..., 2].any(), "the noise must reach the output"
