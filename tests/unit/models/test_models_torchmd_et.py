"""TorchMD-Net's equivariant transformer against loops over atoms and heads that are written from its equations."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from checks.architectures import build_network
from checks.crystals import slab, to_batch
from checks.neighbour_loops import (
    Pair,
    Streams,
    Weights,
    assert_same_as_loops,
    cosine,
    embedded,
    first_vectors,
    linear,
    pairs_within,
)
from checks.systems import stack, system
from torch import Tensor
from torch.nn import functional as F

from geomformer.config.torchmd_et import TorchMDETConfig
from geomformer.models.torchmd_et import TorchMDET
from geomformer.records import Batch

SIZE: dict[str, Any] = {"num_layers": 3, "embed_dim": 8, "num_heads": 2, "num_kernels": 6, "neighbour_cutoff": 4.0}
PARTICLES: dict[str, Any] = {"particles": True, "speed": True, "atom_features": False}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "first version, tags": {"vector_cutoff": False, "tags": True},
    "kernels learnt": {"trainable_kernels": True},
    "particles": PARTICLES,
}


def radial(model: TorchMDET, w: Weights, d: Tensor) -> Tensor:
    """The K radial functions at one distance times the cutoff."""
    cutoff = model.config.neighbour_cutoff
    centres, betas = w.get("rbf.centres", model.rbf.centres), w.get("rbf.betas", model.rbf.betas)
    shrunk = torch.exp(-5.0 / cutoff * d)
    values = [torch.exp(-beta * (shrunk - centre) ** 2) for centre, beta in zip(centres, betas, strict=True)]
    return torch.stack(values) * cosine(d, cutoff)


def norm(w: Weights, name: str, x: Tensor) -> Tensor:
    """LN of one atom."""
    centred = x - x.mean()
    return centred / (centred.square().mean() + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def with_neighbours(model: TorchMDET, w: Weights, batch: Batch, pairs: list[Pair]) -> list[Tensor]:
    """The scalars that the layers start from."""
    name, cutoff, n = "neighbour_embedding", model.config.neighbour_cutoff, batch.positions.shape[1]
    around = [torch.zeros(model.config.embed_dim, dtype=torch.float64) for _ in range(n)]
    for pair in pairs:
        if not pair.itself:
            filters = linear(w, f"{name}.distance", radial(model, w, pair.d)) * cosine(pair.d, cutoff)
            around[pair.i] = around[pair.i] + embedded(w, f"{name}.embedding", model, batch, pair.j) * filters
    own = [embedded(w, "embedding", model, batch, i) for i in range(n)]
    return [linear(w, f"{name}.combine", torch.cat([own[i], around[i]])) for i in range(n)]


def messages(
    model: TorchMDET, w: Weights, layer: str, y: list[Tensor], v: list[Tensor], pair: Pair
) -> tuple[Tensor, Tensor]:
    """What one pair adds to X_i (D,) and G_i (3, D), head by head."""
    config, size = model.config, model.config.embed_dim // model.config.num_heads
    kernels, cut = radial(model, w, pair.d), cosine(pair.d, config.neighbour_cutoff)
    q, k = linear(w, f"{layer}.q", y[pair.i]), linear(w, f"{layer}.k", y[pair.j])
    dk, dv = F.silu(linear(w, f"{layer}.dk", kernels)), F.silu(linear(w, f"{layer}.dv", kernels))
    values = linear(w, f"{layer}.value", y[pair.j]) * dv
    scalars, vectors = [], []
    for head in range(config.num_heads):
        own = slice(head * size, (head + 1) * size)
        score = F.silu((q[own] * k[own] * dk[own]).sum())
        s, s1, s2 = values[3 * head * size : 3 * (head + 1) * size].split(size)
        if config.vector_cutoff:
            s, s1, s2 = s * cut, s1 * cut, s2 * cut
        else:
            score = score * cut
        scalars.append(score * s)
        vectors.append(v[pair.j][:, own] * s1 + torch.outer(pair.u, s2))
    return torch.cat(scalars), torch.cat(vectors, 1)


def by_loops(model: TorchMDET, w: Weights, batch: Batch, cell: Tensor | None = None) -> Streams:
    """One system."""
    dim, n = model.config.embed_dim, batch.positions.shape[1]
    pairs = pairs_within(model.config.neighbour_cutoff, batch.positions[0], cell)
    x = with_neighbours(model, w, batch, pairs)
    v = [first_vectors(w, model, batch, i) for i in range(n)]
    for number in range(model.config.num_layers):
        layer = f"layers.{number}"
        y = [norm(w, f"{layer}.norm", x[i]) for i in range(n)]
        sums, vectors = [torch.zeros_like(value) for value in x], [torch.zeros_like(value) for value in v]
        for pair in pairs:
            scalar, vector = messages(model, w, layer, y, v, pair)
            sums[pair.i], vectors[pair.i] = sums[pair.i] + scalar, vectors[pair.i] + vector
        for i in range(n):
            o1, o2, o3 = linear(w, f"{layer}.out", sums[i]).split(dim)
            w1, w2, w3 = (v[i] @ part.T for part in w[f"{layer}.vectors.weight"].split(dim))
            x[i], v[i] = x[i] + (w1 * w2).sum(0) * o2 + o3, v[i] + w3 * o1 + vectors[i]
    return torch.stack([norm(w, "norm", x[i]) for i in range(n)]), torch.stack(v)


@pytest.mark.parametrize("variant", VARIANTS)
def test_same_as_loops(variant: str) -> None:
    model = build_network(TorchMDETConfig(**SIZE, **VARIANTS[variant]))
    assert isinstance(model, TorchMDET)
    batch = stack([system(2.0 * torch.randn(n, 3, dtype=torch.float64)) for n in (5, 1, 3)])
    assert_same_as_loops(model, batch, lambda w, one: by_loops(model, w, one))


def test_crystal_same_as_loops_over_copies() -> None:
    config = TorchMDETConfig(**SIZE, images="keys", atom_features=False)
    model, crystal = build_network(config), slab(atoms=3)
    assert isinstance(model, TorchMDET)
    cell = torch.from_numpy(crystal.cell)
    assert_same_as_loops(model, to_batch([crystal], config), lambda w, one: by_loops(model, w, one, cell))


def test_an_atom_attends_to_itself() -> None:
    """Alone it gets no vectors, yet scalars of its own through the self pair, which `value` makes."""
    model = build_network(TorchMDETConfig(**SIZE))
    output = model(stack([system(torch.zeros(1, 3, dtype=torch.float64))]))
    assert not output.z_equ[0].any()
    (slope,) = torch.autograd.grad(output.z_inv[0].square().sum(), model.layers[0].value.weight)
    assert slope.any()


@pytest.mark.parametrize("trainable", [True, False])
def test_sizes_of_its_md17_experiment(trainable: bool) -> None:
    model = build_network(TorchMDETConfig(trainable_kernels=trainable), torch.float32)
    assert isinstance(model, TorchMDET)
    dim, kernels = 128, 32
    layer = 2 * dim + 2 * (dim * dim + dim) + (dim + 1) * 3 * dim + (kernels + 1) * 4 * dim + 3 * dim * dim
    layer += (dim + 1) * 3 * dim
    assert sum(parameter.numel() for parameter in model.layers.parameters()) == 6 * layer
    assert sum(parameter.numel() for parameter in model.rbf.parameters()) == (2 * kernels if trainable else 0)
    start, reach = math.exp(-5.0), 1.0 - math.exp(-5.0)
    centres = torch.tensor([start + k * reach / (kernels - 1) for k in range(kernels)])
    if not trainable:
        assert torch.allclose(model.rbf.centres, centres)
        assert torch.allclose(model.rbf.betas, torch.full((kernels,), (2.0 / kernels * reach) ** -2))
