"""Iterative refinement: the same network again, on the geometry it predicted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from checks.systems import stack, system
from checks.variants import build
from pydantic import ValidationError

from geomformer.config.geomformer import GeoMFormerConfig
from geomformer.models.geomformer import GeoMFormer
from geomformer.records import Batch


@pytest.fixture
def batch() -> Batch:
    return stack([system(2.0 * torch.randn(n, 3).double()) for n in (7, 5)])


def pair_of_models(passes: int, **changes: object) -> tuple[GeoMFormer, GeoMFormer]:
    """A model of one pass and one of several, with the same weights, in eval mode."""
    one, several = build(num_layers=2, **changes), build(num_layers=2, passes=passes, **changes)
    several.load_state_dict(one.state_dict())
    return one, several


def moved(batch: Batch, vectors: torch.Tensor) -> Batch:
    return replace(batch, positions=batch.positions + vectors[:, :, 0].detach())


@pytest.mark.parametrize("change", [{}, {"equivariant_input": "neighbours"}], ids=["centroid", "neighbours"])
@torch.no_grad()
def test_each_pass_reads_the_geometry_of_the_one_before(change: dict[str, object], batch: Batch) -> None:
    one, three = pair_of_models(3, **change)
    first = one(batch)
    second = one(moved(batch, first.vectors))
    third = one(moved(batch, first.vectors + second.vectors))
    found = three(batch)
    torch.testing.assert_close(found.scalars, third.scalars)
    torch.testing.assert_close(found.vectors, first.vectors + second.vectors + third.vectors)
    torch.testing.assert_close(found.z_equ[0], third.z_equ[0])
    assert (third.scalars - first.scalars).abs().max() > 1e-3
    assert not found.vectors[~batch.mask].any()


@torch.no_grad()
def test_every_pass_has_the_distances_of_its_own_geometry(batch: Batch) -> None:
    one, two = pair_of_models(2)
    seen: list[torch.Tensor] = []
    assert two.structural_encoding is not None
    two.structural_encoding.register_forward_hook(lambda _module, inputs, _out: seen.append(inputs[0]))
    two(batch)
    assert len(seen) == 2
    expected = moved(batch, one(batch).vectors).positions
    torch.testing.assert_close(seen[0][0], torch.cdist(batch.positions[0], batch.positions[0]))
    torch.testing.assert_close(seen[1][0], torch.cdist(expected[0], expected[0]))


def test_the_sum_trains_every_pass_on_its_own_step(batch: Batch) -> None:
    one, two = pair_of_models(2)
    first = one(batch)
    second = one(moved(batch, first.vectors))
    expected = torch.autograd.grad(
        (first.vectors + second.vectors).square().sum(), list(one.parameters()), allow_unused=True
    )
    found = torch.autograd.grad(two(batch).vectors.square().sum(), list(two.parameters()), allow_unused=True)
    for name, gradient, wanted in zip(dict(two.named_parameters()), found, expected, strict=True):
        assert (gradient is None) == (wanted is None), name
        if gradient is not None:
            torch.testing.assert_close(gradient, wanted)


def test_parameters_are_those_of_one_pass() -> None:
    one, two = GeoMFormer(GeoMFormerConfig()), GeoMFormer(GeoMFormerConfig(passes=2))
    shapes = [{name: tuple(value.shape) for name, value in model.state_dict().items()} for model in (one, two)]
    assert shapes[0] == shapes[1]
    assert GeoMFormerConfig().passes == 1


@torch.no_grad()
def test_a_fresh_model_moves_nothing_and_starts_where_one_pass_does(batch: Batch) -> None:
    torch.manual_seed(1)
    one = GeoMFormer(GeoMFormerConfig(num_layers=2)).double()
    torch.manual_seed(1)
    two = GeoMFormer(GeoMFormerConfig(num_layers=2, passes=2)).double()
    assert torch.equal(two(batch).scalars, one(batch).scalars)
    assert not two(batch).vectors.any()


@pytest.mark.parametrize("num_vectors", [0, 2])
def test_more_passes_need_one_vector(num_vectors: int) -> None:
    with pytest.raises(ValidationError, match="num_vectors must be 1"):
        GeoMFormerConfig(passes=2, num_vectors=num_vectors)
    assert GeoMFormerConfig(passes=1, num_vectors=num_vectors).num_vectors == num_vectors
