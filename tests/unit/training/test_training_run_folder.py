from __future__ import annotations

import json
import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from checks.molecules import toy_config

from geomformer.errors import ConfigError, DataError
from geomformer.training import run_folder
from geomformer.training.run_folder import RunFolder, load_checkpoint


def new_folder(path: Path) -> RunFolder:
    folder = RunFolder(path / "run", resume=False)
    folder.create(toy_config(), {"fingerprint": "abc"})
    return folder


def state(step: int) -> dict[str, Any]:
    return {"position": {"step": step}, "model": {"w": torch.full((2,), float(step))}}


def names(folder: RunFolder) -> list[str]:
    return sorted(path.name for path in folder.checkpoints.iterdir())


def test_an_existing_run_is_refused_and_a_missing_one_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run to resume") as missing:
        RunFolder(tmp_path / "run", resume=True)
    folder = new_folder(tmp_path)
    with pytest.raises(ConfigError, match=r"already holds a run.*--resume") as existing:
        RunFolder(folder.path, resume=False)
    assert missing.value.exit_code == existing.value.exit_code == 2
    again = RunFolder(folder.path, resume=True)
    assert again.config() == toy_config() and again.facts()["fingerprint"] == "abc"


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    (folder.path / "manifest.json").write_text('{"format_version": 99}')
    with pytest.raises(DataError, match="update geomformer"):
        RunFolder(folder.path, resume=True)


def test_the_last_two_checkpoints_and_the_best_are_kept(tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    assert folder.load_last() is None
    for step in (3, 6, 9, 12):
        folder.save_checkpoint(state(step), step, best=step == 6)
    assert names(folder) == ["best.pt", "step-00000009.pt", "step-00000012.pt"]
    last, best = folder.load_last(), folder.load_best()
    assert last is not None
    assert (last["position"]["step"], best["position"]["step"]) == (12, 6)
    folder.save_checkpoint(state(15), 15, best=True)
    assert folder.load_best()["position"]["step"] == 15


def test_checkpoints_load_with_weights_only_and_hostile_ones_do_not(tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    folder.save_checkpoint(state(1), 1, best=True)
    assert torch.load(folder.checkpoints / "best.pt", weights_only=True)["model"]["w"].tolist() == [1.0, 1.0]

    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "touched"),))

    torch.save({"model": Hostile()}, tmp_path / "hostile.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Hostile(), protocol=2))
    for name in ("hostile.pt", "old.pt"):
        with pytest.raises(DataError, match="cannot be read as a checkpoint"):
            load_checkpoint(tmp_path / name)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 not a checkpoint", b"garbage"])
def test_a_damaged_last_checkpoint_costs_some_steps_only(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    folder = new_folder(tmp_path)
    for step in (3, 6):
        folder.save_checkpoint(state(step), step, best=False)
    (folder.checkpoints / "step-00000006.pt").write_bytes(damage)
    found = folder.load_last()
    assert found is not None and found["position"]["step"] == 3
    assert "step-00000006.pt" in caplog.text
    (folder.checkpoints / "step-00000003.pt").write_bytes(damage)
    with pytest.raises(DataError, match=r"step-00000003\.pt"):
        folder.load_last()


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_crash_while_writing_leaves_the_old_checkpoint(tmp_path: Path, moment: str, monkeypatch: Any) -> None:
    folder = new_folder(tmp_path)
    folder.save_checkpoint(state(3), 3, best=True)
    before = {path.name: path.read_bytes() for path in folder.checkpoints.iterdir()}

    def crash(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(*((os, "fsync") if moment == "fsync" else (Path, "replace")), crash)
        folder.save_checkpoint(state(6), 6, best=True)
    for name, content in before.items():
        assert (folder.checkpoints / name).read_bytes() == content
    last = folder.load_last()
    assert last is not None and last["position"]["step"] == 3
    folder.save_checkpoint(state(6), 6, best=True)
    assert names(folder) == ["best.pt", "step-00000003.pt", "step-00000006.pt"]


def test_a_kill_between_the_two_names_never_loses_the_best(tmp_path: Path, monkeypatch: Any) -> None:
    """A state that says "this was the best" must not be the last checkpoint while best.pt is an older one."""
    folder = new_folder(tmp_path)
    folder.save_checkpoint(state(3), 3, best=True)
    replaced = []
    original = Path.replace

    def replace_once(source: Path, target: Path) -> Path:
        if replaced:
            raise KeyboardInterrupt
        replaced.append(target)
        return original(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", replace_once)
        folder.save_checkpoint(state(6), 6, best=True)
    last = folder.load_last()
    assert last is not None
    assert folder.load_best()["position"]["step"] >= last["position"]["step"]


def test_without_hard_links_the_best_is_copied(tmp_path: Path, monkeypatch: Any) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(run_folder.os, "link", refuse)
    folder = new_folder(tmp_path)
    folder.save_checkpoint(state(3), 3, best=True)
    assert names(folder) == ["best.pt", "step-00000003.pt"]
    assert folder.load_best()["position"]["step"] == 3


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    """Real ENOSPC needs a small file system; a limit on the size of files fails in the same place."""
    folder = new_folder(tmp_path)
    folder.save_checkpoint(state(3), 3, best=True)
    code = f"""
import resource, signal, sys, torch
from pathlib import Path
from geomformer.training.run_folder import RunFolder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = RunFolder(Path({str(folder.path)!r}), resume=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
try:
    folder.save_checkpoint({{"position": {{"step": 6}}, "w": torch.zeros(100000)}}, 6, True)
except OSError:
    sys.exit(7)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=120).returncode == 7
    last = folder.load_last()
    assert last is not None and last["position"]["step"] == 3
    assert folder.load_best()["position"]["step"] == 3


def test_metrics_after_the_checkpoint_are_dropped_with_a_cut_last_line(tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    for step in (2, 4, 5, 6):
        folder.append("metrics.jsonl", {"step": step, "value": 0.1 * step})
        folder.append("timing.jsonl", {"step": step})
    folder.close()
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "valid/gap_mae_ev": 0.12')
    folder.truncate_metrics(5)
    lines = (folder.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 5]
    assert json.loads(lines[1]) == {"step": 4, "value": 0.4}
    assert len((folder.path / "timing.jsonl").read_text().splitlines()) == 3
    folder.append("metrics.jsonl", {"step": 6})
    folder.close()
    assert (folder.path / "metrics.jsonl").read_text().splitlines()[-1] == '{"step": 6}'
    folder.truncate_metrics(0)
    assert (folder.path / "metrics.jsonl").read_text() == ""


def test_the_log_holds_warnings_and_the_end(tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    with pytest.raises(ConfigError), folder.logging():
        logging.getLogger("geomformer.somewhere").warning("be careful")
        raise ConfigError("no good")
    logging.getLogger("geomformer.somewhere").warning("not in here")
    text = (folder.path / "log.txt").read_text()
    assert "be careful" in text and "ConfigError: no good" in text and "not in here" not in text
