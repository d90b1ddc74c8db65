"""Every failure ends with a sentence on stderr and its exit code."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

import geomformer.api
from geomformer.errors import ArtifactError, ConfigError, DataError, GeomformerError, Interrupted, ResourceError
from geomformer_cli import failures
from geomformer_cli.app import app


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs `predict` with a library that raises."""
    monkeypatch.chdir(tmp_path)

    def run(error: BaseException, *flags: str) -> Result:
        def predict(*args: Any, **kwargs: Any) -> None:
            raise error

        monkeypatch.setattr(geomformer.api, "predict", predict)
        return CliRunner().invoke(app, [*flags, "predict", "a.sdf", "--out", "b.csv"])

    return run


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (GeomformerError("expected this", "do that"), 1),
        (ConfigError("expected this", "do that"), 2),
        (DataError("expected this", "do that"), 3),
        (ArtifactError("expected this", "do that"), 4),
        (ResourceError("expected this", "do that"), 5),
        (Interrupted("expected this", "do that"), 130),
    ],
)
def test_errors_for_users(fail: Any, tmp_path: Path, error: GeomformerError, code: int) -> None:
    found = fail(error)
    assert found.exit_code == code
    assert "expected this" in found.stderr and "do that" in found.stderr
    assert "Traceback" not in found.stderr
    assert found.stdout == ""
    assert not (tmp_path / "error.log").exists()


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (MemoryError(), 5, "--workers"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 5, "batch_atoms"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"), 5, "batch_atoms"),
        (KeyboardInterrupt(), 130, "input is unchanged"),
        (OSError(errno.ENOSPC, "No space left on device", "b.csv"), 3, "disk is full while writing b.csv"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.sdf"), 3, "a.sdf"),
        (PermissionError(errno.EACCES, "Permission denied", "b.csv"), 3, "Permission denied"),
        (OSError(errno.EROFS, "Read-only file system", "runs"), 3, "runs: Read-only file system"),
    ],
)
def test_failures_that_can_be_foreseen(fail: Any, tmp_path: Path, error: Any, code: int, said: str) -> None:
    found = fail(error)
    assert found.exit_code == code
    assert said in found.stderr
    assert not (tmp_path / "error.log").exists()


@pytest.mark.parametrize("error", [ValueError("odd [bold]thing"), FileNotFoundError("nothing to name"), KeyError("k")])
def test_the_unexpected_goes_to_the_log(fail: Any, tmp_path: Path, error: Exception) -> None:
    found = fail(error)
    assert found.exit_code == 1
    assert str(error) in found.stderr and "error.log" in found.stderr
    assert "Traceback" not in found.stderr
    assert f"{type(error).__name__}: {error}" in (tmp_path / "error.log").read_text()
    fail(error)
    assert (tmp_path / "error.log").read_text().count("Traceback") == 2


def test_the_unexpected_is_shown_where_no_log_can_be_written(
    fail: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "ERROR_LOG", tmp_path / "missing" / "error.log")
    found = fail(ValueError("odd"))
    assert found.exit_code == 1
    assert "Traceback" in found.stderr


def test_verbose_shows_tracebacks(fail: Any) -> None:
    assert "Traceback" in fail(DataError("expected this"), "--verbose").stderr


def test_quiet_keeps_errors(fail: Any) -> None:
    assert "input is unchanged" in fail(KeyboardInterrupt(), "--quiet").stderr
    assert "expected this" in fail(DataError("expected this"), "--quiet").stderr


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path, environment: dict[str, str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "geomformer_cli", "config", "list"]
    found = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, cwd=tmp_path, timeout=60, env=environment)
    os.close(writer)
    assert found.returncode == failures.BROKEN_PIPE
    assert found.stderr == b""
    assert not (tmp_path / "error.log").exists()
