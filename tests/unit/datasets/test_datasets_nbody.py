from __future__ import annotations

import hashlib
import json
import logging
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from geomformer.datasets import nbody
from geomformer.datasets.nbody import simulation as simulation
from geomformer.datasets.nbody.simulation import Systems
from geomformer.datasets.options import PrepareOptions
from geomformer.errors import ConfigError
from geomformer.prepared.dataset import PreparedDataset

GOLD = json.loads((Path(__file__).parents[2] / "gold" / "nbody.json").read_text(encoding="utf-8"))
SPLITS = ("train", "valid", "test")
REFERENCE_MACHINE = simulation.power_rounding() == simulation.REFERENCE_ROUNDING


def prepare(out: Path, **options: object) -> Path:
    return nbody.prepare(raw=[], out=out, data_root=out, options=PrepareOptions(**options))  # type: ignore[arg-type]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shorter stream and shorter trajectories, where it is not about the benchmark's numbers."""
    monkeypatch.setattr(nbody, "STREAM", (20, 10, 10))
    monkeypatch.setattr(nbody, "INPUT_FRAME", 2)
    monkeypatch.setattr(nbody, "TARGET_FRAME", 4)
    monkeypatch.setattr(nbody, "OFFICIAL", nbody.Window(2))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def arrays(folder: Path, split: str, num_particles: int = 5) -> dict[str, np.ndarray]:
    table = pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob(f"{split}-*.parquet"))])
    shapes = {"positions": 3, "velocities": 3, "target_positions": 3, "particle_charges": 1}
    return {
        name: np.stack([row.values.to_numpy() for row in table[name]]).reshape(-1, num_particles, width)
        for name, width in shapes.items()
    } | {"id": np.array(table["id"].to_pylist())}


def sha256(found: dict[str, np.ndarray], rows: np.ndarray | slice = slice(None)) -> str:
    digest = hashlib.sha256()
    for name in ("particle_charges", "positions", "velocities", "target_positions"):
        digest.update(np.ascontiguousarray(found[name][rows]).tobytes())
    return digest.hexdigest()


def steady(split: str, count: int) -> np.ndarray:
    """Rows without a close encounter: the same whatever the last bit of powers and dot products is."""
    return np.setdiff1d(np.arange(count), GOLD["first_50"][split]["unsteady"])


def public_trajectory(rng: np.random.RandomState, steps: tuple[int, ...]) -> tuple[np.ndarray, list[np.ndarray]]:
    """One system as the public benchmark defines it, written down once more: small matrices and numpy's dot product.

    Returns charges (5,), and at every step of `steps` positions over velocities. (2, 3, 5)
    """
    q = rng.choice([-1.0, 0.0, 1.0], size=(5, 1), p=[0.5, 0.0, 0.5])
    x = rng.randn(3, 5)
    v = rng.randn(3, 5)
    v = v * 0.5 / np.sqrt((v**2).sum(axis=0)).reshape(1, 5)
    saved = []
    for step in range(1, max(steps) + 1):
        norms = (x.T**2).sum(axis=1)
        distance2 = norms.reshape(5, 1) + norms.reshape(1, 5) - 2 * x.T.dot(x)
        np.fill_diagonal(distance2, 1.0)
        strength = q.dot(q.T) / np.power(distance2, 1.5)
        np.fill_diagonal(strength, 0.0)
        force = (strength * (x[:, :, None] - x[:, None, :])).sum(axis=-1)
        v = v + 0.001 * np.clip(force, -100.0, 100.0)
        x = x + 0.001 * v
        if step in steps:
            saved.append(np.stack([x, v]))
    for _ in range(2):
        rng.randn(49, 3, 5)
    return q[:, 0], saved


def test_trajectories_equal_those_of_the_public_definition() -> None:
    steps = (3100, 4100)
    found = simulation.simulate(simulation.start_states(np.random.RandomState(43), 6, 5), steps)
    rng = np.random.RandomState(43)
    rows = [public_trajectory(rng, steps) for _ in range(6)]
    for row in steady("train", 6):
        charges, states = rows[row]
        assert np.array_equal(found[0].charges[row], charges)
        for mine, theirs in zip(found, states, strict=True):
            assert np.array_equal(mine.positions[row].T.astype(np.float32), theirs[0].astype(np.float32))
            assert np.array_equal(mine.velocities[row].T.astype(np.float32), theirs[1].astype(np.float32))


