"""One artifact of every format that was ever released: each must load and give its numbers forever."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from geomformer.artifacts.selftest import run_selftest, verify
from geomformer.artifacts.store import load_artifact
from geomformer.artifacts.upgrade import FORMAT_VERSION

HERE = Path(__file__).parent


def test_every_format_has_its_artifact() -> None:
    found = sorted(int(folder.name.removeprefix("format-")) for folder in HERE.glob("format-*"))
    assert found == list(range(1, FORMAT_VERSION + 1))


@pytest.mark.parametrize("version", range(1, FORMAT_VERSION + 1))
def test_artifacts_of_all_formats_load_and_give_their_numbers(version: int) -> None:
    artifact = load_artifact("tiny@1", HERE / f"format-{version}")
    assert artifact.manifest.format_version == FORMAT_VERSION
    assert artifact.manifest.answer == "gap"
    assert artifact.manifest.supported_elements() == {6, 7, 8}
    assert verify(artifact) == []
    for dtype in (torch.float32, torch.float64):
        result = run_selftest(artifact, dtype)
        assert result.ok
        assert result.max_error < result.tolerance
