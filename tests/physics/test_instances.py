"""Appendix C.1: PaiNN and TorchMD-Net ET are instances of a general two-stream block (`checks.two_stream_block`).

Streams and the gradients of every parameter agree to 1e-12 in float64, with cutoffs, biases and several layers. With
the sequential wiring they do not.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from checks.architectures import build_network
from checks.comparison import relative_error
from checks.systems import stack, system
from checks.two_stream_block import Attention, Geometry, Streams, TwoStreamBlock
from torch import Tensor
from torch.nn import functional as F

from geomformer.config.painn import PaiNNConfig
from geomformer.config.torchmd_et import TorchMDETConfig
from geomformer.models.network import Network, atom_inputs
from geomformer.models.painn import PaiNN
from geomformer.models.torchmd_et import ETAttention, TorchMDET
from geomformer.nn.basis import cosine_cutoff
from geomformer.records import Batch

LAYERS, ATOMS, CUTOFF = 3, 7, 4.0
SIZE = {"num_layers": LAYERS, "embed_dim": 16, "num_heads": 4, "num_kernels": 12, "neighbour_cutoff": CUTOFF}
LIMIT = 1e-12


@pytest.fixture
def batch() -> Batch:
    """One system in which some pairs are neighbours and some are not."""
    return stack([system(2.0 * torch.randn(ATOMS, 3, dtype=torch.float64))])


def painn_block(model: PaiNN, layer: int, wiring: str) -> TwoStreamBlock:
    """Inv-Self carries a, Equ-Cross b u + c mu_j, the feed-forward is the mixing; no norms, no attention to itself."""
    interaction, mixing = model.interactions[layer], model.mixings[layer]

    def parts(streams: Streams, geometry: Geometry) -> tuple[Tensor, ...]:
        filters = interaction.filters(model.rbf(geometry.d)) * cosine_cutoff(geometry.d, CUTOFF)[..., None]
        return (filters * interaction.phi(streams[0])[None]).chunk(3, -1)

    def scalar_values(streams: Streams, geometry: Geometry) -> Tensor:
        return parts(streams, geometry)[0]

    def vector_values(streams: Streams, geometry: Geometry) -> Tensor:
        _, b, c = parts(streams, geometry)
        return b[:, :, None] * geometry.u[..., None] + c[:, :, None] * streams[1][None]

    def mix(streams: Streams) -> Streams:
        q, mu = streams
        v, u = (F.linear(mu, part) for part in mixing.maps.weight.chunk(2))
        a, b, c = mixing.psi(torch.cat([q, (v.square().sum(1) + 1e-8).sqrt()], -1)).chunk(3, -1)
        return a + c * (v * u).sum(1), b[:, None] * u

    def others(geometry: Geometry) -> Tensor:
        return geometry.others

    def plain(total: Tensor, streams: Streams) -> Tensor:
        return total

    return TwoStreamBlock(
        inv_self=Attention(scalar_values, plain, others),
        equ_cross=Attention(vector_values, plain, others),
        feed_forward=mix,
        wiring=wiring,
    )


def et_block(model: TorchMDET, layer: int, wiring: str) -> TwoStreamBlock:
    """Inv-Self, Inv-Cross and the Equ-Self slot share one unnormalised attention to scalar values and differ in their
    maps of its sum; Equ-Cross adds up vectors without attention. LN in front of the scalars only, no feed-forward.
    """
    attention = model.layers[layer]
    assert isinstance(attention, ETAttention)

    def radial(geometry: Geometry) -> Tensor:
        return model.rbf(geometry.d) * cosine_cutoff(geometry.d, CUTOFF)[..., None]

    def weight(geometry: Geometry) -> Tensor:
        return cosine_cutoff(geometry.d, CUTOFF)

    def logits(streams: Streams, geometry: Geometry) -> Tensor:
        q, k = attention.q(streams[0])[:, None], attention.k(streams[0])[None]
        return (q * k * F.silu(attention.dk(radial(geometry)))).unflatten(-1, (attention.num_heads, -1)).sum(-1)

    def parts(streams: Streams, geometry: Geometry) -> list[Tensor]:
        values = attention.value(streams[0])[None] * F.silu(attention.dv(radial(geometry)))
        if attention.vector_cutoff:
            values = values * weight(geometry)[..., None]
        return [part.flatten(-2) for part in values.unflatten(-1, (attention.num_heads, -1)).chunk(3, -1)]

    def scalar_values(streams: Streams, geometry: Geometry) -> Tensor:
        return parts(streams, geometry)[0]

    def vector_values(streams: Streams, geometry: Geometry) -> Tensor:
        _, s1, s2 = parts(streams, geometry)
        return streams[1][None] * s1[:, :, None] + geometry.u[..., None] * s2[:, :, None]

    def out(total: Tensor, part: int) -> Tensor:
        return F.linear(total, attention.out.weight.chunk(3)[part], attention.out.bias.chunk(3)[part])

    def own(streams: Streams, part: int) -> Tensor:
        return F.linear(streams[1], attention.vectors.weight.chunk(3)[part])

    def near(geometry: Geometry) -> Tensor:
        return geometry.near

    def shared(post: Callable[[Tensor, Streams], Tensor]) -> Attention:
        cut = None if attention.vector_cutoff else weight
        return Attention(scalar_values, post, near, logits, activation="silu", weight=cut)

    return TwoStreamBlock(
        inv_self=shared(lambda total, streams: out(total, 2)),
        inv_cross=shared(lambda total, streams: out(total, 1) * (own(streams, 0) * own(streams, 1)).sum(1)),
        equ_self=shared(lambda total, streams: out(total, 0)[:, None] * own(streams, 2)),
        equ_cross=Attention(vector_values, lambda total, streams: total, near),
        norm=lambda streams: (attention.norm(streams[0]), streams[1]),
        wiring=wiring,
    )


def painn_as_instance(model: PaiNN, batch: Batch, wiring: str = "parallel") -> Streams:
    inputs = atom_inputs(model.config, batch)
    z_inv = model.embedding(inputs.categories, inputs.numbers)[0]
    streams = z_inv, z_inv.new_zeros(len(z_inv), 3, z_inv.shape[1])
    geometry = Geometry.of(batch.positions[0], CUTOFF)
    for layer in range(LAYERS):
        streams = painn_block(model, layer, wiring)(streams, geometry)
    return streams


def et_as_instance(model: TorchMDET, batch: Batch, wiring: str = "parallel") -> Streams:
    inputs, neighbours = atom_inputs(model.config, batch), model.neighbour_embedding
    geometry = Geometry.of(batch.positions[0], CUTOFF)
    cut = cosine_cutoff(geometry.d, CUTOFF)[..., None]
    filters = neighbours.distance(model.rbf(geometry.d) * cut) * cut * geometry.others[..., None]
    around = (filters * neighbours.embedding(inputs.categories, inputs.numbers)[0][None]).sum(1)
    z_inv = neighbours.combine(torch.cat([model.embedding(inputs.categories, inputs.numbers)[0], around], -1))
    streams = z_inv, z_inv.new_zeros(len(z_inv), 3, z_inv.shape[1])
    for layer in range(LAYERS):
        streams = et_block(model, layer, wiring)(streams, geometry)
    return model.norm(streams[0]), streams[1]


def gradients(model: Network, streams: Streams) -> dict[str, Tensor]:
    """Of a fixed random combination of both streams, by parameter; heads have none."""
    generator = torch.Generator().manual_seed(3)
    weights = [torch.randn(z.shape, generator=generator, dtype=z.dtype) for z in streams]
    total = sum((z * w).sum() for z, w in zip(streams, weights, strict=True))
    assert isinstance(total, Tensor)
    named = {name: value for name, value in model.named_parameters() if "head" not in name}
    found = torch.autograd.grad(total, list(named.values()))
    return dict(zip(named, found, strict=True))


MODELS = {
    "painn, bessel": PaiNNConfig(**SIZE),
    "painn, gaussian": PaiNNConfig(radial_basis="gaussian", **SIZE),
    "torchmd-et": TorchMDETConfig(trainable_kernels=True, **SIZE),
    "torchmd-et, first version": TorchMDETConfig(vector_cutoff=False, **SIZE),
}


def with_instance(name: str) -> tuple[Network, Network, Callable[..., Streams]]:
    """A network with random weights and biases, a copy for the instance to take its weights from, and the instance."""
    model = build_network(MODELS[name])
    assert all(bool(module.bias.any()) for module in model.modules() if getattr(module, "bias", None) is not None)
    instance = painn_as_instance if name.startswith("painn") else et_as_instance
    return model, copy.deepcopy(model), instance  # type: ignore[return-value]


@pytest.mark.parametrize("name", MODELS)
def test_instance_equals_the_model(name: str, batch: Batch) -> None:
    model, weights, instance = with_instance(name)
    assert not Geometry.of(batch.positions[0], CUTOFF).near.all(), "the cutoff must matter"
    output, found = model(batch), instance(weights, batch)
    expected = output.z_inv[0][0], output.z_equ[0][0]
    for actual, wanted in zip(found, expected, strict=True):
        assert relative_error(actual, wanted) < LIMIT
    wanted_gradients = gradients(model, expected)
    for parameter, actual in gradients(weights, found).items():
        assert relative_error(actual, wanted_gradients[parameter]) < LIMIT, parameter
        # The vectors that the first layer of ET reads are zero, and so is what it makes of them.
        assert wanted_gradients[parameter].any() or parameter == "layers.0.vectors.weight", parameter


@pytest.mark.parametrize("name", MODELS)
def test_sequential_wiring_is_another_network(name: str, batch: Batch) -> None:
    model, weights, instance = with_instance(name)
    with torch.no_grad():
        output, (z_inv, z_equ) = model(batch), instance(weights, batch, "sequential")
    error = max(relative_error(z_inv, output.z_inv[0][0]), relative_error(z_equ, output.z_equ[0][0]))
    assert error > 1e-3


def test_an_atom_without_neighbours_gets_nothing() -> None:
    lonely = stack([system(torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.5, 0.0], [30.0, 0.0, 0.0]]).double())])
    model, weights, instance = with_instance("painn, bessel")
    with torch.no_grad():
        output, (z_inv, z_equ) = model(lonely), instance(weights, lonely)
    assert relative_error(z_inv, output.z_inv[0][0]) < LIMIT and relative_error(z_equ, output.z_equ[0][0]) < LIMIT
    assert not z_equ[2].any()
