"""SAKE against its equations, written as loops, and what its variants have in common with it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from checks.architectures import PARTICLES, SAKE_SIZE, build_network
from checks.systems import all_geometries, stack, system
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from geomformer.config.sake import SAKEConfig
from geomformer.models import build_model
from geomformer.models.network import atom_inputs
from geomformer.models.sake import SAKE, SAKELayer
from geomformer.nn.spatial import Distances, DotProducts, PersistentVectors, PowerSpectrum
from geomformer.records import Batch

EPS = 1e-5


def sake(**changes: Any) -> SAKE:
    model = build_network(SAKEConfig.model_validate({**SAKE_SIZE, **changes}))
    assert isinstance(model, SAKE)
    return model


def edge_by_hand(layer: SAKELayer, h_i: Tensor, h_j: Tensor, distance: Tensor) -> Tensor:
    edge, rbf = layer.edge, layer.edge.rbf
    kernels = torch.exp(-rbf.betas * (torch.exp(-rbf.alpha * distance) - rbf.centres).square())
    weight = torch.cat([edge.filter_j.weight, edge.filter_i.weight], 1)
    f = kernels * (weight @ torch.cat([h_j, h_i]) + edge.filter_i.bias)
    first = torch.cat([edge.first_j.weight, edge.first_i.weight, edge.first_f.weight], 1)
    return edge.second(F.silu(first @ torch.cat([h_j, h_i, f, distance[None]]) + edge.first_i.bias))


def attention_by_hand(layer: SAKELayer, i: int, e: list[Tensor], d: list[Tensor]) -> Tensor:
    """a_ij of atom i, (n, H)."""
    logits = [F.celu(layer.semantic(e[j]), 2.0) - 1e5 * (i == j) for j in range(len(e))]
    a = torch.softmax(torch.stack(logits), 0)
    if layer.cutoff is None:
        return a
    weights = [0.5 * (math.cos(math.pi * min(float(item), layer.cutoff) / layer.cutoff) + 1.0) for item in d]
    a = a * torch.tensor(weights, dtype=a.dtype)[:, None]
    return a / a.sum(0) if bool((a.sum(0) > 0).all()) else a


def power_by_hand(degree: int, u: list[Tensor], coefficients: list[Tensor], others: list[int]) -> Tensor:
    """mean_jk lambda_j lambda_k |u_j|^l |u_k|^l P_l(cos), what the power spectrum is by the addition theorem."""
    legendre = np.polynomial.legendre.Legendre.basis(degree)
    total = torch.zeros_like(coefficients[0])
    for j in others:
        for k in others:
            lengths = float(u[j].norm() * u[k].norm())
            kernel = lengths**degree * float(legendre(float(u[j] @ u[k]) / lengths))
            total = total + kernel * coefficients[j] * coefficients[k]
    return total / len(u) ** 2


def block_by_hand(
    layer: SAKELayer, i: int, attended: list[Tensor], u: list[Tensor], kept: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What atom i gets from spatial attention or its replacement: (d) for its node, dv (3), vectors kept (3, C)."""
    block, n = layer.spatial, len(u)
    nothing, others = u[i].new_zeros(layer.node[2].out_features), [j for j in range(n) if j != i]
    if block is None:
        return nothing, torch.zeros_like(u[i]), kept[i]
    coefficients = [torch.tanh(block.coefficients.linear(item)) for item in attended]
    m = sum((torch.outer(u[j], coefficients[j]) for j in others), 0.0 * torch.outer(u[i], coefficients[i])) / n
    if isinstance(block, Distances):
        return nothing, m[:, 0], kept[i]
    vectors = m
    if isinstance(block, PersistentVectors):
        moved = [torch.tanh(block.transport.linear(attended[j])) * kept[j] for j in others]
        vectors = kept[i] + m + sum(moved, torch.zeros_like(m)) / n
    if isinstance(block, PowerSpectrum):
        s = []
        for place, degree in enumerate(block.degrees):
            each = len(coefficients[0]) // len(block.degrees)
            own = slice(place * each, (place + 1) * each) if block.matched else slice(None)
            s.append(power_by_hand(degree, u, [item[own] for item in coefficients], others))
        s = torch.cat(s)
    elif isinstance(block, DotProducts):
        s = ((vectors @ block.first.weight.T) * (vectors @ block.second.weight.T)).sum(0)
    else:
        s = vectors.square().sum(0)
    return layer.post_norm(s), m @ block.step.weight[0], vectors


