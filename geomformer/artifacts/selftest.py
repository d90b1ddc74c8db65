"""A small input and its expected output, kept in the artifact: does the model still give the numbers it gave?"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save
from torch import Tensor, nn

from geomformer.artifacts.files import SELFTEST
from geomformer.artifacts.weights import read_tensors
from geomformer.errors import ArtifactError
from geomformer.records import Batch

if TYPE_CHECKING:
    from geomformer.artifacts.store import Artifact

TOLERANCES = {"float32": 1e-4, "float64": 1e-9}
"""Largest error, relative to the largest expected value, by the type the model runs in."""

SMALLEST_SCALE = 0.1
"""Outputs are normalised to about 1; below this the error counts as absolute, since round-off does not shrink."""

OUTPUTS = ("scalars", "vectors")


@dataclass(frozen=True)
class SelfTestResult:
    """Outcome of one self-test.

    Attributes:
        ok: all outputs are within the tolerance.
        max_error: the largest error, relative to the largest expected value of its output; inf if not finite.
        tolerance: what was allowed.
        dtype: type the model ran in.
    """

    ok: bool
    max_error: float
    tolerance: float
    dtype: str


def selftest_bytes(model: nn.Module, batch: Batch) -> bytes:
    """Runs `model` (on the CPU, in eval mode) in float32 and float64 and serialises input and outputs. The model is
    in float32 afterwards.

    Raises:
        ArtifactError: an output is not finite.
    """
    batch = batch.to("cpu")
    tensors = batch_to_tensors(batch)
    for dtype, tolerance in TOLERANCES.items():
        tensors[f"tolerance.{dtype}"] = torch.tensor(tolerance, dtype=torch.float64)
        for name, output in run(model, batch, dtype).items():
            if not torch.isfinite(output).all():
                raise ArtifactError(f"the model's {name} for the self-test input are not finite in {dtype}")
            tensors[f"expected.{dtype}.{name}"] = output
    model.float()
    return save({name: tensor.contiguous() for name, tensor in tensors.items()})


def run_selftest(
    artifact: Artifact, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> SelfTestResult:
    """Runs the stored input through the model and compares with the stored output of the same type.

    Raises:
        ArtifactError: the self-test or the weights cannot be read, or hold nothing for this type.
    """
    path = artifact.path / SELFTEST
    tensors = read_tensors(path)
    kind = str(dtype).removeprefix("torch.")
    prefix = f"expected.{kind}."
    expected = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if not expected or f"tolerance.{kind}" not in tensors:
        raise ArtifactError(f"{path} has no expected output for {kind}; it has them for {', '.join(TOLERANCES)}")
    tolerance = float(tensors[f"tolerance.{kind}"])
    found = run(artifact.model(device), tensors_to_batch(tensors, path).to(device), kind)
    error = max(relative_error(found.get(name), tensor) for name, tensor in expected.items())
    return SelfTestResult(error <= tolerance, error, tolerance, kind)


@torch.no_grad()
def run(model: nn.Module, batch: Batch, dtype: str) -> dict[str, Tensor]:
    kind = getattr(torch, dtype)
    output = model.to(dtype=kind)(batch.to(dtype=kind))
    found = {name: getattr(output, name, None) for name in OUTPUTS}
    return {name: tensor.cpu() for name, tensor in found.items() if tensor is not None}


def relative_error(found: Tensor | None, expected: Tensor) -> float:
    if found is None or found.shape != expected.shape:
        return float("inf")
    if expected.numel() == 0:
        return 0.0
    scale = expected.abs().amax().clamp_min(SMALLEST_SCALE)
    error = float((found - expected).abs().amax() / scale)
    return error if error == error else float("inf")


def batch_to_tensors(batch: Batch) -> dict[str, Tensor]:
    """All tensors of a batch by name: `batch.positions`, ..., `batch.targets.NAME`."""
    tensors: dict[str, Tensor] = {}
    for item in fields(batch):
        value = getattr(batch, item.name)
        if isinstance(value, dict):
            tensors |= {f"batch.{item.name}.{name}": tensor for name, tensor in value.items()}
        elif value is not None:
            tensors[f"batch.{item.name}"] = value
    return {name: tensor.clone() for name, tensor in tensors.items()}


def tensors_to_batch(tensors: dict[str, Tensor], path: Path) -> Batch:
    """Inverse of `batch_to_tensors`.

    Raises:
        ArtifactError: a field is unknown or missing.
    """
    values: dict[str, Tensor] = {}
    targets: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        kind, _, key = name.partition(".")
        if kind == "batch" and key.startswith("targets."):
            targets[key.removeprefix("targets.")] = tensor
        elif kind == "batch":
            values[key] = tensor
    known = {item.name for item in fields(Batch)}
    unknown, missing = set(values) - known, {"positions", "mask", "index"} - set(values)
    if unknown or missing:
        raise ArtifactError(f"{path}: unknown fields {sorted(unknown)}, missing fields {sorted(missing)}")
    return Batch(**values, targets=targets)


def verify(artifact: Artifact | Path) -> list[str]:
    """Checks files against their checksums and runs the self-test in every type it has numbers for.

    Args:
        artifact: a loaded artifact, or the folder of one that may not even load.

    Returns:
        What is wrong, as sentences; nothing if all is well.
    """
    from geomformer.artifacts.store import load_artifact

    path = artifact if isinstance(artifact, Path) else artifact.path
    try:
        loaded = load_artifact(path)
        results = [run_selftest(loaded, getattr(torch, dtype)) for dtype in TOLERANCES]
    except ArtifactError as error:
        return [str(error)]
    return [
        f"self-test in {result.dtype}: relative error {result.max_error:.2g}, allowed {result.tolerance:.2g}"
        for result in results
        if not result.ok
    ]
