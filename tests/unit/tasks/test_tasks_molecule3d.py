"""Molecule3D's task: the DFT geometry in, the gap out, nothing drawn and no vector head."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from checks.molecules import random_record
from typer.testing import CliRunner

from geomformer.config.load import load_config
from geomformer.prepared.collate import Sample, gather_samples
from geomformer.records import CONFORMER_SOURCES, Record
from geomformer.tasks import build_task
from geomformer.tasks.base import Scaling, has_reference
from geomformer.tasks.gap import GapTask
from geomformer_cli.app import app

SAMPLE = Path(__file__).parents[3] / "data" / "samples" / "molecule3d"
TINY = {
    "model": {"num_layers": 1, "embed_dim": 16, "ffn_dim": 16, "num_heads": 2, "num_kernels": 8},
    "data": {"batch_size": 8},
    "train": {"max_steps": 4, "validate_every": 4, "log_every": 2},
}


def task() -> GapTask:
    built = build_task(load_config("molecule3d-paper").task, {"gap": Scaling()})
    assert isinstance(built, GapTask)
    return built


def as_stored(seed: int) -> Record:
    """A record as `preprocess molecule3d` stores it: the DFT geometry as its positions, no target positions."""
    record = random_record(seed, reference=False)
    record.positions = record.positions[:1]
    record.conformer_source = np.array([CONFORMER_SOURCES.index("dft")], np.uint8)
    return record


def test_stored_dft_positions_are_used_as_they_are() -> None:
    record = as_stored(3)
    assert has_reference(record)
    centred = record.positions[0] - record.positions[0].mean(axis=0)
    (sample,) = task().inference_samples(record, 0, 8)
    np.testing.assert_allclose(sample.positions, centred, atol=1e-6)
    for seed in range(20):
        systems = gather_samples([Sample(record, 0, record.positions[0])])
        drawn = task().training_inputs(systems, [np.random.default_rng(seed)])
        assert drawn.target_positions is None
        np.testing.assert_allclose(drawn.positions, centred, atol=1e-6)


def test_target_positions_are_the_input_without_noise() -> None:
    """Turned at random, as the labels of other tasks are, which changes no distance."""
    record = random_record(5, atoms=7)
    for seed in range(20):
        systems = gather_samples([Sample(record, 0, record.positions[0], record.target_positions)])
        positions = task().training_inputs(systems, [np.random.default_rng(seed)]).positions
        np.testing.assert_allclose(distances(positions), distances(record.target_positions), atol=1e-5)


def distances(positions: np.ndarray) -> np.ndarray:
    return np.linalg.norm(positions[:, None] - positions[None], axis=-1)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("molecule3d") / "prepared"
    words = ["preprocess", "molecule3d", "--raw", str(SAMPLE), "--target", "gap", "--workers", "1", "--out", str(out)]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0, found.stderr
    return out


@pytest.mark.parametrize("scheme", ["random", "scaffold"])
def test_both_schemes_train_and_evaluate(
    scheme: str, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GEOMFORMER_MODELS", str(tmp_path / "models"))
    changes = [f"{section}.{key}={value}" for section, items in TINY.items() for key, value in items.items()]
    words = ["train", "--task", "gap", "--preset", "molecule3d-small", "--data", str(prepared), "--device", "cpu"]
    words += ["--out", "run", "--name", "m3", "--set", f"data.split_scheme={scheme}"]
    words += [word for change in changes for word in ("--set", change)]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0, found.stderr
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = {name for line in lines for name in line if name.startswith("train/")}
    assert losses == {"train/total", "train/gap", "train/gradient_norm"}

    words = ["evaluate", "--data", str(prepared), "--model", "m3", "--split", "valid", "--split", "test", "--json"]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0, found.stderr
    summary = json.loads(found.stdout)
    assert summary["split_scheme"] == scheme
    assert set(summary["splits"]) == {"valid", "test"}
    assert all(0.0 < values["gap_mae_ev"] < 10.0 for values in summary["splits"].values())