def test_dot_products_round_like_fused_multiply_adds() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 2, 2000)) * np.exp(3 * rng.normal(size=(3, 2, 2000)))
    x[:, 1, :1000] = x[:, 0, :1000] * (1 + 1e-4 * rng.normal(size=(3, 1000)))
    x[2, 1, 500:1500] *= -1
    first, second = np.array([0]), np.array([1])
    found = simulation._dot(x, x[:, :1], x[:, 1:], first, second)[0]
    plain = (x[0, 0] * x[0, 1] + x[1, 0] * x[1, 1]) + x[2, 0] * x[2, 1]
    expected = []
    for (ax, ay, az), (bx, by, bz) in zip(x[:, 0].T.tolist(), x[:, 1].T.tolist(), strict=True):
        total = float(Fraction(ay) * Fraction(by) + Fraction(ax * bx))
        expected.append(float(Fraction(az) * Fraction(bz) + Fraction(total)))
    assert np.array_equal(found, expected)
    assert (plain != found).mean() > 0.1


def test_first_systems_of_every_split_are_golden(tmp_path: Path) -> None:
    out = prepare(tmp_path / "nbody", limit=50)
    for split in SPLITS:
        found, gold = arrays(out, split), GOLD["first_50"][split]
        assert list(found["id"][:2]) == [f"{split}-0", f"{split}-1"]
        assert sha256(found, steady(split, 50)) == gold["steady"]
        if REFERENCE_MACHINE:
            assert sha256(found) == gold["all"]


def test_a_machine_that_rounds_otherwise_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(simulation, "REFERENCE_ROUNDING", "another")
    with caplog.at_level(logging.WARNING):
        out = prepare(tmp_path / "nbody", limit=1)
    assert "AVX-512" in caplog.text
    assert PreparedDataset(out).manifest["options"]["power_rounding"] == simulation.power_rounding()


def test_manifest_records_the_simulation(tmp_path: Path) -> None:
    manifest = PreparedDataset(prepare(tmp_path / "nbody", num_systems=(3, 2, 1))).manifest
    assert (manifest["dataset"], manifest["seed"], manifest["targets"]) == ("nbody", 43, {})
    assert {split: item["rows"] for split, item in manifest["splits"].items()} == {"train": 3, "valid": 2, "test": 1}
    expected = {"time_step": 0.001, "force_cap": 100.0, "force_cap_of": "component", "input_step": 3100}
    expected |= {"target_step": 4100, "num_particles": 5, "position_std": 1.0, "speed": 0.5, "wall": 5.0}
    assert manifest["options"].items() >= expected.items()
    assert manifest["options"]["systems_drawn"] == {"train": 10000, "valid": 2000, "test": 2000}


@pytest.mark.usefixtures("short")
def test_fewer_systems_are_the_first_ones(tmp_path: Path) -> None:
    few, more = prepare(tmp_path / "few", num_systems=(3, 2, 2)), prepare(tmp_path / "more", num_systems=(20, 7, 5))
    for split, count in zip(SPLITS, (3, 2, 2), strict=True):
        assert sha256(arrays(few, split)) == sha256(arrays(more, split), slice(count))


def test_more_systems_than_the_public_stream_move_the_splits_that_follow() -> None:
    rng, other = np.random.RandomState(1), np.random.RandomState(1)
    drawn = list(simulation.stream(rng, used=5, drawn=7, num_particles=5, chunk=3))
    assert [len(part) for part in drawn] == [3, 2]
    whole = simulation.start_states(other, 7, 5)
    assert np.array_equal(np.concatenate([part.positions for part in drawn]), whole.positions[:5])
    assert rng.random_sample() == other.random_sample()


