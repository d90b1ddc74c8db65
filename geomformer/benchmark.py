"""Speed of the network against its floor, measured in one run: machines differ and are shared, ratios travel.
Networks of other architectures are timed without one.

The floor is the time of the projection products of all layers alone, at the same shapes: per layer 11 maps of D x D on
the B * N rows of the invariant stream and 14 on the 3 * B * N rows of the equivariant one. A training step has three
times as many (forward, gradient of the input, gradient of the weights).
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from geomformer.config.geomformer import GeoMFormerConfig
from geomformer.config.load import load_config
from geomformer.config.run import RunConfig
from geomformer.devices import resolve_device
from geomformer.models import build_model
from geomformer.prepared.collate import Sample, collate
from geomformer.prepared.images import ADSORBATE, ImageOptions
from geomformer.records import ATOM_FEATURE_SIZES, BOND_FEATURE_SIZES, MAX_PATH, NUM_ORBITALS, NUM_SHARES, Batch, Record

INVARIANT_MAPS, EQUIVARIANT_MAPS = 11, 14
STEP_PER_FORWARD = 3

CASES = {
    "gap-small": (64, 18),
    "gap-medium": (64, 18),
    "gap-paper": (32, 14),
    "is2re-small": (8, 78),
    "nbody-paper": (100, 5),
}
"""Systems and atoms that each preset is measured with by default."""

DEFAULT_CASE = (32, 18)

SLAB_LAYERS, SLAB_SPACING = 4, 2.6
"""Layers, and Angstrom between neighbours."""


def benchmark_model(
    presets: Sequence[str] = (),
    *,
    architecture: str | None = None,
    systems: int | None = None,
    atoms: Sequence[int] = (),
    device: str = "auto",
    dtype: str = "float32",
    repeats: int = 5,
) -> list[dict[str, Any]]:
    """Measures forward pass and training step of presets.

    Args:
        presets: names; the small and paper sizes of `CASES` by default.
        architecture: of the network that takes the place of the presets' own, as in training.
        systems: in a batch; `CASES` says how many by default.
        atoms: of every system; one measurement for each number. `CASES` by default.
        device: "auto", "cpu" or "cuda"; "auto" takes a GPU if there is one.
        dtype: "float32" or "bfloat16" (autocast).
        repeats: rounds; floor, forward and step are measured in turn in each, the median over rounds counts.

    Returns:
        One object per preset and number of atoms: preset, architecture, parameters, num_layers, embed_dim, systems,
        atoms, tokens (atoms and periodic images of a system that are rows of its streams), pairs (near pairs that are
        listed for a system, copies included; 0 where the network takes all its pairs), device, dtype, forward_ms,
        forward_floor_ms, forward_ratio, step_ms, step_ratio, peak_memory_mb (of the process on a CPU, of the device on
        a GPU). Floor and ratios are None for other architectures than geomformer: the floor counts its products.

    Raises:
        ConfigError: no such preset or architecture, or this machine has no such device.
    """
    device = resolve_device(device)
    lines = []
    for preset in presets or CASES:
        usual_systems, usual_atoms = CASES.get(preset, DEFAULT_CASE)
        for count in atoms or (usual_atoms,):
            config = load_config(preset, [] if architecture is None else [f"model.architecture={architecture}"])
            measured = benchmark_config(
                config, systems or usual_systems, count, device=device, dtype=dtype, repeats=repeats
            )
            lines.append({"preset": preset, **measured})
    return lines


def benchmark_config(
    config: RunConfig, systems: int, atoms: int, *, device: str, dtype: str, repeats: int
) -> dict[str, Any]:
    """Measures the network of a configuration on `systems` systems of `atoms` atoms."""
    reset_peak_memory(device)
    model = build_model(config.model).to(device)
    batch = random_batch(config, systems, atoms).to(device)
    rows = int(batch.mask.sum())
    autocast = torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=dtype == "bfloat16")

    def forward() -> None:
        model.eval()
        with torch.inference_mode(), autocast:
            model(batch)

    def step() -> None:
        model.train()
        with autocast:
            output = model(batch)
        outputs = [value.sum() for value in (output.scalars, output.vectors) if value is not None]
        torch.stack(outputs).sum().backward()
        model.zero_grad(set_to_none=True)

    products = floor_products(config, rows, device, torch.bfloat16 if dtype == "bfloat16" else torch.float32)
    forward_ms, step_ms, *floor = medians([forward, step, *([] if products is None else [products])], device, repeats)
    floor_ms = floor[0] if floor else None
    return {
        "architecture": config.model.architecture,
        "parameters": model.num_parameters,
        "num_layers": config.model.num_layers,
        "embed_dim": config.model.embed_dim,
        "systems": systems,
        "atoms": atoms,
        "tokens": round(rows / systems),
        "pairs": 0 if batch.pairs is None else round(batch.pairs.shape[1] / systems),
        "device": device,
        "dtype": dtype,
        "forward_ms": round(forward_ms, 3),
        "forward_floor_ms": None if floor_ms is None else round(floor_ms, 3),
        "forward_ratio": None if floor_ms is None else round(forward_ms / floor_ms, 3),
        "step_ms": round(step_ms, 3),
        "step_ratio": None if floor_ms is None else round(step_ms / (STEP_PER_FORWARD * floor_ms), 3),
        "peak_memory_mb": round(peak_memory_mb(device), 1),
    }


def floor_products(config: RunConfig, rows: int, device: str, dtype: torch.dtype) -> Callable[[], None] | None:
    """The projection products of all layers, stream pairs and passes, each with weights of its own; None for other
    architectures than geomformer.
    """
    model = config.model
    if not isinstance(model, GeoMFormerConfig):
        return None
    dim = model.embed_dim
    layers = model.num_layers * len(model.streams) * model.passes
    x_inv = torch.randn(rows, dim, device=device, dtype=dtype)
    x_equ = torch.randn(3 * rows, dim, device=device, dtype=dtype)
    weights = [
        torch.randn(INVARIANT_MAPS + EQUIVARIANT_MAPS, dim, dim, device=device, dtype=dtype) for _ in range(layers)
    ]

    def run() -> None:
        with torch.inference_mode():
            for layer in weights:
                maps: tuple[Tensor, ...] = layer.unbind(0)
                for weight in maps[:INVARIANT_MAPS]:
                    F.linear(x_inv, weight)
                for weight in maps[INVARIANT_MAPS:]:
                    F.linear(x_equ, weight)

    return run


def medians(functions: Sequence[Callable[[], None]], device: str, repeats: int) -> list[float]:
    """Median time of each function in ms; the functions take turns, after one round of warm-up."""
    times: list[list[float]] = [[] for _ in functions]
    for round_ in range(repeats + 1):
        for function, found in zip(functions, times, strict=True):
            synchronise(device)
            start = time.perf_counter()
            function()
            synchronise(device)
            if round_:
                found.append((time.perf_counter() - start) * 1e3)
    return [sorted(found)[len(found) // 2] for found in times]


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def reset_peak_memory(device: str) -> None:
    """Forgets earlier peaks, where the system can (Linux, CUDA)."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb(device: str) -> float:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10
    import resource  # there is none on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def random_batch(config: RunConfig, systems: int, atoms: int) -> Batch:
    """Random systems with every input the model may read, the same in every run; slabs for models of crystals."""
    images = ImageOptions.of(config.model, training=True)
    if images is not None and config.model.tags:
        return slabs(systems, atoms, images)
    generator = torch.Generator().manual_seed(0)

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, (systems, atoms, *shape), generator=generator)

    positions = torch.randn(systems, atoms, 3, generator=generator) * 2.0
    cutoff = config.model.pair_cutoff
    bonds = BOND_FEATURE_SIZES[0] * BOND_FEATURE_SIZES[1] * BOND_FEATURE_SIZES[2] + 1
    return Batch(
        positions=positions,
        velocities=torch.randn(systems, atoms, 3, generator=generator),
        mask=torch.ones(systems, atoms, dtype=torch.bool),
        index=torch.arange(systems),
        atomic_numbers=integers(9) + 1,
        particle_charges=integers(2).float() * 2.0 - 1.0,
        atom_features=integers(min(ATOM_FEATURE_SIZES), len(ATOM_FEATURE_SIZES)),
        bond_type=integers(bonds, atoms),
        shortest_path=integers(MAX_PATH, atoms),
        orbital_energies=torch.linspace(-13.0, -3.0, 2 * NUM_ORBITALS).expand(systems, -1),
        orbital_shares=torch.full((systems, atoms, NUM_SHARES), 1.0 / atoms),
        tags=integers(3),
        pairs=None if cutoff is None else pairs_within(positions, cutoff),
    )


