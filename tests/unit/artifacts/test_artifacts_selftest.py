from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from geomformer.artifacts.selftest import relative_error, run_selftest, tensors_to_batch, verify
from geomformer.artifacts.weights import read_tensors
from geomformer.errors import ArtifactError
from geomformer.records import Batch

Save = Callable[..., object]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_a_fresh_artifact_passes(tmp_path: Path, save: Save, dtype: torch.dtype, tolerance: float) -> None:
    result = run_selftest(save(tmp_path), dtype)
    assert result.ok
    assert result.max_error <= 0.01 * tolerance
    assert result.tolerance == tolerance


def test_the_stored_batch_is_the_whole_batch(tmp_path: Path, save: Save, batch: Batch) -> None:
    path = save(tmp_path).path / "selftest.safetensors"
    stored = tensors_to_batch(read_tensors(path), path)
    for item in fields(Batch):
        expected, found = getattr(batch, item.name), getattr(stored, item.name)
        if expected is None:
            assert found is None
        elif item.name == "targets":
            torch.testing.assert_close(found["gap"], expected["gap"], equal_nan=True)
        else:
            assert torch.equal(found, expected), item.name


@pytest.mark.parametrize(("factor", "float32_ok", "float64_ok"), [(1.0, True, True), (1 + 1e-6, True, False)])
def test_a_small_change_of_one_weight_fails_in_float64(
    tmp_path: Path, save: Save, factor: float, float32_ok: bool, float64_ok: bool
) -> None:
    artifact = save(tmp_path)
    change(artifact.path, factor)
    assert run_selftest(artifact, torch.float32).ok is float32_ok
    assert run_selftest(artifact, torch.float64).ok is float64_ok


def test_a_large_change_fails_in_float32(tmp_path: Path, save: Save) -> None:
    artifact = save(tmp_path)
    change(artifact.path, 1.01)
    assert not run_selftest(artifact, torch.float32).ok


def change(path: Path, factor: float) -> None:
    file = path / "model.safetensors"
    tensors = load_file(file)
    for name, tensor in tensors.items():
        if name.startswith("scalar_head"):
            tensors[name] = tensor * factor
    save_file(tensors, file)


def test_verify_reports_files_and_numbers(tmp_path: Path, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = save(tmp_path)
    assert verify(artifact) == []
    monkeypatch.setattr("geomformer.artifacts.selftest.relative_error", lambda found, expected: 0.5)
    assert verify(artifact.path) == [
        "self-test in float32: relative error 0.5, allowed 0.0001",
        "self-test in float64: relative error 0.5, allowed 1e-09",
    ]
    change(artifact.path, 1.01)
    (problem,) = verify(artifact)
    assert "model.safetensors is damaged" in problem
    assert "no model" in verify(tmp_path / "nothing")[0] or "neither a model folder" in verify(tmp_path / "nothing")[0]


def test_unknown_types_and_fields_are_artifact_errors(tmp_path: Path, save: Save) -> None:
    artifact = save(tmp_path)
    with pytest.raises(ArtifactError, match="no expected output for bfloat16"):
        run_selftest(artifact, torch.bfloat16)
    with pytest.raises(ArtifactError, match=r"unknown fields \['colour'\], missing fields \['index', 'mask'"):
        tensors_to_batch({"batch.colour": torch.zeros(1)}, artifact.path)


def test_relative_error_sees_nan_shapes_and_absent_outputs() -> None:
    one = torch.ones(2, 2)
    assert relative_error(None, one) == float("inf")
    assert relative_error(torch.ones(2), one) == float("inf")
    assert relative_error(one * float("nan"), one) == float("inf")
    assert relative_error(one * 2.5, one * 2) == pytest.approx(0.25)
    assert relative_error(torch.zeros(0), torch.zeros(0)) == 0.0


def test_a_model_with_infinite_output_cannot_be_saved(tmp_path: Path, save: Save) -> None:
    model = save(tmp_path).model()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("scalar_head") and parameter.ndim == 2:
                parameter.fill_(3e38)
    with pytest.raises(ArtifactError, match="scalars for the self-test input are not finite"):
        save(tmp_path, model=model)
