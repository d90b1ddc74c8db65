"""`geomformer ablate` as it is typed: table and picture, interruption, refusals."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from geomformer.ablation.plan import plan_names

PLAN = """
title: Feed-forward networks
source: nobody's table
task: nbody
data: nbody
base:
  extends: nbody-small
  model: {num_layers: 1, embed_dim: 8, ffn_dim: 8, num_heads: 2, num_kernels: 4}
  data: {batch_size: 10}
  train: {max_steps: 4, validate_every: 2, log_every: 1}
variants:
  no-ffn: {model: {inv_ffn: false, equ_ffn: false}}
seeds: 2
metrics: [test/positions_mse]
paper: {form: change, numbers: {nbody: {no-ffn: 21.3}}}
quick: {seeds: 1, limit: 5, changes: {train: {max_steps: 2}}}
"""
STEPS = 150
LONG = ["--set", f"train.max_steps={STEPS}", "--set", "train.checkpoint_every=25", "--set", "train.validate_every=1000"]


@pytest.fixture
def run(invoke: Any, monkeypatch: pytest.MonkeyPatch, particles: Path) -> Any:
    monkeypatch.setenv("GEOMFORMER_DATA", str(particles))
    Path("mine.yaml").write_text(PLAN)
    return invoke


def test_a_plan_gives_a_table_and_a_picture(run: Any) -> None:
    found = run("ablate", "mine.yaml", "--out", "ab")
    assert found.stdout.strip() == Path("ab/table.md").read_text().strip()
    assert "| no-ffn |" in found.stdout and "+21.3 %" in found.stdout and "quick" not in found.stdout
    assert Path("ab/plot.png").read_bytes().startswith(b"\x89PNG")
    assert "[1/4] base seed 1: positions_mse " in found.stderr and "[4/4] no-ffn seed 2: " in found.stderr
    again = run("ablate", "mine.yaml", "--out", "ab", "--json")
    assert json.loads(again.stdout) == json.loads(Path("ab/table.json").read_text())
    assert "4 runs, of which 4 are finished already" in again.stderr and "[" not in again.stderr
    run("models", "verify", "ab/models/no-ffn-s2/1")


def test_quick_is_another_folder_and_says_so(run: Any) -> None:
    found = run("ablate", "mine.yaml", "--quick", "--variant", "base")
    assert "(quick, not the full plan)" in found.stdout and "prove nothing" in found.stdout
    manifest = json.loads(Path("ablations/mine-quick/ablation.json").read_text())
    assert manifest["quick"] is True and manifest["limit"] == 5
    refused = run("ablate", "mine.yaml", "--out", "ablations/mine-quick", code=2)
    assert "holds the quick plan mine" in " ".join(refused.output.split())


def test_refusals_name_the_variant_and_what_differs(run: Any) -> None:
    run("ablate", "mine.yaml", "--out", "ab", "--seeds", "1", "--variant", "base")
    refused = run("ablate", "mine.yaml", "--out", "ab", "--set", "optim.eps=1e-9", code=2)
    assert "holds runs of variant base with optim.eps 1e-08, found 1e-09" in " ".join(refused.output.split())
    Path("mine.yaml").write_text(PLAN.replace("inv_ffn", "inv_fnn"))
    refused = run("ablate", "mine.yaml", "--out", "new", code=2)
    message = " ".join(refused.output.split())
    assert "plan mine, variant no-ffn: unknown key 'model.inv_fnn'. Did you mean 'inv_ffn'?" in message
    assert not Path("new").exists()
    assert "Did you mean 'nbody-ffn'" in run("ablate", "nbody-fn", code=2).output
    assert "geomformer preprocess md17 --molecule aspirin" in " ".join(
        run("ablate", "md17-attention-energy", code=3).output.split()
    )


def test_a_failed_run_is_a_row_and_nothing_but_failures_an_error(run: Any) -> None:
    hot = "  hot: {optim: {learning_rate: 1.0e+12, clip_norm: null, warmup_fraction: 0.0}}\n"
    Path("mine.yaml").write_text(PLAN.replace("seeds: 2", f"{hot}seeds: 1"))
    found = run("ablate", "mine.yaml", "--out", "ab", "--variant", "hot")
    assert "[2/2] hot seed 1: failed: Training has diverged" in found.stderr
    assert "- hot, seed 1: Training has diverged" in found.stdout
    forced = ["--set", "optim.learning_rate=1e12", "--set", "optim.clip_norm=null", "--set", "optim.warmup_fraction=0"]
    Path("mine.yaml").write_text(PLAN)
    lost = run("ablate", "mine.yaml", "--out", "lost", "--seeds", "1", *forced, code=1)
    assert "None of 2 runs succeeded" in " ".join(lost.output.split()) and not Path("error.log").exists()


def test_the_same_metric_of_two_splits_is_told_apart(run: Any) -> None:
    Path("mine.yaml").write_text(PLAN.replace("[test/positions_mse]", "[test/positions_mse, valid/positions_mse]"))
    found = run("ablate", "mine.yaml", "--out", "ab", "--seeds", "1", "--variant", "base")
    line = next(line for line in found.stderr.splitlines() if line.startswith("[1/1]"))
    values = json.loads(Path("ab/results/base-s1.json").read_text())["metrics"]
    for split in ("test", "valid"):
        assert f"{split}/positions_mse {values[split]['positions_mse']:.4g}" in line


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_command_continues(
    run: Any, environment: dict[str, str], particles: Path, number: signal.Signals
) -> None:
    words = ["ablate", "mine.yaml", "--out", "ab", "--seeds", "1", "--variant", "base", "--data-root", str(particles)]
    words += LONG
    command = [sys.executable, "-m", "geomformer_cli", *words]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not list(Path("ab/runs/base-s1/checkpoints").glob("step-*.pt")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        error = process.communicate(timeout=60)[1]
    if number == signal.SIGINT:
        assert process.returncode == 130 and "the same command continues" in error
    reached = max(int(path.stem[5:]) for path in Path("ab/runs/base-s1/checkpoints").glob("step-*.pt"))
    assert reached < STEPS and not Path("ab/results/base-s1.json").exists()
    found = run(*words)
    assert f"from step {reached} to {STEPS}" in Path("ab/runs/base-s1/log.txt").read_text()
    assert "[1/1] base seed 1: positions_mse" in found.stderr and "| base |" in found.stdout


def test_the_list_names_all_plans(run: Any) -> None:
    table = run("ablate").stdout
    assert all(name in table for name in plan_names()) and "Table 10" in table
    listed = json.loads(run("ablate", "--list", "--json").stdout)
    assert [line["plan"] for line in listed] == plan_names()
