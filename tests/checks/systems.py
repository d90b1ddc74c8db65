"""Small systems of every kind of geometry, and what can be done to a batch of them.

Every batch carries all inputs a model may read (atoms and particles, 2D graph, velocities), so that one batch serves
all configurations and architectures. Everything is float64; use `Batch.to(dtype=...)`.
"""

from __future__ import annotations

from dataclasses import fields, replace
from math import prod

import torch
from torch import Tensor

from geomformer.records import ATOM_FEATURE_SIZES, BOND_FEATURE_SIZES, MAX_PATH, NUM_ORBITALS, NUM_SHARES, Batch

OF_SYSTEMS = ("index", "orbital_energies")
PAIRWISE = ("bond_type", "shortest_path")
VECTORS = ("positions", "velocities", "forces", "target_positions")
COINCIDENT = "all at one place"
NUM_BOND_TYPES = 1 + prod(BOND_FEATURE_SIZES)


def geometries() -> dict[str, Tensor]:
    """Positions (n, 3) in Angstrom by kind, turned so that no plane or line lies along an axis."""
    flat = 2.0 * torch.randn(8, 3, dtype=torch.float64) * torch.tensor([1.0, 1.0, 0.0])
    ripple = 1e-3 * torch.randn(8, 1, dtype=torch.float64) * torch.tensor([0.0, 0.0, 1.0])
    arm = 1.5 * torch.randn(3, 3, dtype=torch.float64)
    line = torch.tensor([[-2.6], [-1.2], [0.1], [1.3], [2.9]], dtype=torch.float64) * torch.tensor([1.0, 0.0, 0.0])
    shapes = {
        "generic": 2.0 * torch.randn(9, 3, dtype=torch.float64),
        "planar": flat,
        "nearly planar": flat + ripple,
        "linear": line,
        "two atoms": torch.tensor([[0.0, 0.0, 0.0], [1.1, 0.0, 0.0]], dtype=torch.float64),
        "one atom": torch.zeros(1, 3, dtype=torch.float64),
        "atom at centroid": torch.cat([torch.zeros(1, 3, dtype=torch.float64), arm, -arm]),
        "linear, atom at centroid": torch.tensor([[0.0], [1.16], [-1.16]]).double() * torch.tensor([1.0, 0.0, 0.0]),
        COINCIDENT: torch.zeros(4, 3, dtype=torch.float64),
    }
    turn = orthogonal(1)
    return {kind: positions @ turn.T for kind, positions in shapes.items()}


def system(positions: Tensor) -> Batch:
    """One system with random inputs at `positions` (n, 3); velocities lie in the span of the positions."""
    n = positions.shape[0]
    numbers = torch.tensor([1, 6, 7, 8, 9, 16])[torch.randint(6, (1, n))]
    centred = positions - positions.mean(0)
    return Batch(
        positions=positions[None].clone(),
        mask=torch.ones(1, n, dtype=torch.bool),
        index=torch.zeros(1, dtype=torch.long),
        atomic_numbers=numbers,
        atom_features=random_features(1, n),
        bond_type=symmetric(torch.randint(NUM_BOND_TYPES, (1, n, n))),
        shortest_path=symmetric(torch.randint(MAX_PATH + 2, (1, n, n))),
        orbital_energies=(2.0 * torch.randn(1, 2 * NUM_ORBITALS, dtype=torch.float64) - 10.0).sort().values,
        orbital_shares=torch.rand(1, n, NUM_SHARES, dtype=torch.float64),
        particle_charges=torch.randint(2, (1, n)).double() * 2.0 - 1.0,
        velocities=(torch.randn(n, n, dtype=torch.float64) @ centred / n)[None],
        tags=torch.randint(3, (1, n)),
    )


def random_features(*shape: int) -> Tensor:
    return torch.stack([torch.randint(size, shape) for size in ATOM_FEATURE_SIZES], -1)


def symmetric(x_BNN: Tensor) -> Tensor:
    upper = x_BNN.triu(1)
    return upper + upper.mT


