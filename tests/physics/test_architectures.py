"""What every architecture obeys: symmetries, padding, degenerate geometries, gradients, saving and loading."""

from __future__ import annotations

import pytest
import torch
from checks.architectures import ARCHITECTURES, build_network
from checks.comparison import TOLERANCES, Tolerance, assert_same
from checks.equivariance import assert_symmetries
from checks.gradients import assert_finite_gradients, assert_parameter_gradients, assert_position_gradients
from checks.systems import all_geometries
from safetensors.torch import load

from geomformer.artifacts.weights import load_network, weights_to_bytes

NAMES = pytest.mark.parametrize("name", ARCHITECTURES)


@NAMES
def test_symmetries(name: str, tolerance: Tolerance) -> None:
    assert_symmetries(build_network(ARCHITECTURES[name], tolerance.dtype), all_geometries(), tolerance)


@NAMES
def test_gradients_are_finite_in_single_precision(name: str) -> None:
    model = build_network(ARCHITECTURES[name], torch.float32)
    assert_finite_gradients(model, all_geometries(apart=True).to(dtype=torch.float32))


@NAMES
def test_position_gradients(name: str) -> None:
    assert_position_gradients(build_network(ARCHITECTURES[name]), all_geometries(apart=True), 1e-5)


@NAMES
def test_parameter_gradients(name: str) -> None:
    config = ARCHITECTURES[name].model_copy(update={"num_layers": 1})
    assert_parameter_gradients(build_network(config), all_geometries(), 1e-6)


@NAMES
def test_second_derivatives_are_finite(name: str) -> None:
    """What training on -dE/dx needs, on every degenerate geometry."""
    model, batch = build_network(ARCHITECTURES[name]), all_geometries()
    batch.positions.requires_grad_()
    output = model(batch)
    assert output.scalars is not None
    (slopes,) = torch.autograd.grad(output.scalars.sum(), batch.positions, create_graph=True)
    gradients = torch.autograd.grad(slopes.square().sum(), list(model.parameters()), allow_unused=True)
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)
    assert any(gradient is not None and gradient.any() for gradient in gradients)


@NAMES
def test_saved_and_loaded(name: str) -> None:
    model, batch = build_network(ARCHITECTURES[name], torch.float32), all_geometries().to(dtype=torch.float32)
    again = load_network(ARCHITECTURES[name], load(weights_to_bytes(model.state_dict())), "the model")
    with torch.no_grad():
        assert_same(again(batch), model(batch), TOLERANCES[torch.float32], "loaded")
