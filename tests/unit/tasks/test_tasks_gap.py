from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from checks.molecules import random_record, toy_config

from geomformer.chem.alignment import kabsch, rmsd
from geomformer.models.network import ModelOutput
from geomformer.prepared.collate import Sample, collate, gather_samples
from geomformer.prepared.gathered import Gathered
from geomformer.records import Batch, Record
from geomformer.tasks import build_task
from geomformer.tasks.base import Scaling, between, has_reference, scalings
from geomformer.tasks.gap import GapTask, geometry_losses, random_rotation

WEIGHTS = {"position_weight": [0.3, 0.06], "distance_weight": [1.5, 0.3]}


def gap_task(scaling: Scaling | None = None, **options: object) -> GapTask:
    task = build_task(toy_config(task=options).task, {"gap": scaling or Scaling()})
    assert isinstance(task, GapTask)
    return task


def rng(*seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([1, *seed]))


def drawn(task: GapTask, record: Record, seed: int) -> Gathered:
    """The training input of one record's first conformer."""
    systems = gather_samples([Sample(record, 0, record.positions[0], record.target_positions)])
    return task.training_inputs(systems, [rng(seed)])


def kind_of(task: GapTask, seed: int) -> str:
    """Which input the task drew, seen from the input alone: the reference lies at 0, the conformer at 1 on every axis
    of every atom, without noise."""
    reference, conformer = np.zeros((4, 3)), np.zeros((4, 3))
    reference[:2, 0], conformer[:2, 0] = [-1.0, 1.0], [-3.0, 3.0]
    length = float(np.ptp(task.noised_input(conformer, reference, rng(seed))[:, 0]))
    if abs(length - 2.0) < 1e-9:
        return "reference"
    return "conformer" if abs(length - 6.0) < 1e-9 else "mixture"


@pytest.mark.parametrize(("reference", "mixture"), [(0.8, 0.1), (0.3, 0.5)])
def test_the_three_kinds_of_input_come_in_the_configured_shares(reference: float, mixture: float) -> None:
    task = gap_task(reference_probability=reference, mixture_probability=mixture, noise_scale=0.0)
    kinds = [kind_of(task, seed) for seed in range(3000)]
    shares = {kind: kinds.count(kind) / len(kinds) for kind in ("reference", "mixture", "conformer")}
    expected = {"reference": reference, "mixture": mixture, "conformer": 1 - reference - mixture}
    assert shares == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(
    ("reference", "mixture", "kind"), [(1, 0, "reference"), (0, 1, "mixture"), (0, 0, "conformer")]
)
def test_a_share_of_one_leaves_nothing_else(reference: float, mixture: float, kind: str) -> None:
    task = gap_task(reference_probability=reference, mixture_probability=mixture, noise_scale=0.0)
    assert {kind_of(task, seed) for seed in range(200)} == {kind}


def test_a_mixture_holds_forty_to_sixty_percent_of_the_aligned_conformer() -> None:
    task = gap_task(reference_probability=0.0, mixture_probability=1.0, noise_scale=0.0)
    record = random_record(2, atoms=7)
    reference, conformer = record.target_positions, record.positions[0]
    rotation, shift = kabsch(conformer, reference)
    step = conformer @ rotation.T + shift - reference
    shares = []
    for seed in range(200):
        moved = task.noised_input(conformer @ random_rotation(rng(seed, 1)).T, reference, rng(seed)) - reference
        share = float((moved * step).sum() / (step * step).sum())
        np.testing.assert_allclose(moved, share * step, atol=1e-5)
        shares.append(share)
    assert 0.4 <= min(shares) < 0.42 and 0.58 < max(shares) <= 0.6


@pytest.mark.parametrize("scale", [0.2, 0.05])
def test_noise_is_gaussian_per_coordinate(scale: float) -> None:
    task = gap_task(reference_probability=1.0, mixture_probability=0.0, noise_scale=scale)
    reference = random_record(1, atoms=8).target_positions.astype(np.float64)
    noise = np.stack([task.noised_input(reference, reference, rng(seed)) - reference for seed in range(500)])
    assert noise.std(axis=0) == pytest.approx(np.full((8, 3), scale), rel=0.15)
    assert np.abs(noise.mean(axis=0)).max() < 5 * scale / math.sqrt(500)
    inside = np.abs(noise) < scale
    assert inside.mean() == pytest.approx(0.683, abs=0.02)


def test_a_sample_depends_on_the_generator_alone() -> None:
    task, record = gap_task(), random_record(4)
    np.random.seed(0)
    torch.manual_seed(0)
    first = drawn(task, record, 5)
    np.random.seed(1)
    torch.manual_seed(1)
    again, other = drawn(task, record, 5), drawn(task, record, 6)
    np.testing.assert_array_equal(first.positions, again.positions)
    np.testing.assert_array_equal(first.target_positions, again.target_positions)
    assert not np.allclose(first.target_positions, other.target_positions, atol=1e-2)


