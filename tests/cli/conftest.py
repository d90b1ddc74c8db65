"""Environment of command lines that tests start as processes of their own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import geomformer_cli

PACKAGES = Path(geomformer_cli.__file__).parents[1]


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Finds the packages under test from any folder, installed or not."""
    path = os.pathsep.join([str(PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "GEOMFORMER_MODELS": "models", "OMP_NUM_THREADS": "1"}
