"""Weights as safetensors: no pickle, no code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from geomformer.config.network import NetworkConfig
from geomformer.errors import ArtifactError
from geomformer.models import build_model

WEIGHT_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Types that floating-point weights may have on disk; in memory they are float32."""


def weights_to_bytes(state: Mapping[str, Tensor], dtype: str = "float32") -> bytes:
    """Serialises a state dict.

    Raises:
        ArtifactError: `dtype` is unknown, or a weight is not finite or does not fit into `dtype`.
    """
    if dtype not in WEIGHT_DTYPES:
        raise ArtifactError(f"weights can be stored as {', '.join(WEIGHT_DTYPES)}, not as '{dtype}'")
    tensors = {}
    for name, tensor in state.items():
        stored = tensor.detach().to("cpu", WEIGHT_DTYPES[dtype] if tensor.is_floating_point() else None)
        if not torch.isfinite(stored).all():
            raise ArtifactError(
                f"weight '{name}' has values that are not finite{'' if dtype == 'float32' else f' in {dtype}'}",
                "The training has diverged: use an earlier checkpoint or a lower learning rate.",
            )
        tensors[name] = stored.clone(memory_format=torch.contiguous_format)
    return save(tensors)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads a safetensors file.

    Raises:
        ArtifactError: it is missing or damaged.
    """
    try:
        return load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}", "Copy or download the model again.") from error


def load_network(config: NetworkConfig, tensors: Mapping[str, Tensor], where: str) -> nn.Module:
    """Builds the network in float32 on the CPU, in eval mode, and fills in its weights. Draws no random numbers from
    the global generator.

    Raises:
        ArtifactError: weights and configuration do not belong together; the tensors are named.
    """
    with torch.random.fork_rng(devices=[]):
        model = build_model(config)
    expected = model.state_dict()
    problems = [f"{name} is missing" for name in expected if name not in tensors]
    problems += [f"{name} is not expected" for name in tensors if name not in expected]
    problems += [
        f"{name} has shape {tuple(tensor.shape)} instead of {tuple(expected[name].shape)}"
        for name, tensor in tensors.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ArtifactError(f"{where} does not fit its configuration: {'; '.join(problems[:3])}{more}")
    model.load_state_dict(dict(tensors), strict=True)
    return model.eval()
