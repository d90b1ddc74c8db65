"""EGNN against its equations, written as loops."""

from __future__ import annotations

import pytest
import torch
from checks.architectures import PARTICLES, build_network
from checks.systems import stack, system
from pydantic import ValidationError
from torch import Tensor

from geomformer.config.egnn import EGNNConfig
from geomformer.models import build_model
from geomformer.models.egnn import EGNN
from geomformer.records import Batch

PUBLISHED = EGNNConfig(particles=True, speed=True, atom_features=False, num_scalars=0)


def by_loops(model: EGNN, batch: Batch) -> Tensor:
    """Positions (n, 3) that the equations give for a single system of particles."""
    assert batch.velocities is not None and batch.particle_charges is not None
    start, v, q = batch.positions[0], batch.velocities[0], batch.particle_charges[0]
    x, n = start, len(start)
    assert model.embedding.numbers is not None
    h = model.embedding.numbers(v.norm(dim=-1, keepdim=True))
    for layer in model.layers:
        new_x, new_h = [], []
        for i in range(n):
            messages, steps = torch.zeros_like(h[0]), torch.zeros_like(x[0])
            for j in (j for j in range(n) if j != i):
                invariants = [
                    (x[i] - x[j]).square().sum(),
                    (start[i] - start[j]).square().sum(),
                    q[i] * q[j],
                ]
                m = layer.message(torch.cat([h[i], h[j], torch.stack(invariants)]))
                messages = messages + m
                steps = steps + (x[i] - x[j]) * layer.step(m) / (n - 1)
            new_x.append(x[i] + steps + layer.inertia(h[i]) * v[i])
            new_h.append(h[i] + layer.node(torch.cat([h[i], messages])))
        x, h = torch.stack(new_x), torch.stack(new_h)
    return x


def test_equations() -> None:
    batch = stack([system(2.0 * torch.randn(5, 3).double())])
    model = build_network(EGNNConfig(num_layers=3, **PARTICLES))
    assert isinstance(model, EGNN)
    with torch.no_grad():
        output, expected = model(batch), by_loops(model, batch) - batch.positions[0]
    assert output.vectors is not None
    assert torch.allclose(output.vectors[0, :, 0], expected, rtol=1e-12, atol=1e-12)


def test_size_is_the_published_one() -> None:
    assert build_model(PUBLISHED).num_parameters == 134_020


def test_without_vectors_the_last_layer_moves_nothing() -> None:
    model = build_network(EGNNConfig(num_layers=2, num_vectors=0))
    assert isinstance(model, EGNN)
    assert model.layers[0].step is not None and model.layers[1].step is None


@pytest.mark.parametrize(
    ("change", "message"),
    [({"num_vectors": 2}, "must be 0 or 1, found 2"), ({"particles": True}, "expected speed: true")],
)
def test_refusals(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EGNNConfig.model_validate(change)
