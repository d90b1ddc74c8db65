"""What the `model` sections of all architectures share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from geomformer.config.section import Section
from geomformer.records import OrbitalMethod, orbital_method

Orbitals = Annotated[OrbitalMethod, BeforeValidator(orbital_method)]


class NetworkConfig(Section):
    """Size, inputs and outputs of a network; each architecture adds what its equations need.

    The properties say what the data path must bring: they hold for every architecture, whatever its own keys are.
    """

    architecture: str = Field(description="network family")
    num_layers: int = Field(4, ge=1, description="layers")
    embed_dim: int = Field(128, ge=1, description="channels D of the streams")
    num_heads: int = Field(8, ge=1, description="attention heads; groups of channels in `pooling: attention`")
    particles: bool = Field(False, description="inputs are charged particles instead of atoms")
    speed: bool = Field(False, description="embed |velocity| as an invariant input")
    atom_features: bool = Field(True, description="embed the nine 2D atom features")
    orbitals: Orbitals = Field(
        "none", description="embed frontier orbitals of extended Hückel theory (huckel) or GFN1-xTB (xtb)"
    )
    tags: bool = Field(False, description="embed the OC20 tag (subsurface, surface, adsorbate)")
    num_scalars: int = Field(1, ge=0, description="scalar targets per system")
    pooling: Literal["mean", "sum", "attention"] = Field("attention", description="from atoms to a scalar")
    num_vectors: int = Field(1, ge=0, description="vectors per atom")
    members: int = Field(1, ge=1, description="networks whose outputs are averaged (`models combine`); 1 in training")

    @property
    def reads_graph(self) -> bool:
        """Whether the network reads what stands beside the geometry of a molecule: its 2D graph (atom features, bonds,
        paths) or its frontier orbitals.
        """
        return self.atom_features or self.orbitals != "none"

    @property
    def pair_cutoff(self) -> float | None:
        """Angstrom, up to which pairs of atoms, periodic copies included, are listed for the network; None for none."""
        return None

    @property
    def token_cutoff(self) -> float | None:
        """Angstrom from the adsorbate, within which periodic images become atoms of their own; None for none."""
        return None

    @property
    def token_limit(self) -> int | None:
        """Atoms and such images kept in training; None for all."""
        return None

    @property
    def periodic(self) -> bool:
        """Whether the network sees periodic copies of atoms."""
        return False

    @property
    def splits_channels(self) -> bool:
        """Whether channels are divided among the heads; the pooling does so, and attention in layers that have it."""
        return self.pooling == "attention" and self.num_scalars > 0

    @model_validator(mode="after")
    def _heads_fit(self) -> NetworkConfig:
        if self.splits_channels and self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} must be a multiple of num_heads {self.num_heads}")
        return self


class PairListConfig(NetworkConfig):
    """A network that sums over pairs of atoms within a cutoff."""

    images: Literal["none", "keys"] = Field(
        "none", description="periodic copies of atoms: not read, or every copy within `neighbour_cutoff` of an atom"
    )
    neighbour_cutoff: float = Field(5.0, gt=0, description="Angstrom, up to which atoms are neighbours")

    @property
    def pair_cutoff(self) -> float | None:
        # Of particles, which are few and have no copies, all pairs are taken (`nn.neighbours.find_edges`).
        return None if self.particles else self.neighbour_cutoff

    @property
    def periodic(self) -> bool:
        return self.images != "none"