@pytest.mark.parametrize("reference", [0.0, 1.0])
def test_the_input_lies_on_the_label_as_well_as_it_can(reference: float) -> None:
    task, record = gap_task(reference_probability=reference, mixture_probability=0.0), random_record(3, atoms=8)
    for seed in range(20):
        sample = drawn(task, record, seed)
        distance = float(np.sqrt(((sample.positions - sample.target_positions) ** 2).sum(-1).mean()))
        assert distance == pytest.approx(rmsd(sample.positions, sample.target_positions), abs=1e-5)
        assert distance > 0.01
        for positions in (sample.positions, sample.target_positions):
            np.testing.assert_allclose(positions.mean(axis=0), 0.0, atol=1e-5)
        assert rmsd(record.target_positions, sample.target_positions) < 1e-5, "the label is only turned"


def test_without_a_reference_the_conformer_stays_as_it_is() -> None:
    record = random_record(0, reference=False)
    sample = drawn(gap_task(), record, 1)
    assert sample.target_positions is None
    np.testing.assert_allclose(sample.positions, record.positions[0] - record.positions[0].mean(axis=0), atol=1e-6)


def test_rotations_are_proper_and_uniform() -> None:
    rotations = np.stack([random_rotation(rng(seed)) for seed in range(4000)])
    np.testing.assert_allclose(
        rotations @ rotations.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (4000, 3, 3)), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(rotations), 1.0, atol=1e-12)
    np.testing.assert_allclose(rotations.mean(axis=0), 0.0, atol=0.04)
    np.testing.assert_allclose((rotations**2).mean(axis=0), 1 / 3, atol=0.03)
    # the angle of a uniform rotation has the density (1 - cos a) / pi
    angles = np.arccos(np.clip((np.trace(rotations, axis1=1, axis2=2) - 1) / 2, -1, 1))
    share = ((np.pi / 2) - 1) / np.pi
    assert (angles < np.pi / 2).mean() == pytest.approx(share, abs=0.025)


def test_inference_takes_conformers_or_the_reference() -> None:
    record = random_record(1)
    samples = gap_task().inference_samples(record, 5, 8)
    assert [sample.index for sample in samples] == [5, 5]
    for sample, positions in zip(samples, record.positions, strict=True):
        np.testing.assert_allclose(sample.positions, positions - positions.mean(axis=0))
    assert len(gap_task().inference_samples(record, 5, 1)) == 1
    (only,) = gap_task(input_geometry="reference").inference_samples(record, 5, 8)
    np.testing.assert_allclose(only.positions, record.target_positions, atol=1e-6)


def test_given_positions_are_a_reference_too() -> None:
    record = random_record(1, reference=False)
    assert not has_reference(record)
    assert has_reference(replace(record, conformer_source=np.zeros(2, np.uint8)))
    assert has_reference(random_record(1))


def hand_made() -> tuple[Batch, ModelOutput]:
    """Three molecules: two with a reference, of 4 and 3 atoms, and one without; and a network's answer."""
    records = [random_record(1, atoms=4), random_record(2, atoms=3), random_record(3, atoms=5, reference=False)]
    samples = [Sample(record, i, record.positions[0], record.target_positions) for i, record in enumerate(records)]
    batch = collate(samples)
    generator = torch.Generator().manual_seed(3)
    vectors = 0.1 * torch.randn(3, 5, 1, 3, generator=generator) * batch.mask[:, :, None, None]
    scalars = torch.randn(3, 1, generator=generator)
    return batch, ModelOutput(scalars.requires_grad_(), vectors.requires_grad_(), [], [])


def losses_of(task: GapTask, batch: Batch, output: ModelOutput, progress: float = 0.0) -> dict[str, float]:
    return {name: value.detach().item() for name, value in task.losses(output, batch, progress).items()}


def by_hand(batch: Batch, output: ModelOutput) -> tuple[float, float]:
    """The sums of recipes 1.5, molecule by molecule, atom by atom."""
    position = distance = 0.0
    for b in (0, 1):
        n = int(batch.mask[b].sum())
        predicted = (batch.positions[b, :n] + output.vectors[b, :n, 0]).detach().double().numpy()
        label = batch.target_positions[b, :n].double().numpy()
        position += sum(abs(predicted[i][k] - label[i][k]) for i in range(n) for k in range(3)) / n
        for i in range(n):
            for j in range(n):
                error = np.linalg.norm(predicted[i] - predicted[j]) - np.linalg.norm(label[i] - label[j])
                distance += abs(error) / n**2
    return position, distance


