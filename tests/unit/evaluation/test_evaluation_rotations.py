"""The error that rotation symmetry leaves on particles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geomformer.datasets import nbody
from geomformer.datasets.nbody import simulation
from geomformer.datasets.nbody.simulation import Systems
from geomformer.datasets.options import PrepareOptions
from geomformer.evaluation import rotations
from geomformer.evaluation.particles import MSE
from geomformer.evaluation.rotations import first_systems, is_simulated, rotation_floor, rotation_variances
from geomformer.prepared.dataset import PreparedDataset

ERROR = f"{MSE}_standard_error"


def prepared(out: Path, **options: Any) -> PreparedDataset:
    choice = PrepareOptions(num_systems=(4, 2, 6), **options)
    return PreparedDataset(nbody.prepare(raw=[], out=out, data_root=out, options=choice))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nbody, "STREAM", (4, 2, 6))
    monkeypatch.setattr(nbody, "INPUT_FRAME", 2)
    monkeypatch.setattr(nbody, "TARGET_FRAME", 4)


def head_on() -> Systems:
    """Two attracting particles on the x axis that come close enough for the limit, and two that never do."""
    x = np.zeros((2, 2, 3))
    x[0, :, 0], x[1, :, 0] = (-0.04, 0.04), (-3.0, 3.0)
    return Systems(np.array([[1.0, -1.0], [1.0, -1.0]]), x, np.zeros_like(x))


def test_only_limited_forces_depend_on_the_orientation() -> None:
    found = rotation_variances(head_on(), 60)
    assert found[0] > 1e-6 and found[1] < 1e-24


def test_an_isotropic_limit_leaves_no_error() -> None:
    systems = simulation.start_states(np.random.RandomState(3), 40, 5)
    close = Systems(systems.charges, 0.1 * systems.positions, systems.velocities)
    assert rotation_variances(close, 100).mean() > 1e-4, "forces are limited"
    assert rotation_variances(close, 100, isotropic_clip=True).max() < 1e-16


def test_the_variance_is_that_of_independent_rotations_and_without_bias() -> None:
    """The squared distance of two independent answers is twice the variance, however many make up the estimate."""
    systems = simulation.start_states(np.random.RandomState(3), 60, 5)
    close = Systems(systems.charges, 0.1 * systems.positions, systems.velocities)
    many = rotation_variances(close, 30, orientations=64).mean()
    two = np.mean([rotation_variances(close, 30, orientations=2, seed=seed).mean() for seed in range(1, 33)])
    assert two == pytest.approx(many, rel=0.1)


def test_the_best_answer_of_an_equivariant_model_is_off_by_the_floor() -> None:
    """The mean of the rotated answers misses each of them by (K - 1) / K of the unbiased variance."""
    turns = rotations.Rotation.random(512, np.random.default_rng(5)).as_matrix()
    start = head_on()[0:1]
    turned = Systems(*(np.repeat(a, 512, 0) for a in (start.charges, start.positions, start.velocities)))
    turned = Systems(turned.charges, turned.positions @ turns.transpose(0, 2, 1), turned.velocities)
    (ends,) = simulation.simulate(turned, [60])
    answers = ends.positions @ turns
    left = np.square(answers - answers.mean(0)).mean()
    assert rotation_variances(head_on(), 60, orientations=512)[0] == pytest.approx(left, rel=0.1)


def test_first_systems_keep_their_rotations() -> None:
    systems = simulation.start_states(np.random.RandomState(3), 60, 5)
    whole, part = rotation_variances(systems, 5), rotation_variances(systems[:7], 5)
    assert np.array_equal(whole[:7], part)


@pytest.mark.usefixtures("short")
def test_the_floor_of_a_split(tmp_path: Path) -> None:
    dataset = prepared(tmp_path / "nbody")
    systems = first_systems(dataset, "test", 6)
    record = dataset.split("test")[5]
    assert np.array_equal(systems.positions[5], record.positions[0])
    assert np.array_equal(systems.velocities[5], record.velocities) and record.velocities is not None
    assert np.array_equal(systems.charges[5], record.particle_charges)
    variances = rotation_variances(systems, 200)
    expected = {MSE: variances.mean(), ERROR: variances.std(ddof=1) / 6**0.5}
    assert rotation_floor(dataset, "test", 6) == expected
    assert rotation_floor(dataset, "test", 1) == {MSE: variances[0]}
    isotropic = prepared(tmp_path / "isotropic", isotropic_clip=True)
    assert rotation_floor(isotropic, "test", 6)[MSE] < 1e-16


@pytest.mark.usefixtures("short")
def test_a_split_is_simulated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = prepared(tmp_path / "nbody")
    few, first = rotation_floor(dataset, "test", 3), rotation_floor(dataset, "test", 6)
    (file,) = (tmp_path / "nbody").glob(".cache/*/test.rotations-*.npy")
    with monkeypatch.context() as patch:
        patch.setattr(rotations, "rotation_variances", None)
        assert rotation_floor(dataset, "test", 6) == first and rotation_floor(dataset, "test", 3) == few
    file.write_bytes(file.read_bytes()[:-1])
    assert rotation_floor(dataset, "test", 6) == first, "a damaged file is made again"
    monkeypatch.setattr(rotations, "write_atomic", _full)
    file.unlink()
    assert rotation_floor(dataset, "test", 6) == first and not file.exists(), "no place to keep it is no error"


def _full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.usefixtures("short")
def test_large_systems_are_not_all_simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = prepared(tmp_path / "nbody")
    monkeypatch.setattr(rotations, "MOST_PAIR_STEPS", 10 * 200 * rotations.ORIENTATIONS * 3)
    assert rotation_floor(dataset, "test", 6) == rotation_floor(dataset, "test", 3)


@pytest.mark.usefixtures("short")
def test_other_particles_have_no_floor(tmp_path: Path) -> None:
    dataset = prepared(tmp_path / "nbody")
    assert is_simulated(dataset.manifest)
    dataset.manifest["options"]["time_step"] = 0.002
    assert rotation_floor(dataset, "test", 6) == {}
    assert not is_simulated({"options": {}})
