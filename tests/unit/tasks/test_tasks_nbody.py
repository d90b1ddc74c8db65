"""Charged particles: inputs, losses and what is predicted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checks.systems import orthogonal, reorder

from geomformer.config.load import load_config
from geomformer.config.run import TaskConfig
from geomformer.datasets import nbody as benchmark
from geomformer.datasets.nbody import simulation
from geomformer.datasets.options import PrepareOptions
from geomformer.errors import ConfigError
from geomformer.models import build_model
from geomformer.models.network import ModelOutput
from geomformer.prepared.collate import Sample, collate, collate_gathered, gather_samples
from geomformer.prepared.dataset import PreparedDataset
from geomformer.prepared.split import PreparedSplit
from geomformer.records import Batch, Record
from geomformer.tasks import build_task, measured_scalings
from geomformer.tasks.base import Scaling
from geomformer.tasks.nbody import HORIZON, NBodyTask, comoving, displacement_scale, mostly_positive

STARTS = pytest.mark.parametrize("changes", [{}, {"start": "x+v"}, {"start": "x+v", "conserved": True}])
TINY = ["num_layers=2", "embed_dim=16", "ffn_dim=16", "num_heads=2", "num_kernels=8"]


def system(index: int, particles: int = 5, target: bool = True) -> Record:
    rng = np.random.default_rng(index)
    positions, velocities, moved = rng.standard_normal((3, particles, 3)).astype(np.float32)
    return Record(
        id=str(index),
        positions=positions[None],
        conformer_source=np.zeros(1, np.uint8),
        target_positions=positions + moved if target else None,
        velocities=velocities,
        particle_charges=np.where(rng.random(particles) < 0.5, -1, 1).astype(np.int8),
    )


def task(scale: float = 0.5, **changes: Any) -> NBodyTask:
    settings = {"position_loss": "mse", "position_weight": (1.0, 1.0), **changes}
    config = TaskConfig(name="nbody", targets=(), **settings)
    return NBodyTask(config, {"positions": Scaling(scale=scale)})


def samples(records: list[Record], particles: NBodyTask) -> list[Sample]:
    return [particles.inference_samples(record, i, 8)[0] for i, record in enumerate(records)]


def network_output(vectors: torch.Tensor) -> ModelOutput:
    return ModelOutput(None, vectors[:, :, None], [], [])


@pytest.fixture(scope="module")
def train_split(tmp_path_factory: pytest.TempPathFactory) -> PreparedSplit:
    root = tmp_path_factory.mktemp("data")
    options = PrepareOptions(num_systems=(40, 1, 1))
    return PreparedDataset(benchmark.prepare(raw=[], out=root / "nbody", data_root=root, options=options)).split(
        "train"
    )


def test_the_horizon_is_that_of_the_simulation() -> None:
    steps = simulation.step_of_frame(benchmark.TARGET_FRAME) - simulation.step_of_frame(benchmark.INPUT_FRAME)
    assert pytest.approx(steps * simulation.TIME_STEP) == HORIZON


@STARTS
def test_training_and_inference_see_the_same_systems(changes: dict[str, Any]) -> None:
    records, particles = [system(0), system(1, particles=3), system(2)], task(**changes)
    plain = gather_samples([Sample(r, i, r.positions[0], r.target_positions) for i, r in enumerate(records)])
    rngs = [np.random.default_rng(row) for row in range(3)]
    trained = collate_gathered(particles.training_inputs(plain, rngs), features=False)
    used = collate(samples(records, particles), features=False)
    for name in ("positions", "velocities", "particle_charges", "target_positions"):
        assert torch.equal(getattr(trained, name), getattr(used, name)), name


def test_a_network_that_says_nothing_leaves_the_start() -> None:
    records = [system(0), system(1)]
    for changes, velocity in (({}, 0.0), ({"start": "x+v"}, 1.0), ({"start": "x+v", "conserved": True}, 1.0)):
        particles = task(**changes)
        batch = collate(samples(records, particles), features=False)
        found = particles.vector_predictions(network_output(torch.zeros(2, 5, 3)), batch)["positions"]
        for record, positions in zip(records, found.numpy(), strict=True):
            expected = record.positions[0] + velocity * HORIZON * record.velocities
            assert np.allclose(positions, expected, atol=1e-6), "the frame and the charges' sign change no answer"


def test_losses_by_hand() -> None:
    """The mean squared error in the benchmark's units, and a loss in units of the scale for the optimiser."""
    records, particles = [system(0), system(1, particles=3)], task(scale=0.5, start="x+v")
    batch = collate(samples(records, particles), features=False)
    vectors = torch.randn(2, 5, 3)
    expected = expected_length = 0.0
    for row, record in enumerate(records):
        n = record.num_atoms
        error = record.positions[0] + record.velocities + 0.5 * vectors[row, :n].numpy() - record.target_positions
        expected += float(np.square(error).mean())
        expected_length += float(np.linalg.norm(error, axis=-1).mean())
    losses = particles.losses(network_output(vectors), batch, 0.5)
    assert set(losses) == {"total", "position"}
    assert float(losses["position"]) == pytest.approx(expected, rel=1e-5)
    assert float(losses["total"]) == pytest.approx(expected / 0.25, rel=1e-5)
    lengths = task(scale=0.5, start="x+v", position_loss="distance").losses(network_output(vectors), batch, 0.5)
    assert float(lengths["position"]) == pytest.approx(expected, rel=1e-5)
    assert float(lengths["total"]) == pytest.approx(expected_length / 0.5, rel=1e-5)
    falling = task(start="x+v", conserved=False)
    falling.config = falling.config.model_copy(update={"position_weight": (3.0, 1.0)})
    assert float(falling.losses(network_output(vectors), batch, 0.5)["total"]) == pytest.approx(8 * expected, rel=1e-5)


