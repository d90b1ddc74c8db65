"""The benchmark of the model, at its smallest."""

from __future__ import annotations

import pytest
import torch

from geomformer.benchmark import CASES, benchmark_model
from geomformer.config.load import preset_names
from geomformer.errors import ConfigError

FIELDS = (
    *("preset", "num_layers", "embed_dim", "systems", "atoms", "tokens", "pairs", "device", "dtype", "forward_ms"),
    *("forward_floor_ms", "forward_ratio", "step_ms", "step_ratio", "peak_memory_mb"),
)


def test_a_line_holds_what_is_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CASES, "nbody-small", (2, 3))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (line,) = benchmark_model(["nbody-small"], repeats=1)
    assert tuple(line) == FIELDS
    assert (line["systems"], line["atoms"], line["device"]) == (2, 3, "cpu")
    assert line["forward_ms"] > 0 and line["forward_floor_ms"] > 0 and line["step_ms"] > line["forward_ms"] / 10
    assert line["forward_ratio"] == pytest.approx(line["forward_ms"] / line["forward_floor_ms"], rel=0.05)


def test_an_absent_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="0 usable CUDA devices"):
        benchmark_model(["nbody-small"], device="cuda")


def test_default_presets_exist() -> None:
    assert set(CASES) <= set(preset_names())


def test_slabs_grow_in_pairs_or_in_tokens() -> None:
    keys = benchmark_model(["is2re-small"], systems=1, atoms=[16, 32], device="cpu", repeats=1)
    assert [line["tokens"] for line in keys] == [16, 32]
    assert 1.5 < keys[1]["pairs"] / keys[0]["pairs"] < 2.5, "as many neighbours per atom"
