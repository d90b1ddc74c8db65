"""The commands one after another on a few real molecules, and a training stopped by Ctrl-C."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from geomformer_cli.app import app

SMILES = ("CCO", "CCN", "c1ccccc1", "CC(=O)O", "CCC", "C1CCCCC1", "OCC=O", "NCCO", "CC#N", "COC", "CCF", "C=CC=C")
SMALL = [
    *("--set", "model.num_layers=1", "--set", "model.embed_dim=16", "--set", "model.ffn_dim=16"),
    *("--set", "model.num_heads=2", "--set", "model.num_kernels=4", "--set", "data.batch_size=4"),
]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """A folder with prepared data, made by the command in a process of its own."""
    folder = tmp_path_factory.mktemp("work")
    rows = [f"{smiles},{5 + 0.25 * number}" for number, smiles in enumerate(SMILES * 2)]
    (folder / "in.csv").write_text("\n".join(["smiles,gap_ev", *rows, "not a molecule,5.0"]) + "\n")
    words = [
        "preprocess",
        "custom",
        "in.csv",
        "--target",
        "gap_ev",
        "--conformers",
        "2",
        "--workers",
        "2",
        "--out",
        "whole",
    ]
    found = subprocess.run(
        command(*words, "--out", "whole"), cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout == "whole\n"
    assert "\x1b" not in found.stderr and "\r" not in found.stderr
    return folder


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "geomformer_cli", *words]


@pytest.fixture
def run(work: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(work)
    monkeypatch.delenv("GEOMFORMER_MODELS", raising=False)

    def invoke(*words: str) -> Result:
        return CliRunner().invoke(app, list(words))

    return invoke


def test_a_missing_column_names_the_nearest(run: Any) -> None:
    found = run("preprocess", "custom", "in.csv", "--target", "gap_eV", "--out", "other")
    assert found.exit_code == 2
    assert "'gap_ev'" in found.stderr


def test_training_without_data_says_what_to_do(run: Any) -> None:
    found = run("train", "--task", "gap", "--data", "nowhere")
    assert found.exit_code == 3
    assert "geomformer preprocess" in found.stderr


def test_from_training_to_prediction(run: Any, work: Path) -> None:
    found = run("train", "--task", "gap", "--data", "whole", "--set", "train.max_steps=2", *SMALL, "--name", "tiny")
    assert (found.exit_code, found.stdout) == (0, "tiny@1\n"), found.stderr
    assert "parameters" in found.stderr and "projected time" in found.stderr
    listed = {line["model"]: line for line in json.loads(run("models", "list", "--json").stdout)}
    assert listed["tiny@1"]["task"] == "gap"
    assert run("models", "verify", "tiny").stdout == f"{Path('models/tiny/1')}: ok\n"
    assert "tiny" in run("models", "show", "tiny").stdout
    assert run("models", "export", "tiny", "--out", "tiny.zip").stdout == "tiny.zip\n"
    assert run("models", "export", "tiny", "--out", "tiny.zip").exit_code == 2
    words = [
        "--data",
        "whole",
        "--set",
        "train.max_steps=2",
        *SMALL,
        "--name",
        "twin",
        "--seed",
        "2",
        "--out",
        "other-run",
    ]
    assert run("train", "--task", "gap", *words).stdout == "twin@1\n"
    found = run("models", "combine", "tiny", "twin", "--name", "mean")
    assert found.stdout == "mean@1\n", found.stderr
    assert run("models", "verify", "mean").exit_code == 0
    assert run("models", "combine", "tiny", "--name", "mean").exit_code == 2
    found = run("evaluate", "--task", "gap", "--model", "tiny", "--split", "valid", "--json")
    assert set(json.loads(found.stdout)["splits"]) == {"valid"}, found.stderr
    assert (work / "evaluations" / "tiny@1-whole" / "metrics.json").is_file()
    found = run("predict", "in.csv", "--out", "gaps.csv", "--model", "tiny", "--conformers", "1", "--workers", "1")
    assert found.exit_code in (0, 3), found.stderr
    with (work / "gaps.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2 * len(SMILES) + 1
    (work / "models" / "tiny" / "1" / "config.yaml").write_text("changed")
    found = run("models", "verify", "tiny")
    assert found.exit_code == 4
    assert "config.yaml" in found.stdout


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_ctrl_c_saves_and_says_how_to_continue(work: Path, environment: dict[str, str]) -> None:
    words = ["train", "--task", "gap", "--data", "whole", "--set", "train.log_every=1", *SMALL, "--out", "stopped"]
    with subprocess.Popen(
        command(*words), cwd=work, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as training:
        wait_for(work / "stopped" / "metrics.jsonl")
        training.send_signal(signal.SIGINT)
        _, said = training.communicate(timeout=60)
    assert training.returncode == 130, said
    assert "geomformer train --task gap --out stopped --resume" in said
    assert list((work / "stopped" / "checkpoints").glob("step-*.pt"))


def wait_for(path: Path) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and not path.exists():
        time.sleep(0.05)