def test_losses_are_the_printed_sums() -> None:
    batch, output = hand_made()
    task = gap_task(Scaling(5.0, 2.0), **WEIGHTS)
    assert output.scalars is not None
    position, distance = by_hand(batch, output)
    gap = float((5.0 + 2.0 * output.scalars.detach()[:, 0] - batch.targets["gap"]).abs().sum())
    total = gap + 0.3 * position + 1.5 * distance
    expected = {"total": total, "gap": gap, "position": position, "distance": distance}
    assert losses_of(task, batch, output) == pytest.approx(expected, rel=1e-5)


def test_weights_move_linearly_with_progress() -> None:
    batch, output = hand_made()
    task = gap_task(**WEIGHTS)
    for progress in (0.0, 0.25, 1.0):
        losses = losses_of(task, batch, output, progress)
        weights = 0.3 - 0.24 * progress, 1.5 - 1.2 * progress
        expected = losses["gap"] + weights[0] * losses["position"] + weights[1] * losses["distance"]
        assert losses["total"] == pytest.approx(expected, rel=1e-6)
    assert (between((1.0, 3.0), -1.0), between((1.0, 3.0), 0.5), between((1.0, 3.0), 2.0)) == (1.0, 2.0, 3.0)


def test_a_molecule_without_reference_counts_nothing() -> None:
    batch, output = hand_made()
    assert output.vectors is not None
    position, distance = geometry_losses(batch.positions + output.vectors[:, :, 0], batch)
    (position + distance).backward()
    gradient = output.vectors.grad
    assert torch.isfinite(gradient).all()
    assert gradient[2].abs().max() == 0 and gradient[1, 3:].abs().max() == 0
    assert gradient[:2].abs().amax((1, 2, 3)).min() > 0


def test_a_batch_without_any_reference_trains_on_labels_alone() -> None:
    records = [random_record(i, reference=False) for i in range(2)]
    batch = collate([Sample(record, i, record.positions[0]) for i, record in enumerate(records)])
    vectors = torch.zeros(*batch.mask.shape, 1, 3, requires_grad=True)
    losses = gap_task().losses(ModelOutput(torch.zeros(2, 1), vectors, [], []), batch, 0.0)
    assert set(losses) == {"total", "gap"} and losses["total"] == losses["gap"]


def test_a_perfect_geometry_has_no_loss_and_a_finite_gradient() -> None:
    batch, _ = hand_made()
    exact = torch.where(batch.target_positions.isnan(), batch.positions, batch.target_positions)
    vectors = (exact - batch.positions)[:, :, None].clone().requires_grad_()
    position, distance = geometry_losses(batch.positions + vectors[:, :, 0], batch)
    (position + distance).backward()
    assert position.detach() < 1e-5 and distance.detach() < 1e-5
    assert torch.isfinite(vectors.grad).all()


def test_unlabelled_targets_are_masked_without_nan_gradients() -> None:
    batch, _ = hand_made()
    batch.targets = {"gap": torch.tensor([4.0, math.nan, math.nan]), "gap_dft": torch.tensor([math.nan] * 2 + [6.0])}
    config = toy_config(task={"targets": ["gap", "gap_dft"]}).task
    task = build_task(config, {"gap": Scaling(), "gap_dft": Scaling(1.0, 3.0)})
    scalars = torch.ones(3, 2, requires_grad=True)
    losses = task.losses(ModelOutput(scalars, None, [], []), batch, 0.0)
    assert (losses["gap"].detach(), losses["gap_dft"].detach()) == (3.0, 2.0)
    losses["total"].backward()
    torch.testing.assert_close(scalars.grad, torch.tensor([[-1.0, 0.0], [0.0, 0.0], [0.0, -3.0]]))


def test_predictions_are_scaled_by_target() -> None:
    config = toy_config(task={"targets": ["gap", "gap_dft"]}).task
    task = build_task(config, {"gap": Scaling(5.0, 2.0), "gap_dft": Scaling(-1.0, 0.5)})
    found = task.predictions(ModelOutput(torch.tensor([[1.0, 2.0], [-1.0, 0.0]]), None, [], []))
    assert {name: value.tolist() for name, value in found.items()} == {"gap": [7.0, 3.0], "gap_dft": [0.0, -1.0]}


def test_scaling_comes_from_the_train_split_and_is_one_for_a_constant() -> None:
    statistics = {
        "gap": {"mean": 6.0, "std": 1.5},
        "mu": {"mean": 2.0, "std": 0.0},
        "unused": {"mean": 0.0, "std": 9.0},
    }
    assert scalings(statistics, ("gap", "mu")) == {"gap": Scaling(6.0, 1.5), "mu": Scaling(2.0, 1.0)}
