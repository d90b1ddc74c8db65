"""What the configuration promises of the whole model: pairs, group e3, switches, precision, missing inputs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from checks.comparison import relative_error
from checks.systems import all_geometries, stack, system
from checks.variants import PAIRS, PARTICLES, VARIANTS, build
from pydantic import ValidationError
from torch import Tensor

from geomformer.config.geomformer import GeoMFormerConfig
from geomformer.models.geomformer import GeoMFormer, StreamPair
from geomformer.models.network import atom_inputs
from geomformer.records import Batch


@pytest.fixture
def batch() -> Batch:
    return stack([system(2.0 * torch.randn(n, 3).double()) for n in (7, 5)])


def raw_vectors(model: GeoMFormer, batch: Batch) -> tuple[Tensor, Tensor]:
    """The equivariant stream before the first and after the last block, final norm left out."""
    pair = model.pairs[0]
    assert isinstance(pair, StreamPair)
    inputs = atom_inputs(model.config, batch)
    bias = model.structural_bias(batch, inputs.types, None)
    z_inv, start = pair.embedding(inputs.categories, inputs.numbers), pair.vectors(batch, inputs.types, None)
    z_equ = start
    for block in pair.blocks:
        z_inv, z_equ = block(z_inv, z_equ, bias, batch.mask)
    return start, z_equ


@pytest.mark.parametrize("change", [{}, {"norm": "rms"}, {"equ_norm": False}], ids=["whitening", "rms", "off"])
@torch.no_grad()
def test_e3_stream_moves_with_the_molecule(change: dict[str, object], batch: Batch) -> None:
    """z(x + t) = z(x) + t, and the blocks change the stream: with a mean over channels, in which all channels of the
    input agree, they could not."""
    model = build(num_layers=3, group="e3", **change)
    shift = torch.tensor([5.0, -3.0, 2.0]).double()
    start, end = raw_vectors(model, batch)
    _, moved = raw_vectors(model, replace(batch, positions=batch.positions + shift))
    assert relative_error(moved[batch.mask], (end + shift[None, None, :, None])[batch.mask]) < 1e-12
    assert (start[0] - batch.positions[0, :, :, None]).abs().max() == 0.0
    assert (end - start)[batch.mask].abs().flatten(1).amax(1).min() > 1e-2
    assert end[0, 0].std(-1).min() > 1e-2, "channels must come apart"


@torch.no_grad()
def test_pairs_have_their_own_parameters_and_one_bias(batch: Batch) -> None:
    model = build(num_layers=2, **PAIRS)
    positions, velocities = (dict(pair.named_parameters()) for pair in model.pairs)
    assert positions.keys() == velocities.keys()
    assert not {id(p) for p in positions.values()} & {id(p) for p in velocities.values()}
    weights = ("blocks.0.equ_self.qkv.weight", "equivariant_input.linear.weight", "final_norms.equ.gamma")
    assert all(not torch.equal(positions[name], velocities[name]) for name in weights)
    assert sum("structural_encoding.w2.weight" in name for name, _ in model.named_parameters()) == 1
    calls = []
    assert model.structural_encoding is not None
    model.structural_encoding.register_forward_hook(lambda *_: calls.append(1))
    output = model(batch)
    assert len(calls) == 1
    assert len(output.z_inv) == len(output.z_equ) == 2


@torch.no_grad()
def test_velocities_are_not_centred(batch: Batch) -> None:
    assert batch.velocities is not None
    model = build(num_layers=2, **PAIRS)
    wind = torch.tensor([0.5, 0.2, -0.1]).double()
    before = model(batch)
    after = model(replace(batch, velocities=batch.velocities + wind))
    assert relative_error(after.vectors, before.vectors) > 1e-3
    moved = model(replace(batch, positions=batch.positions + wind))
    assert relative_error(moved.vectors, before.vectors) < 1e-11
    assert relative_error(model(replace(batch, velocities=-batch.velocities)).z_equ[1], -before.z_equ[1]) < 1e-11


def test_the_two_streams_read_each_other(batch: Batch) -> None:
    """With structural encoding off, distances reach the scalars through the vectors alone."""
    model = build(num_layers=2, structural_encoding=False)
    stretched = replace(batch, positions=1.3 * batch.positions)
    assert relative_error(model(stretched).scalars, model(batch).scalars) > 1e-3
    deaf = build(num_layers=2, structural_encoding=False, inv_cross_attention=False)
    assert torch.equal(deaf(stretched).scalars, deaf(batch).scalars)


@pytest.mark.parametrize(
    "name", [name for name in VARIANTS if name not in ("default", "e3 without norm") and "passes" not in name]
)
def test_every_switch_does_something(name: str) -> None:
    """A model with a switch set is not the default model: other parameters, or another output from the same ones.
    A fresh model moves nothing, so that more passes have their own tests.
    """
    torch.manual_seed(0)
    default = GeoMFormer(GeoMFormerConfig(num_layers=1, **build_small({})))
    torch.manual_seed(0)
    changed = GeoMFormer(GeoMFormerConfig(num_layers=1, **build_small(VARIANTS[name])))
    shapes = [{key: tuple(p.shape) for key, p in model.named_parameters()} for model in (default, changed)]
    if shapes[0] == shapes[1]:
        batch = all_geometries().to(dtype=torch.float32)
        assert relative_error(changed(batch).scalars, default(batch).scalars) > 1e-4


def build_small(change: dict[str, object]) -> dict[str, object]:
    return {"embed_dim": 16, "ffn_dim": 16, "num_heads": 2, "num_kernels": 8, **change}


def test_vectors_start_at_zero_and_scalars_do_not(batch: Batch) -> None:
    output = GeoMFormer(GeoMFormerConfig(num_layers=2)).double()(batch)
    assert output.vectors is not None
    assert not output.vectors.any()
    assert output.vectors.shape == (2, 7, 1, 3)
    assert output.scalars is not None
    assert output.scalars.abs().max() < 10.0


def test_missing_targets_are_none(batch: Batch) -> None:
    assert build(num_layers=1, num_scalars=0)(batch).scalars is None
    assert build(num_layers=1, num_vectors=0)(batch).vectors is None


@torch.no_grad()
def test_atom_weight_chooses_the_atoms_of_a_sum(batch: Batch) -> None:
    model = build(num_layers=1, pooling="sum")
    parts = [model(batch, atom_weight=weight).scalars for weight in (batch.mask & batch.mask.roll(1, 1), None)]
    assert relative_error(parts[0], parts[1]) > 1e-3


@torch.no_grad()
def test_autocast_keeps_geometry_and_heads_in_single_precision(batch: Batch) -> None:
    model, batch = build(num_layers=4, dtype=torch.float32), batch.to(dtype=torch.float32)
    seen: dict[str, torch.dtype] = {}
    watched = {
        "bias": model.structural_encoding,
        "input": model.pairs[0].equivariant_input,
        "norm": model.pairs[0].blocks[1].self_norms.equ,
        "attention": model.pairs[0].blocks[1].equ_self.qkv,
    }
    for name, module in watched.items():
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out.dtype))
    exact = model(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(batch)
    assert seen == {
        "bias": torch.float32,
        "input": torch.float32,
        "norm": torch.float32,
        "attention": torch.bfloat16,
    }
    assert output.scalars.dtype == output.vectors.dtype == torch.float32
    assert relative_error(output.scalars, exact.scalars) < 0.05
    assert relative_error(output.vectors, exact.vectors) < 0.1


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({}, "atomic_numbers", "atomic numbers"),
        ({}, "atom_features", "2D atom features"),
        ({}, "bond_type", "bonds"),
        ({}, "shortest_path", "shortest paths"),
        ({"tags": True}, "tags", "tags"),
        (PARTICLES, "particle_charges", "particle charges"),
        ({**PARTICLES, "speed": True}, "velocities", "velocities"),
        (PAIRS | {"speed": False}, "velocities", "velocities"),
    ],
)
def test_missing_inputs_are_named(change: dict[str, object], field: str, words: str, batch: Batch) -> None:
    model = build(num_layers=1, **change)
    with pytest.raises(ValueError, match=words):
        model(replace(batch, **{field: None}))


@pytest.mark.parametrize(
    "change",
    [{"embed_dim": 30, "num_heads": 4}, {"streams": ("velocities",)}, {"streams": ("positions", "positions")}],
)
def test_impossible_configurations_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        GeoMFormerConfig(**change)


def test_depth_does_not_grow_the_streams(batch: Batch) -> None:
    sizes = []
    for num_layers in (1, 12):
        _, end = raw_vectors(build(num_layers=num_layers), batch)
        sizes.append(end[batch.mask].square().mean().item())
    assert sizes[1] < 10.0 * sizes[0]


def test_eval_mode_is_deterministic_and_training_is_not(batch: Batch) -> None:
    names = ("embedding", "attention", "activation", "hidden")
    model = build(num_layers=1, drop_path=0.1, **{f"{name}_dropout": 0.1 for name in names})
    assert torch.equal(model(batch).scalars, model(batch).scalars)
    model.train()
    assert not torch.equal(model(batch).scalars, model(batch).scalars)
