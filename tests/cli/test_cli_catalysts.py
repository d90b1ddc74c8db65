"""IS2RE and IS2RS as they are typed: without data, on the sample, and on to evaluation and prediction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SMALL = [
    *("--set", "model.num_layers=1", "--set", "model.embed_dim=16", "--set", "model.ffn_dim=16"),
    *("--set", "model.num_heads=2", "--set", "model.num_kernels=8", "--set", "train.max_steps=3"),
]
BOTH = pytest.mark.parametrize("task", ["is2re", "is2rs"])


@BOTH
def test_without_data_the_command_names_what_to_do(invoke: Any, task: str) -> None:
    message = " ".join(invoke("train", "--task", task, code=3).output.split())
    assert "geomformer preprocess oc20" in message and "--sample" in message
    assert not list(Path().iterdir()), "nothing is left behind"


def test_the_bare_command_trains_where_the_dataset_is_in_its_place(invoke: Any) -> None:
    invoke("train", "--task", "is2rs", "--sample", "--out", "first", *SMALL)
    Path("data/prepared/oc20-sample").rename("data/prepared/oc20")
    invoke("train", "--task", "is2rs", *SMALL)
    assert Path("models/is2rs-geomformer/2/manifest.json").exists()


@pytest.mark.parametrize("preset", ["is2re-small", "is2rs-small", "is2re-paper", "is2rs-paper", "is2rs-improved"])
def test_sample_to_evaluation(invoke: Any, preset: str) -> None:
    task = preset.partition("-")[0]
    smaller = [*SMALL, "--set", "data.batch_size=4"]
    trained = invoke("train", "--preset", preset, "--sample", "--out", "run", *smaller)
    assert trained.stdout.strip().endswith(f"{task}-geomformer@1")
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert any("train/position" in line for line in lines)
    manifest = json.loads(Path(f"models/{task}-geomformer/1/manifest.json").read_text())
    assert manifest["inputs"]["periodic"] and manifest["inputs"]["geometry"] == "given"
    scale = {target["name"]: target["scale"] for target in manifest["targets"]}["positions"]
    assert 0.05 < scale < 2.0, "the displacement's scale is measured"
    model = f"{task}-geomformer"
    found = json.loads(invoke("evaluate", "--task", task, "--model", model, "--json").stdout)
    assert found["dataset"] == "oc20" and set(found["splits"]) == {"val_id"}
    values, unmoved = found["splits"]["val_id"], found["baselines"]["no_move"]["splits"]["val_id"]
    assert values["positions_adwt_percent"] == pytest.approx(unmoved["positions_adwt_percent"], abs=25.0)
    assert ("energy_mae_ev" in values) == ("mean_energy" in found["baselines"]) == (task == "is2re")
    invoke("models", "verify", model)


def test_a_run_continues_bit_for_bit(invoke: Any) -> None:
    steps = ["--set", "train.checkpoint_every=2", "--set", "train.validate_every=2", "--set", "train.log_every=1"]
    words = ["train", "--task", "is2re", "--sample", *SMALL, *steps, "--set", "train.max_steps=4"]
    invoke(*words, "--out", "whole")
    invoke(*words, "--out", "broken")
    for name in ("result.json", "checkpoints/step-00000004.pt"):
        for path in Path("broken").glob(name):
            path.unlink()
    left = sorted(path.name for path in Path("broken/checkpoints").iterdir())
    assert left, "an earlier checkpoint is there to continue from"
    invoke(*words, "--out", "broken", "--resume")
    assert Path("broken/metrics.jsonl").read_bytes() == Path("whole/metrics.jsonl").read_bytes()


def test_a_system_beyond_the_budget_is_a_message(invoke: Any) -> None:
    result = invoke("train", "--task", "is2rs", "--sample", *SMALL, "--set", "data.batch_atoms=100", code=3)
    assert "more atoms than a batch may hold (100)" in " ".join(result.output.split())


def test_tasks_without_a_sample_say_so(invoke: Any) -> None:
    assert "is2re and is2rs have" in " ".join(invoke("train", "--task", "gap", "--sample", code=2).output.split())
    clash = invoke("train", "--task", "is2rs", "--sample", "--data", "oc20", code=2)
    assert "Leave one of them out" in " ".join(clash.output.split())


def test_molecules_are_no_data_for_a_catalyst_model(invoke: Any) -> None:
    Path("in.csv").write_text("smiles,energy\n" + "CCO,1.0\nCCN,2.0\n" * 5)
    invoke("preprocess", "custom", "in.csv", "--target", "energy", "--conformers", "1", "--out", "molecules")
    result = invoke(
        "train", "--task", "is2re", "--data", "molecules", "--set", "data.valid_split=valid", *SMALL, code=3
    )
    assert "tags and relaxed structures" in " ".join(result.output.split())


@BOTH
def test_prediction_of_the_sample_slabs(invoke: Any, task: str) -> None:
    from ase.io import read

    invoke("train", "--task", task, "--sample", *SMALL)
    manifest = Path(f"models/{task}-geomformer/1/manifest.json")
    content = json.loads(manifest.read_text())
    content["elements"] = dict.fromkeys(content["elements"], 100)  # the sample has too few systems of any element
    manifest.write_text(json.dumps(content))
    source = Path(__file__).parents[2] / "data/samples/oc20/relaxations.extxyz"
    invoke("predict", str(source), "--model", f"{task}-geomformer", "--out", "relaxed.extxyz")
    before, after = read(source, ":"), read("relaxed.extxyz", ":")
    assert len(before) == len(after)
    for initial, relaxed in zip(before, after, strict=True):
        assert relaxed.info["status"] == "ok", relaxed.info
        frozen = initial.constraints[0].index
        assert np.array_equal(initial.positions[frozen], relaxed.positions[frozen])
        assert np.array_equal(initial.get_tags(), relaxed.get_tags())
        assert ("pred_energy_ev" in relaxed.info) == (task == "is2re")
