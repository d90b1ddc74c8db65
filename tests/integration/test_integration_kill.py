"""Training killed without warning at any moment, and resumed."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checks.molecules import toy_config, toy_splits, write_dataset

from geomformer.config.load import to_yaml
from geomformer.prepared.dataset import PreparedDataset
from geomformer.training.run import TrainResult, train
from geomformer.training.run_folder import load_checkpoint

CHILD = """
import os, signal, sys, threading
from pathlib import Path
from geomformer import api
from geomformer.config.load import load_config

folder, data, where = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def report(line):
    if "event" in line or len(line) > 2:
        return
    if where == f"step {line['step']}":
        die()
    if where == f"interrupt after {line['step']}":
        threading.Timer(1.5, os.killpg, (0, signal.SIGINT)).start()

renames = 0
replace = Path.replace

def dying_replace(source, target):
    global renames
    renames += "checkpoints" in str(target)
    if where == f"rename {renames}":
        die()
    return replace(source, target)

Path.replace = dying_replace
api.train(load_config(data / "config.yaml"), out=folder, root=data, models=data / "models", name="toy", device="cpu",
          resume=(folder / "manifest.json").exists(), report=report)
"""
pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kill")
    write_dataset(folder / "prepared" / "toy", toy_splits())
    (folder / "config.yaml").write_text(to_yaml(toy_config()))
    return folder


def fit(root: Path, out: str, resume: bool = False) -> TrainResult:
    data = PreparedDataset(root / "prepared" / "toy")
    return train(toy_config(), data, out=root / out, models=root / "models", name="toy", resume=resume, device="cpu")


@pytest.fixture(scope="module")
def whole(root: Path) -> TrainResult:
    return fit(root, "whole")


def child(folder: Path, root: Path, where: str) -> subprocess.CompletedProcess[str]:
    """Trains in a session of its own; `root` holds config.yaml and the data."""
    threads = str(torch.get_num_threads())  # sums are split among threads: another number rounds otherwise
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": threads}
    words = [sys.executable, "-c", CHILD, str(folder), str(root), where]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, start_new_session=True)


def killed(root: Path, out: str, where: str) -> None:
    found = child(root / out, root, where)
    assert found.returncode == -signal.SIGKILL, found.stderr


def assert_same(resumed: TrainResult, whole: TrainResult) -> None:
    assert (resumed.run / "metrics.jsonl").read_bytes() == (whole.run / "metrics.jsonl").read_bytes()
    for name in ("model.safetensors", "selftest.safetensors", "config.yaml"):
        assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes(), name
    assert resumed.metrics == whole.metrics
    last = [load_checkpoint(run / "checkpoints" / "step-00000017.pt") for run in (resumed.run, whole.run)]
    for part in ("model", "average"):
        assert all((last[0][part][name] == value).all() for name, value in last[1][part].items())
    first, second = (sorted(path.name for path in (run / "checkpoints").iterdir()) for run in (resumed.run, whole.run))
    assert first == second


def test_killed_twice_at_random_steps(root: Path, whole: TrainResult) -> None:
    steps = sorted(random.SystemRandom().sample(range(1, 17), 2))
    for step in steps:
        killed(root, "killed", f"step {step}")
    with (root / "killed" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 16, "train/ga')
    print(f"killed at steps {steps}")
    assert_same(fit(root, "killed", resume=True), whole)


@pytest.mark.parametrize("rename", [1, 3])
def test_killed_while_a_file_is_replaced(rename: int, root: Path, whole: TrainResult) -> None:
    """The first checkpoint (step 3), and that of step 5 when best.pt is there already."""
    out = f"rename-{rename}"
    killed(root, out, f"rename {rename}")
    assert_same(fit(root, out, resume=True), whole)


def test_ctrl_c_while_data_workers_start_saves_the_state(root: Path, tmp_path: Path) -> None:
    """The signal goes to all processes of the terminal, about when the second epoch starts its workers."""
    (tmp_path / "prepared").symlink_to(root / "prepared")
    (tmp_path / "config.yaml").write_text(to_yaml(toy_config(data={"workers": 2}, train={"max_steps": 60})))
    found = child(tmp_path / "run", tmp_path, "interrupt after 6")
    stopped = re.search(r"Stopped at step (\d+) of 60; the state is saved", found.stderr)
    assert stopped is not None, found.stderr
    assert (tmp_path / "run" / "checkpoints" / f"step-{int(stopped[1]):08d}.pt").exists()