def layer_by_hand(
    layer: SAKELayer, h: Tensor, x: Tensor, v: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, new_h, new_x, new_v, new_kept = len(h), [], [], [], []
    for i in range(n):
        r = [x[j] - x[i] for j in range(n)]
        d = [(item.square().sum() + EPS).sqrt() for item in r]
        e = [edge_by_hand(layer, h[i], h[j], d[j]) for j in range(n)]
        a = attention_by_hand(layer, i, e, d)
        attended = [torch.outer(a[j], e[j]).flatten() for j in range(n)]
        u = [r[j] / (d[j] + EPS) for j in range(n)]
        post, dv, vectors = block_by_hand(layer, i, attended, u, kept)
        new_h.append(h[i] + layer.node(torch.cat([h[i], sum(attended), post])))
        new_v.append(2.0 * torch.sigmoid(layer.inertia(new_h[-1])) * v[i] + dv)
        new_x.append(x[i] + new_v[-1])
        new_kept.append(vectors)
    return torch.stack(new_h), torch.stack(new_x), torch.stack(new_v), torch.stack(new_kept)


def by_hand(model: SAKE, batch: Batch) -> tuple[Tensor, Tensor]:
    """Final nodes (n, D) and how far they moved (n, 3), for one system without padding."""
    inputs = atom_inputs(model.config, batch)
    h, x = model.embedding(inputs.categories, inputs.numbers)[0], batch.positions[0]
    v = batch.velocities[0] if model.config.particles and batch.velocities is not None else torch.zeros_like(x)
    kept = x.new_zeros(len(x), 3, model.config.num_heads * model.config.embed_dim)
    for layer in model.layers:
        assert isinstance(layer, SAKELayer)
        h, x, v, kept = layer_by_hand(layer, h, x, v, kept)
    return h, x - batch.positions[0]


VARIANTS: dict[str, dict[str, Any]] = {
    "published": {},
    "cutoff": {"cutoff": 4.0},
    "particles": {**PARTICLES, "embed_dim": 16},
    "removed, particles": {**PARTICLES, "embed_dim": 16, "spatial": "none"},
    "removed, matched, particles": {**PARTICLES, "embed_dim": 16, "spatial": "none-matched"},
    "harmonics": {"spatial": "harmonics", "degrees": (0, 1, 2, 3)},
    "harmonics, more channels": {"spatial": "harmonics", "degrees": (0, 2), "match_channels": False},
    "dot products": {"spatial": "dot"},
    "persistent vectors": {"spatial": "persistent"},
    "distances": {"spatial": "distances"},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("atoms", [1, 2, 6])
def test_equations(variant: str, atoms: int) -> None:
    model, batch = sake(**VARIANTS[variant]), stack([system(1.5 * torch.randn(atoms, 3).double())])
    with torch.no_grad():
        output, (nodes, moved) = model(batch), by_hand(model, batch)
    assert output.vectors is not None
    assert torch.allclose(output.z_inv[0][0], nodes, rtol=1e-12, atol=1e-12)
    assert torch.allclose(output.vectors[0, :, 0], moved, rtol=1e-12, atol=1e-12)


def same_outputs(one: SAKE, other: SAKE) -> bool:
    batch = all_geometries()
    with torch.no_grad():
        a, b = one(batch), other(batch)
    assert a.scalars is not None and b.scalars is not None and a.vectors is not None and b.vectors is not None
    return torch.allclose(a.scalars, b.scalars, rtol=1e-12, atol=1e-12) and torch.allclose(
        a.vectors, b.vectors, rtol=1e-12, atol=1e-12
    )


def test_degree_one_is_sake() -> None:
    model, spectrum = sake(), sake(spatial="harmonics", degrees=(1,))
    assert not same_outputs(model, spectrum)
    spectrum.load_state_dict(model.state_dict())
    assert same_outputs(model, spectrum)


def test_dot_products_of_unmixed_combinations_are_sake() -> None:
    model, products = sake(), sake(spatial="dot")
    products.load_state_dict(model.state_dict(), strict=False)
    assert not same_outputs(model, products)
    for layer in products.layers:
        torch.nn.init.eye_(layer.spatial.first.weight)
        torch.nn.init.eye_(layer.spatial.second.weight)
    assert same_outputs(model, products)


def test_the_first_layer_of_persistent_vectors_is_that_of_dot_products() -> None:
    kept, products = sake(spatial="persistent", num_layers=1), sake(spatial="dot", num_layers=1)
    products.load_state_dict(kept.state_dict(), strict=False)
    assert same_outputs(kept, products)
    kept, products = sake(spatial="persistent"), sake(spatial="dot")
    products.load_state_dict(kept.state_dict(), strict=False)
    assert not same_outputs(kept, products)


def test_removed_spatial_attention_moves_nothing_and_keeps_the_width() -> None:
    model, removed = sake(num_vectors=0), sake(spatial="none", num_vectors=0)
    assert removed.layers[0].node[0].weight.shape == model.layers[0].node[0].weight.shape
    state = {name: value for name, value in model.state_dict().items() if name in removed.state_dict()}
    removed.load_state_dict(state)
    for layer in model.layers:
        torch.nn.init.zeros_(layer.post_norm[2].weight)
        torch.nn.init.zeros_(layer.post_norm[2].bias)
        torch.nn.init.zeros_(layer.spatial.step.weight)
    batch = all_geometries()
    with torch.no_grad():
        assert torch.allclose(model(batch).scalars, removed(batch).scalars, rtol=1e-12, atol=1e-12)


def parameters(**changes: Any) -> int:
    return build_model(SAKEConfig.model_validate({"num_vectors": 0, "atom_features": False, **changes})).num_parameters


def test_sizes() -> None:
    published = parameters()
    assert parameters(spatial="none") < 0.5 * published
    assert parameters(spatial="none-matched") == pytest.approx(published, rel=0.003)
    assert parameters(spatial="harmonics") == published
    assert parameters(spatial="harmonics", degrees=(0, 1, 2, 3)) == published
    channels = 4 * 64
    fewer = [build_model(SAKEConfig(spatial="harmonics", degrees=(0, 1, 2, 3))), build_model(SAKEConfig())]
    assert [m.layers[0].spatial.num_invariants for m in fewer] == [channels, channels]  # type: ignore[union-attr,index]
    more = build_model(SAKEConfig(spatial="harmonics", degrees=(0, 1), match_channels=False))
    assert more.layers[0].spatial.num_invariants == 2 * channels  # type: ignore[union-attr,index]


def test_without_update_atoms_stay() -> None:
    model = sake(update=False, num_vectors=0)
    assert all(layer.inertia is None for layer in model.layers)
    assert model(all_geometries()).vectors is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_vectors": 2}, "must be 0 or 1, found 2"),
        ({"update": False}, "expected update: true or num_vectors: 0"),
        ({"spatial": "none"}, "expected num_vectors: 0"),
        ({"degrees": (2, 1)}, "expected rising ones"),
        ({"degrees": (4,)}, "among 0, 1, 2, 3"),
        (
            {"spatial": "harmonics", "degrees": (0, 1, 2), "embed_dim": 16},
            "must be a multiple of the number of degrees, 3",
        ),
        ({"degrees": (0, 1)}, "degrees other than .1. belong to spatial: harmonics, found spatial: attention"),
    ],
)
def test_refusals(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SAKEConfig.model_validate(change)