def test_systems_without_a_target_count_nothing() -> None:
    particles = task()
    together = collate(samples([system(0), system(1, target=False)], particles), features=False)
    alone = collate(samples([system(0)], particles), features=False)
    vectors = torch.randn(2, 5, 3, requires_grad=True)
    losses = particles.losses(network_output(vectors), together, 0.0)
    assert torch.allclose(losses["total"], particles.losses(network_output(vectors[:1]), alone, 0.0)["total"])
    losses["total"].backward()
    assert vectors.grad is not None and torch.isfinite(vectors.grad).all() and not vectors.grad[1].any()


def test_conserved_keeps_momentum_whatever_the_network_says() -> None:
    records = [system(0), system(1, particles=3)]
    particles = task(start="x+v", conserved=True)
    batch = collate(samples(records, particles), features=False)
    found = particles.vector_predictions(network_output(torch.randn(2, 5, 3)), batch)["positions"]
    for row, record in enumerate(records):
        centre = (record.positions[0] + HORIZON * record.velocities).mean(0)
        assert np.allclose(found[row, : record.num_atoms].numpy().mean(0), centre, atol=1e-5)


def test_the_frame_of_the_centre_of_mass() -> None:
    rng = np.random.default_rng(0)
    positions, velocities = rng.standard_normal((2, 8, 3))
    sizes = np.array([5, 3])
    x, v = comoving(positions, velocities, sizes)
    assert np.allclose(v[:5].mean(0), 0.0) and np.allclose(v[5:].mean(0), 0.0)
    assert np.allclose(x + HORIZON * v, positions + HORIZON * velocities), "the frames meet at the target's time"
    boost = np.repeat(rng.standard_normal((2, 3)), sizes, axis=0)
    boosted = comoving(positions - HORIZON * boost, velocities + boost, sizes)
    assert np.allclose(boosted[0], x) and np.allclose(boosted[1], v)
    single = comoving(positions.astype(np.float32), velocities.astype(np.float32), sizes)
    assert single[0].dtype == single[1].dtype == np.float32


