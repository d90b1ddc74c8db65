"""N-body as it is typed: from the simulation to evaluation."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geomformer.prepared.dataset import PreparedDataset

SMALL = [
    *("--set", "model.num_layers=1", "--set", "model.embed_dim=16", "--set", "model.ffn_dim=16"),
    *("--set", "model.num_heads=2", "--set", "model.num_kernels=8", "--set", "data.batch_size=10"),
]


@pytest.fixture
def run(invoke: Any, monkeypatch: pytest.MonkeyPatch, particles: Path) -> Any:
    monkeypatch.setenv("GEOMFORMER_DATA", str(particles))
    return invoke


@pytest.mark.parametrize("preset", ["nbody-small", "nbody-improved", "nbody-paper"])
def test_simulation_to_evaluation(run: Any, particles: Path, preset: str) -> None:
    trained = run("train", "--preset", preset, "--data", "nbody", "--out", "run", *SMALL, "--set", "train.max_steps=4")
    assert trained.stdout.strip().endswith("nbody-geomformer@1")
    assert re.search(rf"preset +{preset}\n", trained.stderr)
    manifest = json.loads(Path("models/nbody-geomformer/1/manifest.json").read_text())
    assert manifest["inputs"]["geometry"] == "given" and not manifest["elements"]
    (target,) = manifest["targets"]
    assert (target["name"], target["unit"]) == ("positions", "none") and 0.1 < target["scale"] < 1.0
    found = json.loads(run("evaluate", "--task", "nbody", "--model", "nbody-geomformer", "--json").stdout)
    assert set(found["splits"]) == {"valid", "test"}
    assert set(found["baselines"]) == {"no_move", "linear", "rotation_floor"}
    assert set(found["splits"]["test"]) == {"positions_mse"} and found["rows"]["test"] == 14
    for name, weight in (("no_move", 0.0), ("linear", 1.0)):
        errors = [
            np.square(r.positions[0] + weight * r.velocities - r.target_positions).mean()
            for r in PreparedDataset(particles / "prepared/nbody").split("test")
        ]
        value = found["baselines"][name]["splits"]["test"]["positions_mse"]
        assert value == pytest.approx(np.mean(errors), rel=1e-5)
    start = "no_move" if preset == "nbody-paper" else "linear"
    unaided = found["baselines"][start]["splits"]["test"]["positions_mse"]
    assert found["splits"]["test"]["positions_mse"] == pytest.approx(unaided, rel=0.2), "four steps change little"
    table = run("evaluate", "--model", "nbody-geomformer").stdout
    assert "MSE of positions" in table and "no move" in table and "linear" in table
    floor = found["baselines"]["rotation_floor"]["splits"]["test"]
    line = next(line for line in table.splitlines() if "rotation floor" in line)
    assert f"{floor['positions_mse']:.4g} +- {floor['positions_mse_standard_error']:.2g}" in line
    run("models", "verify", "nbody-geomformer")


def test_training_learns(run: Any) -> None:
    steps = ["--set", "train.max_steps=120", "--set", "optim.learning_rate=3e-3", "--set", "model.hidden_dropout=0"]
    run("train", "--task", "nbody", "--out", "run", *SMALL, *steps, "--set", "data.valid_split=train")
    result = json.loads(Path("run/result.json").read_text())
    found = json.loads(run("evaluate", "--model", "nbody-geomformer", "--split", "train", "--json").stdout)
    error = found["splits"]["train"]["positions_mse"]
    assert error == pytest.approx(result["metrics"]["positions_mse"], rel=1e-5)
    assert error < 0.6 * found["baselines"]["linear"]["splits"]["train"]["positions_mse"]


def test_a_run_continues_bit_for_bit(run: Any) -> None:
    steps = ["--set", "train.checkpoint_every=2", "--set", "train.validate_every=2", "--set", "train.log_every=1"]
    words = ["train", "--task", "nbody", *SMALL, *steps, "--set", "train.max_steps=4"]
    run(*words, "--out", "whole")
    run(*words, "--out", "broken")
    for name in ("result.json", "checkpoints/step-00000004.pt"):
        for path in Path("broken").glob(name):
            path.unlink()
    assert list(Path("broken/checkpoints").iterdir()), "an earlier checkpoint is there to continue from"
    run(*words, "--out", "broken", "--resume")
    assert Path("broken/metrics.jsonl").read_bytes() == Path("whole/metrics.jsonl").read_bytes()


def test_what_does_not_fit_is_a_message(run: Any) -> None:
    Path("in.csv").write_text("smiles,energy\n" + "CCO,1.0\nCCN,2.0\n" * 5)
    run("preprocess", "custom", "in.csv", "--target", "energy", "--conformers", "1", "--out", "molecules")
    result = run("train", "--task", "nbody", "--data", "molecules", *SMALL, code=3)
    message = " ".join(result.output.split())
    assert "has no charges and no velocities" in message and "geomformer preprocess nbody" in message
    run("train", "--task", "nbody", *SMALL, "--set", "train.max_steps=1")
    result = run("evaluate", "--model", "nbody-geomformer", "--data", "molecules", code=4)
    assert "reads charged particles" in " ".join(result.output.split())
    result = run("predict", "in.csv", "--model", "nbody-geomformer", "--out", "out.csv", code=2)
    assert "geomformer evaluate --model nbody-geomformer@1" in " ".join(result.output.split())