def test_start_states_follow_the_description() -> None:
    few, many = (simulation.start_states(np.random.RandomState(0), 300, n) for n in (5, 40))
    for systems, std in ((few, 1.0), (many, 2.0)):
        assert set(np.unique(systems.charges)) == {-1.0, 1.0}
        assert np.allclose(np.linalg.norm(systems.velocities, axis=2), 0.5)
        assert systems.positions.std() == pytest.approx(std, rel=0.03)
        assert np.abs(systems.positions).max() <= simulation.WALL


def test_walls_reflect_start_states_once() -> None:
    rng, again = np.random.RandomState(0), np.random.RandomState(0)
    systems = simulation.start_states(rng, 1, 200)
    again.random_sample(200)
    raw, drift = again.randn(3, 200).T * simulation.position_std(200), again.randn(3, 200).T
    over, under = raw > 5, raw < -5
    assert over.any() and under.any()
    found = systems.positions[0]
    assert np.allclose(found[over], 10 - raw[over]) and np.allclose(found[under], -10 - raw[under])
    assert (systems.velocities[0][over] < 0).all() and (systems.velocities[0][under] > 0).all()
    inside = ~(over | under)
    assert np.array_equal(found[inside], raw[inside])
    assert np.array_equal(np.sign(systems.velocities[0][inside]), np.sign(drift[inside]))


def test_any_division_into_chunks_gives_the_same_bits() -> None:
    systems = simulation.start_states(np.random.RandomState(5), 11, 5)
    whole = simulation.simulate(systems, (100, 1000))
    for size in (1, 4):
        parts = [simulation.simulate(systems[start : start + size], (100, 1000)) for start in range(0, 11, size)]
        for number, state in enumerate(whole):
            assert np.array_equal(np.concatenate([part[number].positions for part in parts]), state.positions)
            assert np.array_equal(np.concatenate([part[number].velocities for part in parts]), state.velocities)


def rotation(seed: int) -> np.ndarray:
    matrix = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    return matrix * np.sign(np.linalg.det(matrix))


def rotated(systems: Systems, matrix: np.ndarray) -> Systems:
    return Systems(systems.charges, systems.positions @ matrix.T, systems.velocities @ matrix.T)


@pytest.mark.parametrize("isotropic", [True, False])
def test_only_a_cap_on_the_norm_is_symmetric_under_rotation(isotropic: bool) -> None:
    start = np.array([[[0.04, 0.03, 0.02], [-0.02, 0.0, 0.01], [1.0, 1.0, 1.0]]])
    systems = Systems(np.array([[1.0, 1.0, -1.0]]), start, np.zeros((1, 3, 3)))
    matrix = rotation(0)
    after = rotated(simulation.simulate(systems, [300], isotropic_clip=isotropic)[0], matrix)
    turned = simulation.simulate(rotated(systems, matrix), [300], isotropic_clip=isotropic)[0]
    deviation = np.abs(after.positions - turned.positions).max()
    assert deviation < 1e-10 if isotropic else deviation > 1e-3


def test_systems_that_never_reach_the_cap_are_the_same_in_both_variants() -> None:
    systems = simulation.start_states(np.random.RandomState(43), 40, 5)
    official, isotropic = (simulation.simulate(systems, [800], isotropic_clip=flag)[0] for flag in (False, True))
    same = (official.positions == isotropic.positions).all(axis=(1, 2))
    assert 0.5 < same.mean() < 1
    momentum = [
        np.abs(state.velocities.sum(axis=1) - systems.velocities.sum(axis=1)) for state in (official, isotropic)
    ]
    assert momentum[0][same].max() < 1e-11
    assert momentum[0][~same].max() > 1e-3


def energy(state: Systems) -> np.ndarray:
    first, second = np.triu_indices(state.charges.shape[1], 1)
    distance = np.linalg.norm(state.positions[:, first] - state.positions[:, second], axis=-1)
    potential = (state.charges[:, first] * state.charges[:, second] / distance).sum(axis=1)
    return 0.5 * (state.velocities**2).sum(axis=(1, 2)) + potential


def test_energy_is_conserved_far_from_the_cap() -> None:
    systems = simulation.start_states(np.random.RandomState(3), 50, 5)
    systems = Systems(np.ones_like(systems.charges), systems.positions * 2, systems.velocities)
    after = simulation.simulate(systems, [2000])[0]
    assert np.abs(after.positions - systems.positions).max() > 1
    assert energy(after) == pytest.approx(energy(systems), rel=5e-3)