def all_geometries(*, apart: bool = False) -> Batch:
    """One padded batch with a system of every kind of `geometries`; `apart`: of those whose atoms are at different
    places, for networks that read unit vectors between atoms.
    """
    kinds = {kind: positions for kind, positions in geometries().items() if not (apart and kind == COINCIDENT)}
    return stack([system(positions) for positions in kinds.values()])


def stack(systems: list[Batch]) -> Batch:
    """Pads batches to a common number of atoms, with zeros, and joins them."""
    width = max(item.mask.shape[1] for item in systems)
    columns = {}
    for name in tensor_names(systems[0]):
        columns[name] = torch.cat([widen(name, getattr(item, name), width) for item in systems])
    return Batch(**columns)


def tensor_names(batch: Batch) -> list[str]:
    return [item.name for item in fields(batch) if isinstance(getattr(batch, item.name), Tensor)]


def widen(name: str, value: Tensor, width: int) -> Tensor:
    if name in OF_SYSTEMS:
        return value
    shape = list(value.shape)
    shape[1] = width
    shape[2:3] = [width] if name in PAIRWISE else shape[2:3]
    wide = value.new_zeros(shape)
    wide[tuple(slice(0, size) for size in value.shape)] = value
    return wide


def alone(batch: Batch, row: int) -> Batch:
    """The system at `row`, without padding."""
    return reorder(
        Batch(**{name: getattr(batch, name)[row : row + 1] for name in tensor_names(batch)}),
        batch.mask[row].nonzero().flatten(),
    )


def reorder(batch: Batch, order_N: Tensor) -> Batch:
    """Atoms (padding included) in another order, the same for all systems."""
    columns = {}
    for name in tensor_names(batch):
        value = getattr(batch, name)
        columns[name] = value if name in OF_SYSTEMS else value[:, order_N]
        if name in PAIRWISE:
            columns[name] = columns[name][:, :, order_N]
    return Batch(**columns)


def with_garbage(batch: Batch, extra: int) -> Batch:
    """`extra` more padded atoms, and nonsense in every input at every padded place."""
    names = tensor_names(batch)
    wide = Batch(**{name: widen(name, getattr(batch, name), batch.mask.shape[1] + extra) for name in names})
    b, n = wide.mask.shape
    nonsense = {
        "positions": 7.0 * torch.randn(b, n, 3),
        "velocities": 7.0 * torch.randn(b, n, 3),
        "atomic_numbers": torch.randint(1, 119, (b, n)),
        "atom_features": random_features(b, n),
        "orbital_shares": torch.randn(b, n, NUM_SHARES),
        "particle_charges": torch.randn(b, n),
        "tags": torch.randint(3, (b, n)),
        "bond_type": torch.randint(NUM_BOND_TYPES, (b, n, n)),
        "shortest_path": torch.randint(MAX_PATH + 2, (b, n, n)),
    }
    changed = {}
    for name, noise in nonsense.items():
        value = getattr(wide, name)
        keep = wide.mask[:, :, None] & wide.mask[:, None, :] if name in PAIRWISE else wide.mask
        keep = keep.reshape(keep.shape + (1,) * (value.dim() - keep.dim()))
        changed[name] = torch.where(keep, value, noise.to(value.dtype))
    return replace(wide, **changed)


def turned(batch: Batch, matrix_33: Tensor) -> Batch:
    """Every vector multiplied by a matrix."""
    names = [name for name in VECTORS if getattr(batch, name) is not None]
    return replace(batch, **{name: getattr(batch, name) @ matrix_33.to(batch.positions.dtype).T for name in names})


def shifted(batch: Batch, shift_3: Tensor) -> Batch:
    """Real atoms moved by one vector."""
    moved = batch.positions + shift_3.to(batch.positions.dtype)
    return replace(batch, positions=torch.where(batch.mask[..., None], moved, batch.positions))


def orthogonal(determinant: int) -> Tensor:
    """A random rotation (determinant 1) or rotation with reflection (-1), float64."""
    q, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    return q * (determinant * torch.linalg.det(q).sign())