def test_charges_are_turned_round_where_most_are_negative() -> None:
    charges = np.array([-1, -1, 1, 1, -1, 1, -1], np.int8)
    assert mostly_positive(charges, np.array([3, 2, 2])).tolist() == [1, 1, -1, 1, -1, 1, -1]
    assert mostly_positive(-charges[:3], np.array([3])).tolist() == [1, 1, -1]


@STARTS
def test_the_scale_is_the_spread_of_what_is_asked_for(train_split: PreparedSplit, changes: dict[str, Any]) -> None:
    config = TaskConfig(name="nbody", targets=(), **changes)
    squares = [
        np.square(r.target_positions - r.positions[0] - (HORIZON * r.velocities if changes else 0.0))
        for r in train_split
    ]
    expected = np.sqrt(np.mean(squares))
    assert displacement_scale(config, train_split) == pytest.approx(expected, rel=1e-5)
    assert measured_scalings(config, train_split, 1)["positions"].scale == pytest.approx(expected, rel=1e-5)


def test_the_simulation_keeps_what_conserved_says(train_split: PreparedSplit) -> None:
    """Start plus nothing has the right centre of mass: forces come in opposite pairs, capped or not."""
    for record in train_split:
        moved = record.target_positions - record.positions[0] - HORIZON * record.velocities
        assert np.abs(moved.mean(0)).max() < 1e-3


@pytest.mark.parametrize("preset", ["nbody-paper", "nbody-small", "nbody-improved"])
def test_predictions_turn_and_move_with_the_system(preset: str) -> None:
    """Rotated, reflected and shifted input: rotated, reflected and shifted positions. Order is no matter either."""
    config = load_config(preset, [f"model.{change}" for change in TINY])
    particles = build_task(config.task, {"positions": Scaling(scale=0.3)})
    torch.manual_seed(1)
    model = build_model(config.model).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # the fresh head is zero and would move nothing
            parameter.add_(0.1 * torch.randn_like(parameter))
    batch = collate(samples([system(i) for i in range(6)], particles), features=False)  # type: ignore[arg-type]
    batch = batch.to(dtype=torch.float64)

    def predicted(inputs: Batch) -> torch.Tensor:
        with torch.no_grad():
            return particles.vector_predictions(model(inputs), inputs)["positions"]

    found = predicted(batch)
    start = batch.positions + (batch.velocities if config.task.start == "x+v" else 0.0)
    assert (found - start).abs().max() > 1e-3, "the network moves something"
    shift = torch.tensor([3.0, -2.0, 1.0], dtype=torch.float64)
    for determinant in (1, -1):
        turn = orthogonal(determinant)
        turned = Batch(**{**vars(batch), "positions": batch.positions @ turn.T + shift})
        assert turned.velocities is not None
        turned.velocities = turned.velocities @ turn.T
        assert torch.allclose(predicted(turned), found @ turn.T + shift, atol=1e-10, rtol=0)
    order = torch.randperm(5)
    assert torch.allclose(predicted(reorder(batch, order)), found[:, order], atol=1e-10, rtol=0)


def test_one_pair_of_streams_reads_positions_and_velocities() -> None:
    config = load_config("nbody-small", [f"model.{change}" for change in TINY])
    model = build_model(config.model).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    batch = collate(samples([system(0), system(1)], task()), features=False).to(dtype=torch.float64)
    turned = Batch(**{**vars(batch), "velocities": -batch.velocities})
    stretched = Batch(**{**vars(batch), "positions": 1.1 * batch.positions})
    with torch.no_grad():
        found = model(batch).vectors
        assert (model(turned).vectors - found).abs().max() > 1e-3
        assert (model(stretched).vectors - found).abs().max() > 1e-3
    assert len(model.pairs) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("task.targets=[energy]", "predicts positions alone"),
        ("task.start=x", "conserved: true needs start: x\\+v"),
        ("model.num_vectors=2", "model.num_vectors: 1"),
        ("model.particles=false", "particles: true"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("nbody-small", [change])