@pytest.mark.usefixtures("short")
def test_the_isotropic_variant_has_its_own_name(tmp_path: Path) -> None:
    official, isotropic = prepare(tmp_path / "a", limit=20), prepare(tmp_path / "b", limit=20, isotropic_clip=True)
    manifest = PreparedDataset(isotropic).manifest
    assert (manifest["dataset"], manifest["options"]["force_cap_of"]) == ("nbody-isotropic", "norm")
    found, other = arrays(official, "train"), arrays(isotropic, "train")
    differing = (found["target_positions"] != other["target_positions"]).any(axis=(1, 2))
    assert np.array_equal(found["particle_charges"], other["particle_charges"])
    assert 0 < differing.sum() < 20


@pytest.mark.usefixtures("short")
def test_all_windows_of_the_train_split_include_the_official_one(tmp_path: Path) -> None:
    official, windows = prepare(tmp_path / "a", limit=3), prepare(tmp_path / "b", limit=3, all_windows=True)
    manifest = PreparedDataset(windows).manifest
    assert (manifest["dataset"], manifest["options"]["train_windows"]) == ("nbody-windows", 3)
    found = arrays(windows, "train")
    assert found["id"][:4].tolist() == ["train-0-frame-0", "train-0-frame-1", "train-0", "train-1-frame-0"]
    assert sha256(found, slice(2, None, 3)) == sha256(arrays(official, "train"))
    assert np.array_equal(found["target_positions"][::3], found["positions"][2::3]), "frame 2 is two after frame 0"
    assert (found["positions"][::3] != found["positions"][1::3]).any(axis=(1, 2)).all()
    for split in ("valid", "test"):
        assert sha256(arrays(windows, split)) == sha256(arrays(official, split))


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("isotropic", [False, True])
def test_windows_backwards_lead_to_where_they_came_from(tmp_path: Path, isotropic: bool) -> None:
    official = prepare(tmp_path / "a", limit=8, isotropic_clip=isotropic)
    both = prepare(tmp_path / "b", limit=8, isotropic_clip=isotropic, time_reversed=True)
    options = PreparedDataset(both).manifest["options"]
    assert (options["train_windows"], options["time_reversed"]) == (2, True)
    found = arrays(both, "train")
    assert found["id"][:3].tolist() == ["train-0", "train-0-frame-4-backwards", "train-1"]
    forwards, backwards = ({name: values[start::2] for name, values in found.items()} for start in (0, 1))
    assert sha256(forwards) == sha256(arrays(official, "train"))
    assert np.array_equal(backwards["positions"], forwards["target_positions"])
    assert np.array_equal(backwards["target_positions"], forwards["positions"])
    assert np.array_equal(backwards["particle_charges"], forwards["particle_charges"])
    start = Systems(*(backwards[name].astype(np.float64) for name in ("particle_charges", "positions", "velocities")))
    start = Systems(start.charges[..., 0], start.positions, start.velocities)
    (end,) = simulation.simulate(start, [200], isotropic_clip=isotropic)
    assert end.positions == pytest.approx(backwards["target_positions"], abs=1e-4)
    for split in ("valid", "test"):
        assert sha256(arrays(both, split)) == sha256(arrays(official, split))


def test_the_simulation_runs_backwards_along_its_own_steps() -> None:
    start = simulation.start_states(np.random.RandomState(4), 20, 5)
    there, leading = simulation.simulate(start, [300, 301])
    (back,) = simulation.simulate(Systems(start.charges, there.positions, -leading.velocities), [300])
    assert back.positions == pytest.approx(start.positions, abs=1e-7)
    (late,) = simulation.simulate(Systems(start.charges, there.positions, -there.velocities), [300])
    assert np.abs(late.positions - start.positions).max() > 1e-4, "the velocities of the step itself do not"


