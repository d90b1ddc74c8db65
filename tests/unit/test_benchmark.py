"""The benchmark of the model, at its smallest."""

from __future__ import annotations

import pytest
import torch

from geomformer.benchmark import CASES, benchmark_model, random_batch
from geomformer.config.load import load_config, preset_names
from geomformer.errors import ConfigError
from geomformer.models import build_model
from geomformer.nn.neighbours import find_edges

FIELDS = (
    *("preset", "architecture", "parameters", "num_layers", "embed_dim", "systems", "atoms", "tokens", "pairs"),
    *("device", "dtype", "forward_ms"),
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


def test_other_architectures_have_no_floor() -> None:
    (line,) = benchmark_model(["gap-small"], architecture="painn", systems=2, atoms=[6], device="cpu", repeats=1)
    assert tuple(line) == FIELDS and line["architecture"] == "painn"
    assert (
        line["parameters"] == build_model(load_config("gap-small", ["model.architecture=painn"]).model).num_parameters
    )
    assert line["forward_ms"] > 0 and line["step_ms"] > 0
    assert [name for name, value in line.items() if value is None] == [
        "forward_floor_ms",
        "forward_ratio",
        "step_ratio",
    ]


def test_pairs_are_those_within_the_cutoff() -> None:
    config = load_config("gap-small", ["model.architecture=painn", "model.neighbour_cutoff=4"])
    batch = random_batch(config, 3, 7)
    edges = find_edges(batch.positions, batch.mask, None, None)
    near = edges.d < 4.0
    assert 21 < near.sum() < len(near)
    assert batch.pairs is not None and torch.equal(batch.pairs, torch.stack([edges.query, edges.key])[:, near])


def test_an_unknown_architecture_is_said() -> None:
    with pytest.raises(ConfigError, match="found 'pain'"):
        benchmark_model(["gap-small"], architecture="pain", device="cpu", repeats=1)


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
