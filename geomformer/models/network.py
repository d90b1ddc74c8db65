"""What the networks of all architectures share: what they read of a batch, their heads, and what they return."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from geomformer.config.network import NetworkConfig
from geomformer.nn.heads import ScalarHead, VectorHead
from geomformer.nn.ops import lookup, safe_norm
from geomformer.records import ATOM_FEATURE_SIZES, NUM_ORBITALS, NUM_SHARES, Batch, OrbitalMethod

V = TypeVar("V")

NUM_ELEMENTS = 119
NUM_TAGS = 3
ORBITAL_STATISTICS: dict[OrbitalMethod, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "huckel": ((-13.1, -12.8, -12.5, -12.1, -8.3, -6.8, -5.3, -3.5), (0.65, 0.55, 0.55, 0.65, 2.5, 3.3, 3.9, 4.4)),
    "xtb": ((-2.9, -2.6, -2.3, -9.6, 1.8, 2.7, 3.6, 4.3), (0.95, 0.85, 0.85, 0.9, 1.0, 1.2, 1.4, 1.5)),
}
"""Mean and standard deviation of what `scaled_energies` scales, eV, over 21,000 (Hückel) and 8,000 molecules of
PubChemQC."""
ORBITAL_LIMIT = 5.0
"""Standard deviations: beyond, free orbitals of small saturated molecules only say that they are high."""
SHARE_SCALE = 5.0
"""Brings the shares of the atoms of such molecules, whose mean is their inverse number, to order one."""


@dataclass
class ModelOutput:
    """What a model returns. B systems, N atoms, T scalars, V vectors, P stream pairs.

    Attributes:
        scalars: (B, T), or None without scalar targets.
        vectors: (B, N, V, 3), or None; zero at padding.
        z_inv, z_equ: final streams of each pair, (B, N, D) and (B, N, 3, D).
        members: what each network of a committee returns; empty for one network.
    """

    scalars: Tensor | None
    vectors: Tensor | None
    z_inv: list[Tensor]
    z_equ: list[Tensor]
    members: Sequence[ModelOutput] = ()


@dataclass
class AtomInputs:
    """Invariant inputs of the atoms: types (B, N), categories (B, N, F) or None, numbers (B, N, F) or None."""

    types: Tensor
    categories: Tensor | None
    numbers: Tensor | None


class Network(nn.Module):
    """A network on a `Batch`: its own layers, then one scalar and one vector head.

    A subclass builds its layers, calls `make_heads`, and hands its streams to `read_out`.
    """

    scalar_head: ScalarHead | None
    vector_head: VectorHead | None
    tag_weight: nn.Parameter | None

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def forward(self, batch: Batch, atom_weight: Tensor | None = None) -> ModelOutput:
        """Runs the network.

        Args:
            batch: the systems.
            atom_weight: (B, N), which atoms the scalar head reads; see `pooled_atoms` for the default.
        """

    def make_heads(self, width: int, *, vectors: bool = True, dropout: float = 0.0) -> None:
        """Builds the heads.

        Args:
            width: channels of both streams.
            vectors: whether the vector head makes the vectors; False where the layers do.
            dropout: of the scalar head.
        """
        config = self.config
        self.scalar_head = None
        if config.num_scalars:
            self.scalar_head = ScalarHead(width, config.num_scalars, config.pooling, config.num_heads, dropout)
        weighted = config.tags and config.pooling == "sum" and config.num_scalars > 0
        self.tag_weight = nn.Parameter(0.01 * torch.randn(NUM_TAGS)) if weighted else None
        self.vector_head = VectorHead(width, config.num_vectors) if vectors and config.num_vectors else None
        if self.vector_head is not None:
            self.vector_head.reset_last()

    def read_out(
        self, batch: Batch, z_inv_BND: Tensor, z_equ_BN3D: Tensor | None, atom_weight: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Scalars (B, T) and vectors (B, N, V, 3), each None without a head; in the type of the positions, whatever the
        autocast type.
        """
        weight_BN = self.pooled_atoms(batch) if atom_weight is None else atom_weight
        scalars = vectors = None
        with torch.autocast(batch.positions.device.type, enabled=False):
            inv = z_inv_BND.to(batch.positions.dtype)
            if self.scalar_head is not None:
                scalars = self.scalar_head(inv, weight_BN)
            if self.vector_head is not None:
                equ = required(z_equ_BN3D, "vectors").to(batch.positions.dtype)
                vectors = self.vector_head(inv, equ).transpose(-1, -2) * batch.own[:, :, None, None]
        return scalars, vectors

    def pooled_atoms(self, batch: Batch) -> Tensor:
        """(B, N), weights of the atoms that scalars are made of: all of the system, or those that may move (tag 1 and
        2, if there are any) where tags are read, each kind with a learnt weight if it is a sum (Graphormer-3D).
        """
        if not self.config.tags:
            return batch.own
        tags_BN = required(batch.tags, "tags")
        moving_BN = batch.own & (tags_BN > 0)
        moving_BN = torch.where(moving_BN.any(1, keepdim=True), moving_BN, batch.own)
        return moving_BN if self.tag_weight is None else moving_BN * lookup(self.tag_weight, tags_BN)

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())