@pytest.mark.usefixtures("short")
def test_all_variants_at_once(tmp_path: Path) -> None:
    folder = prepare(tmp_path, limit=2, isotropic_clip=True, all_windows=True, time_reversed=True)
    manifest = PreparedDataset(folder).manifest
    assert (manifest["dataset"], manifest["options"]["train_windows"]) == ("nbody-isotropic-windows-reversed", 6)
    found = arrays(folder, "train")
    assert len(set(found["id"].tolist())) == len(found["id"]) == 12
    assert np.array_equal(found["positions"][3:6], found["target_positions"][:3])


@pytest.mark.usefixtures("short")
def test_other_numbers_of_particles_and_other_seeds(tmp_path: Path) -> None:
    three = arrays(prepare(tmp_path / "three", num_particles=3, num_systems=(2, 1, 1)), "train", 3)
    assert three["positions"].shape == (2, 3, 3)
    seeds = [arrays(prepare(tmp_path / f"{seed}", seed=seed, num_systems=(2, 1, 1)), "train") for seed in (0, 43)]
    assert sha256(seeds[0]) != sha256(seeds[1])


@pytest.mark.usefixtures("short")
def test_interrupted_and_divided_runs_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"num_systems": (6, 4, 2), "shard_rows": 3}
    whole = content(prepare(tmp_path / "whole", **options))
    assert whole == content(prepare(tmp_path / "again", workers=2, **options))

    for part in ((2, 2), (1, 2)):
        prepare(tmp_path / "parts", part=part, **options)
    assert whole == content(tmp_path / "parts")

    class StopError(Exception):
        pass

    def progress(done: int, total: int | None) -> None:
        assert total == 12
        if done == 8:
            raise StopError

    with pytest.raises(StopError):
        broken = PrepareOptions(**options)  # type: ignore[arg-type]
        nbody.prepare(raw=[], out=tmp_path / "broken", data_root=tmp_path, options=broken, progress=progress)
    simulated = []
    simulate = simulation.simulate

    def counting(systems: Systems, *args: object, **kwargs: object) -> list[Systems]:
        simulated.append(len(systems))
        return simulate(systems, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(simulation, "simulate", counting)
    assert whole == content(prepare(tmp_path / "broken", **options))
    assert simulated == [4, 2], "the finished train split was simulated again"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_particles": 1}, "at least two particles"),
        ({"num_systems": (1, 0, 1)}, "at least one system"),
        ({"seed": 2**32}, "Expected a seed"),
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare(tmp_path / "nbody", **options)


def test_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Expected no files"):
        nbody.prepare(raw=[tmp_path / "loc.npy"], out=tmp_path, data_root=tmp_path, options=PrepareOptions())


def statistics(found: dict[str, np.ndarray]) -> dict[str, float]:
    x, v, y = (found[name].astype(np.float64) for name in ("positions", "velocities", "target_positions"))
    moved = y - x
    weight = (moved * v).sum() / (v * v).sum()
    kinetic, distance = 0.5 * (v**2).sum(axis=(1, 2)), np.linalg.norm(moved, axis=2)
    return {
        "position_std": x.std(),
        "velocity_std": v.std(),
        "target_std": y.std(),
        "kinetic_energy": kinetic.mean(),
        "kinetic_energy_median": np.median(kinetic),
        "distance": distance.mean(),
        "distance_median": np.median(distance),
        "mse_at_rest": (moved**2).mean(),
        "mse_linear": ((moved - v) ** 2).mean(),
        "best_time": weight,
        "mse_best_time": ((moved - weight * v) ** 2).mean(),
        "share_positive": (found["particle_charges"] > 0).mean(),
    }


@pytest.mark.slow
def test_statistics_of_the_whole_benchmark(tmp_path: Path) -> None:
    out = prepare(tmp_path / "nbody")
    for split in SPLITS:
        found = arrays(out, split)
        measured = statistics(found)
        for name, expected in GOLD["statistics"][split].items():
            tolerance = 0.6 * 10.0 ** -len(str(expected).split(".")[1]) if REFERENCE_MACHINE else 0.03 * expected
            assert measured[name] == pytest.approx(expected, abs=tolerance), f"{name} of {split}"
        if REFERENCE_MACHINE:
            assert sha256(found) == GOLD["sha256"][split]
