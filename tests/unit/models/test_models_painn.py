"""PaiNN against loops over atoms that are written from its equations."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from checks.architectures import build_network
from checks.crystals import slab, to_batch
from checks.neighbour_loops import (
    Streams,
    Weights,
    assert_same_as_loops,
    cosine,
    embedded,
    first_vectors,
    linear,
    pairs_within,
    two_maps,
)
from checks.systems import stack, system
from torch import Tensor

from geomformer.config.painn import PaiNNConfig
from geomformer.models.painn import PaiNN
from geomformer.records import Batch

SIZE: dict[str, Any] = {"num_layers": 3, "embed_dim": 8, "num_heads": 2, "num_kernels": 6, "neighbour_cutoff": 4.0}
PARTICLES: dict[str, Any] = {"particles": True, "speed": True, "atom_features": False}
VARIANTS: dict[str, dict[str, Any]] = {
    "bessel": {},
    "gaussian, tags": {"radial_basis": "gaussian", "tags": True},
    "particles": PARTICLES,
}


def radial(model: PaiNN, d: Tensor) -> Tensor:
    """The K radial functions at one distance, with the network's own constants, which float32 has rounded."""
    config = model.config
    cutoff, count = config.neighbour_cutoff, config.num_kernels
    if config.radial_basis == "gaussian":
        spacing = cutoff / (count - 1)
        exact = torch.tensor([k * spacing for k in range(count)], dtype=torch.float64)
        assert torch.allclose(model.rbf.centres, exact, rtol=1e-6)
        return torch.stack([torch.exp(-((d - centre) ** 2) / (2.0 * spacing**2)) for centre in model.rbf.centres])
    exact = torch.tensor([k * math.pi / cutoff for k in range(1, count + 1)], dtype=torch.float64)
    assert torch.allclose(model.rbf.frequencies, exact, rtol=1e-6)
    return torch.stack([torch.sin(frequency * d) / d for frequency in model.rbf.frequencies])


def by_loops(model: PaiNN, w: Weights, batch: Batch, cell: Tensor | None = None) -> Streams:
    """One system."""
    dim, cutoff, n = model.config.embed_dim, model.config.neighbour_cutoff, batch.positions.shape[1]
    pairs = [pair for pair in pairs_within(cutoff, batch.positions[0], cell) if not pair.itself]
    q = [embedded(w, "embedding", model, batch, i) for i in range(n)]
    mu = [first_vectors(w, model, batch, i) for i in range(n)]
    for layer in range(model.config.num_layers):
        interaction, mixing = f"interactions.{layer}", f"mixings.{layer}"
        more_q, more_mu = [torch.zeros_like(value) for value in q], [torch.zeros_like(value) for value in mu]
        for pair in pairs:
            filters = linear(w, f"{interaction}.filters", radial(model, pair.d)) * cosine(pair.d, cutoff)
            message = filters * two_maps(w, f"{interaction}.phi", q[pair.j])
            more_q[pair.i] = more_q[pair.i] + message[:dim]
            step = torch.outer(pair.u, message[dim : 2 * dim]) + mu[pair.j] * message[2 * dim :]
            more_mu[pair.i] = more_mu[pair.i] + step
        for i in range(n):
            scalars, vectors = q[i] + more_q[i], mu[i] + more_mu[i]
            v, u = vectors @ w[f"{mixing}.maps.weight"][:dim].T, vectors @ w[f"{mixing}.maps.weight"][dim:].T
            length = (v.square().sum(0) + 1e-8).sqrt()
            a, b, c = two_maps(w, f"{mixing}.psi", torch.cat([scalars, length])).split(dim)
            q[i], mu[i] = scalars + a + c * (v * u).sum(0), vectors + b * u
    return torch.stack(q), torch.stack(mu)


@pytest.mark.parametrize("variant", VARIANTS)
def test_same_as_loops(variant: str) -> None:
    model = build_network(PaiNNConfig(**SIZE, **VARIANTS[variant]))
    assert isinstance(model, PaiNN)
    batch = stack([system(2.0 * torch.randn(n, 3, dtype=torch.float64)) for n in (5, 1, 3)])
    assert_same_as_loops(model, batch, lambda w, one: by_loops(model, w, one))


def test_crystal_same_as_loops_over_copies() -> None:
    config = PaiNNConfig(**SIZE, images="keys", atom_features=False)
    model, crystal = build_network(config), slab(atoms=3)
    assert isinstance(model, PaiNN)
    cell = torch.from_numpy(crystal.cell)
    near = pairs_within(config.neighbour_cutoff, torch.from_numpy(crystal.positions), cell)
    assert any(pair.i == pair.j and not pair.itself for pair in near), "an atom must meet its own copies"
    assert_same_as_loops(model, to_batch([crystal], config), lambda w, one: by_loops(model, w, one, cell))


def test_sizes_as_published() -> None:
    """3 layers of 128 channels and 20 radial functions, which have nothing to learn."""
    model = build_network(PaiNNConfig(), torch.float32)
    assert isinstance(model, PaiNN)
    layers = [parameter.numel() for part in (model.interactions, model.mixings) for parameter in part.parameters()]
    assert model.config.neighbour_cutoff == 5.0 and not list(model.rbf.parameters())
    interaction = 128 * 128 + 128 + 128 * 384 + 384 + 20 * 384 + 384
    mixing = 128 * 256 + 256 * 128 + 128 + 128 * 384 + 384
    assert sum(layers) == 3 * (interaction + mixing)
