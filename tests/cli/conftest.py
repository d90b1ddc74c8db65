"""Environment of command lines that tests start as processes of their own, and what commands leave behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import geomformer_cli
from geomformer_cli.app import app

PACKAGES = Path(geomformer_cli.__file__).parents[1]


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Finds the packages under test from any folder, installed or not."""
    path = os.pathsep.join([str(PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "GEOMFORMER_MODELS": "models", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs a command line in an empty folder and checks its exit code, 0 unless `code` says otherwise."""
    monkeypatch.chdir(tmp_path)
    for name in ("GEOMFORMER_DATA", "GEOMFORMER_MODELS"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str, code: int = 0) -> Result:
        result = CliRunner().invoke(app, list(words))
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture(scope="session")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of data with a small N-body dataset."""
    root = tmp_path_factory.mktemp("data")
    words = ["preprocess", "nbody", "--num-systems", "30", "12", "14", "--out", str(root / "prepared/nbody")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return root