class VelocityInput(nn.Module):
    """v_i w: the first vectors of particles. (B, N, 3, D)

    They start small: layers made for vectors that start at zero multiply them with each other, and from speeds of 1 on
    each layer of a fresh PaiNN raises them to the third power.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(dim))

    def forward(self, batch: Batch) -> Tensor:
        v_BN3 = required(batch.velocities, "velocities") * batch.mask[..., None]
        return v_BN3[..., None] * self.weight


def reset_xavier(model: nn.Module) -> None:
    """Starts all linear maps of a model uniformly after Glorot and Bengio (2010), their biases at zero."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def num_types(config: NetworkConfig) -> int:
    """Kinds of atoms: elements, or the two signs of charge."""
    return 2 if config.particles else NUM_ELEMENTS


def category_sizes(config: NetworkConfig) -> list[int]:
    """Number of values of every categorical input that `atom_inputs` gathers."""
    sizes = [] if config.particles else [NUM_ELEMENTS]
    if config.atom_features:
        sizes += ATOM_FEATURE_SIZES
    if config.tags:
        sizes.append(NUM_TAGS)
    return sizes


def num_numbers(config: NetworkConfig) -> int:
    """Number of real-valued inputs that `atom_inputs` gathers."""
    return int(config.particles) + int(config.speed) + (config.orbitals != "none") * (2 * NUM_ORBITALS + NUM_SHARES)


def atom_inputs(config: NetworkConfig, batch: Batch) -> AtomInputs:
    """Gathers the invariant inputs that the configuration names from the batch."""
    categories: list[Tensor] = []
    numbers: list[Tensor] = []
    if config.particles:
        charges = required(batch.particle_charges, "particle charges")
        types = (charges > 0).long()
        numbers.append(charges[..., None].to(batch.positions.dtype))
    else:
        types = required(batch.atomic_numbers, "atomic numbers")
        categories.append(types[..., None])
    if config.atom_features:
        categories.append(required(batch.atom_features, "2D atom features"))
    if config.tags:
        categories.append(required(batch.tags, "tags")[..., None])
    if config.speed:
        numbers.append(safe_norm(required(batch.velocities, "velocities"))[..., None])
    if config.orbitals != "none":
        numbers += frontier_numbers(batch, config.orbitals)
    return AtomInputs(
        types,
        torch.cat(categories, -1) if categories else None,
        torch.cat(numbers, -1) if numbers else None,
    )


def frontier_numbers(batch: Batch, method: OrbitalMethod) -> list[Tensor]:
    """Orbital energies of the molecule, at every atom, and the atom's shares; 0 where there are none.
    [(B, N, 8), (B, N, 4)]
    """
    energies_BK = required(batch.orbital_energies, "frontier orbitals")
    scaled_BK = scaled_energies(energies_BK, method)
    shares_BNS = SHARE_SCALE * required(batch.orbital_shares, "frontier orbitals")
    energies_BNK = scaled_BK[:, None].expand(-1, batch.mask.shape[1], -1)
    return [numbers.nan_to_num(0.0).to(batch.positions.dtype) for numbers in (energies_BNK, shares_BNS)]


def scaled_energies(energies_BK: Tensor, method: OrbitalMethod) -> Tensor:
    """Orbital energies of order one; NaN where there are none. (B, 8)

    Those of GFN1-xTB move by several eV with the charge of a molecule: they are taken from the middle of the gap, and
    the middle stands in the place of the highest occupied one, as far below it as the lowest unoccupied one is above.
    """
    if method == "xtb":
        occupied_BK, free_BK = energies_BK.split(NUM_ORBITALS, dim=1)
        middle_B1 = 0.5 * (occupied_BK[:, -1:] + free_BK[:, :1])
        energies_BK = torch.cat([occupied_BK[:, :-1] - middle_B1, middle_B1, free_BK - middle_B1], dim=1)
    means_K, scales_K = map(energies_BK.new_tensor, ORBITAL_STATISTICS[method])
    return ((energies_BK - means_K) / scales_K).clamp(-ORBITAL_LIMIT, ORBITAL_LIMIT)


def required(value: V | None, name: str) -> V:
    if value is None:
        raise ValueError(f"the model reads {name}, the batch has none")
    return value
