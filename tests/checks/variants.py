"""Every switch of the model, each as a change to one small configuration."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

from geomformer.config.geomformer import GeoMFormerConfig
from geomformer.models.geomformer import GeoMFormer

M = TypeVar("M", bound=nn.Module)

SMALL: dict[str, Any] = {"embed_dim": 32, "ffn_dim": 48, "num_heads": 4, "num_kernels": 16, "num_scalars": 2}

PARTICLES: dict[str, Any] = {
    "particles": True,
    "atom_features": False,
    "bond_encoding": False,
    "path_encoding": False,
}

PAIRS: dict[str, Any] = {**PARTICLES, "streams": ("positions", "velocities"), "speed": True}

SWITCHES = (
    "inv_self_attention",
    "inv_cross_attention",
    "equ_self_attention",
    "equ_cross_attention",
    "inv_ffn",
    "equ_ffn",
    "inv_norm",
    "equ_norm",
    "structural_encoding",
    "bias_per_head",
    "atom_features",
    "bond_encoding",
    "path_encoding",
)

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    **{f"no {name}": {name: False} for name in SWITCHES},
    "tags": {"tags": True},
    "orbitals": {"orbitals": "huckel"},
    "parallel": {"wiring": "parallel"},
    "e3": {"group": "e3"},
    "e3 rms": {"group": "e3", "norm": "rms"},
    "e3 without norm": {"group": "e3", "equ_norm": False},
    "rms": {"norm": "rms"},
    "neighbours": {"equivariant_input": "neighbours"},
    "pairwise": {"kernel_affine": "pairwise"},
    "uniform kernels": {"kernel_start": "uniform"},
    "mean": {"pooling": "mean"},
    "sum": {"pooling": "sum"},
    "three vectors": {"num_vectors": 3},
    "scalars only": {"num_vectors": 0},
    "vectors only": {"num_scalars": 0},
    "particles": PARTICLES,
    "pairs": PAIRS,
    "pairs, neighbours": {**PAIRS, "equivariant_input": "neighbours"},
    "positions and velocities in one pair": {**PAIRS, "streams": ("motion",), "kernel_affine": "pairwise"},
    "one pair, neighbours": {**PAIRS, "streams": ("motion",), "equivariant_input": "neighbours"},
    "one pair, e3": {**PAIRS, "streams": ("motion",), "group": "e3"},
    "two passes": {"passes": 2},
    "two passes, neighbours": {"passes": 2, "equivariant_input": "neighbours"},
    "three passes, e3": {"passes": 3, "group": "e3"},
    "velocities only": {**PARTICLES, "streams": ("velocities",)},
}


def build(num_layers: int = 12, dtype: torch.dtype = torch.float64, **changes: Any) -> GeoMFormer:
    """A small model with random weights, in eval mode."""
    model = GeoMFormer(GeoMFormerConfig(num_layers=num_layers, **{**SMALL, **changes}))
    return randomise(model).to(dtype).eval()


@torch.no_grad()
def randomise(model: M) -> M:
    """Adds noise to every tensor that starts constant (scales, shifts, last maps), so that all of them are seen."""
    for parameter in model.parameters():
        if parameter.numel() == 1 or bool((parameter == parameter.flatten()[0]).all()):
            parameter += 0.1 * torch.randn_like(parameter)
    return model