def pairs_within(x_BN3: Tensor, cutoff: float) -> Tensor:
    """All pairs of molecules of one size that the data path lists: an atom with itself among them. (2, E)"""
    row, i, j = (torch.cdist(x_BN3, x_BN3) < cutoff).nonzero(as_tuple=True)
    return torch.stack([row * x_BN3.shape[1] + i, row * x_BN3.shape[1] + j])


def slabs(systems: int, atoms: int, images: ImageOptions) -> Batch:
    """Slabs of four layers with an adsorbate of one atom, periodic along their plane, at the density of a metal."""
    rng = np.random.default_rng(0)
    wide = max(1, round((atoms / SLAB_LAYERS) ** 0.5))
    long = -(-atoms // (SLAB_LAYERS * wide))
    places = np.stack(np.meshgrid(range(SLAB_LAYERS), range(long), range(wide), indexing="ij"), -1).reshape(-1, 3)
    sites = SLAB_SPACING * places[:atoms, ::-1]
    layer = places[:atoms, 0]
    tags = np.where(np.arange(atoms) == atoms - 1, ADSORBATE, np.where(layer < SLAB_LAYERS // 2, 0, 1))
    cell = np.diag([SLAB_SPACING * wide, SLAB_SPACING * long, SLAB_SPACING * SLAB_LAYERS + 20.0])
    samples = []
    for index in range(systems):
        positions = (sites + 0.1 * rng.standard_normal(sites.shape)).astype(np.float32)
        record = Record(
            id=str(index),
            positions=positions[None],
            conformer_source=np.zeros(1, np.uint8),
            atomic_numbers=rng.integers(20, 80, atoms).astype(np.uint8),
            cell=cell.astype(np.float32),
            pbc=np.ones(3, bool),
            tags=tags.astype(np.int8),
        )
        samples.append(Sample(record, index, positions))
    return collate(samples, features=False, images=images)
