"""IS2RE and IS2RS: inputs, losses and what is predicted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from checks.systems import orthogonal

from geomformer.config.load import load_config
from geomformer.config.run import TaskConfig
from geomformer.errors import ConfigError
from geomformer.models.network import ModelOutput
from geomformer.prepared.collate import Sample, collate, gather_samples
from geomformer.prepared.gathered import Gathered
from geomformer.records import Batch, Record
from geomformer.tasks.base import Scaling
from geomformer.tasks.catalyst import CatalystTask

SCALING = {"energy": Scaling(-1.5, 2.0), "positions": Scaling(0.0, 0.5)}


def slab(index: int, atoms: int = 8, relaxed: bool = True, energy: float = -2.0) -> Record:
    rng = np.random.default_rng(index)
    positions = rng.random((atoms, 3)).astype(np.float32) * 5.0
    tags = np.repeat([0, 1, 2], [2, atoms - 4, 2]).astype(np.int8)
    moved = positions + 0.3 * rng.standard_normal((atoms, 3)).astype(np.float32) * (tags > 0)[:, None]
    return Record(
        id=str(index),
        positions=positions[None],
        conformer_source=np.zeros(1, np.uint8),
        atomic_numbers=np.full(atoms, 29, np.uint8),
        target_positions=moved if relaxed else None,
        cell=np.eye(3, dtype=np.float32) * 8.0,
        pbc=np.ones(3, bool),
        tags=tags,
        fixed=tags == 0,
        targets={"energy": energy},
    )


def task(name: str = "is2re", **changes: Any) -> CatalystTask:
    fields = {"targets": ("energy",) if name == "is2re" else (), "noise_scale": 0.3}
    fields |= {"reference_probability": 0.0, "mixture_probability": 0.5}
    return CatalystTask(TaskConfig(name=name, **{**fields, **changes}), SCALING)  # type: ignore[arg-type]


def gathered(records: list[Record]) -> Gathered:
    return gather_samples([Sample(r, i, r.positions[0], r.target_positions) for i, r in enumerate(records)])


def drawn(catalyst: CatalystTask, records: list[Record], seed: int = 0) -> np.ndarray:
    rngs = [np.random.default_rng([seed, row]) for row in range(len(records))]
    return catalyst.training_inputs(gathered(records), rngs).positions


def batch_of(records: list[Record]) -> Batch:
    samples = [Sample(r, i, r.positions[0], r.target_positions) for i, r in enumerate(records)]
    return collate(samples, features=False)


def output(batch: Batch, scalars: Any = None, vectors: Any = None) -> ModelOutput:
    zeros = torch.zeros(*batch.mask.shape, 1, 3)
    return ModelOutput(
        torch.zeros(batch.num_systems, 1) if scalars is None else scalars, zeros if vectors is None else vectors, [], []
    )


def test_half_of_the_systems_are_noised_and_only_what_moves() -> None:
    records = [slab(i) for i in range(400)]
    systems, positions = gathered(records), drawn(task(), [*records])
    changed = []
    for atoms, record in zip(systems.atom_slices, records, strict=True):
        difference = np.abs(positions[atoms] - record.positions[0]).max(1)
        assert not difference[record.tags == 0].any()
        changed.append(bool(difference.any()))
        if changed[-1]:
            assert (difference[record.tags > 0] > 0).all()
    assert 0.42 < np.mean(changed) < 0.58


def test_noised_atoms_lie_between_the_structures() -> None:
    """Without noise every atom lies at its own share of the way; with noise its spread is the configured one."""
    records = [slab(i) for i in range(60)]
    moving = np.concatenate([record.tags > 0 for record in records])
    initial = np.concatenate([record.positions[0] for record in records])[moving]
    relaxed = np.concatenate([record.target_positions for record in records])[moving]
    between = drawn(task(noise_scale=0.0, mixture_probability=0.9), records)[moving]
    share = ((between - initial) * (relaxed - initial)).sum(1) / ((relaxed - initial) ** 2).sum(1)
    assert share.min() > -1e-4 and share.max() < 1.0 + 1e-4
    assert np.allclose(between, initial + share[:, None] * (relaxed - initial), atol=1e-5)
    assert share.std() > 0.2, "each atom has a share of its own"
    noised = drawn(task(noise_scale=2.0, mixture_probability=1.0), records)[moving]
    assert 1.8 < (noised - 0.5 * (initial + relaxed)).std() < 2.2


def test_the_same_generators_give_the_same_inputs_and_none_without_noise() -> None:
    records = [slab(i) for i in range(20)]
    assert np.array_equal(drawn(task(), records, 3), drawn(task(), records, 3))
    plain = drawn(task(mixture_probability=0.0), records)
    assert np.array_equal(plain, np.concatenate([record.positions[0] for record in records]))


def test_the_target_is_recomputed_from_the_noised_input() -> None:
    """A network that names the displacement from the input it got has no loss."""
    records = [slab(i) for i in range(6)]
    catalyst = task()
    rngs = [np.random.default_rng([1, row]) for row in range(6)]
    inputs = catalyst.training_inputs(gathered(records), rngs)
    batch = batch_of(records)
    batch.positions = torch.from_numpy(inputs.positions.reshape(6, 8, 3))
    vectors = ((batch.target_positions - batch.positions) / SCALING["positions"].scale)[:, :, None]
    scalars = torch.full((6, 1), (-2.0 + 1.5) / 2.0)
    losses = catalyst.losses(output(batch, scalars, vectors), batch, 0.0)
    assert losses["total"] < 1e-4


def test_losses_by_hand() -> None:
    """Energies count in units of their scale, displacements in units of theirs, weighted from 15 to 1."""
    records = [slab(0, energy=-2.0), slab(1, atoms=5, energy=0.5)]
    batch = batch_of(records)
    catalyst = task(position_weight=(15.0, 1.0))
    energy = 0.5 + 2.0  # the network's zeros are the mean, -1.5
    position = 0.0
    for record in records:
        wanted = (record.target_positions - record.positions[0])[record.tags > 0] / 0.5
        position += np.abs(wanted).mean()
    for progress, weight in ((0.0, 15.0), (0.5, 8.0), (1.0, 1.0)):
        losses = catalyst.losses(output(batch), batch, progress)
        assert float(losses["energy"]) == pytest.approx(energy, rel=1e-5)
        assert float(losses["position"]) == pytest.approx(position, rel=1e-5)
        assert float(losses["total"]) == pytest.approx(energy / 2.0 + weight * position, rel=1e-5)
    lengths = task("is2rs", position_loss="distance", position_weight=(1.0, 1.0)).losses(output(batch), batch, 0.3)
    expected = sum(
        np.linalg.norm((r.target_positions - r.positions[0])[r.tags > 0] / 0.5, axis=1).mean() for r in records
    )
    assert set(lengths) == {"total", "position"}
    assert float(lengths["total"]) == pytest.approx(expected, rel=1e-5)


def test_systems_without_a_relaxed_structure_or_a_label_count_nothing() -> None:
    known, unknown = slab(0), slab(1, relaxed=False, energy=np.nan)
    together, alone = batch_of([known, unknown]), batch_of([known])
    catalyst = task(position_loss="distance")
    vectors = torch.randn(2, 8, 1, 3).requires_grad_()
    losses = catalyst.losses(output(together, torch.zeros(2, 1), vectors), together, 0.0)
    expected = catalyst.losses(output(alone, torch.zeros(1, 1), vectors[:1]), alone, 0.0)
    assert all(torch.allclose(losses[name], expected[name]) for name in expected)
    losses["total"].backward()
    assert torch.isfinite(vectors.grad).all() and not vectors.grad[1].any()


def test_the_length_of_an_error_does_not_change_with_the_axes() -> None:
    batch = batch_of([slab(i) for i in range(3)])
    vectors, matrix = torch.randn(3, 8, 1, 3), orthogonal(1).float()
    catalyst = task("is2rs", position_loss="distance", position_weight=(1.0, 1.0))
    before = catalyst.losses(output(batch, None, vectors), batch, 0.0)["total"]
    batch.positions, batch.target_positions = batch.positions @ matrix.T, batch.target_positions @ matrix.T
    after = catalyst.losses(output(batch, None, vectors @ matrix.T), batch, 0.0)["total"]
    assert float(after) == pytest.approx(float(before), rel=1e-5)


def test_frozen_atoms_are_unmoved_bit_for_bit() -> None:
    batch = batch_of([slab(0), slab(1, atoms=6)])
    vectors = torch.randn(2, 8, 1, 3)
    relaxed = task("is2rs").vector_predictions(output(batch, None, vectors), batch)["positions"]
    free = batch.mask & ~batch.fixed
    assert torch.equal(relaxed[~free], batch.positions[~free])
    assert torch.allclose(relaxed[free], (batch.positions + 0.5 * vectors[:, :, 0])[free])
    batch.fixed = None
    by_tag = task("is2rs").vector_predictions(output(batch, None, vectors), batch)["positions"]
    assert torch.equal(by_tag, relaxed), "without constraints atoms of tag 0 stay"


def test_a_batch_without_any_relaxed_structure_teaches_nothing() -> None:
    batch = batch_of([slab(0, relaxed=False)])
    vectors = torch.randn(1, 8, 1, 3, requires_grad=True)
    task("is2rs").losses(output(batch, None, vectors), batch, 0.0)["total"].backward()
    assert vectors.grad is not None and not vectors.grad.any()


def test_several_passes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'is2re-small': task is2re needs model\.passes: 1"):
        load_config("is2re-small", ["model.passes=2"])
