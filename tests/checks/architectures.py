"""Every architecture as small networks, for the checks that all of them pass.

An architecture adds its configurations here: atoms, particles, and what else changes its equations.
"""

from __future__ import annotations

import torch
from checks.variants import randomise

from geomformer.config.egnn import EGNNConfig
from geomformer.config.geomformer import GeoMFormerConfig
from geomformer.config.harmonics import HarmonicsConfig
from geomformer.config.network import NetworkConfig
from geomformer.config.painn import PaiNNConfig
from geomformer.config.sake import SAKEConfig
from geomformer.config.torchmd_et import TorchMDETConfig
from geomformer.models import build_model
from geomformer.models.network import Network

ATOMS = {"embed_dim": 32, "num_heads": 4, "num_scalars": 2}
PARTICLES = {**ATOMS, "particles": True, "speed": True, "atom_features": False}
SAKE_SIZE = {**ATOMS, "num_layers": 3, "embed_dim": 16, "num_kernels": 16}
HARMONICS_SIZE = {"num_layers": 2, "channels_1": 6, "channels_2": 4, "radial_dim": 8}

ARCHITECTURES: dict[str, NetworkConfig] = {
    "geomformer": GeoMFormerConfig(num_layers=4, num_kernels=16, **ATOMS),
    "geomformer, two members": GeoMFormerConfig(num_layers=2, num_kernels=16, members=2, **ATOMS),
    "egnn": EGNNConfig(num_layers=3, **{**ATOMS, "embed_dim": 16}),
    "egnn, particles": EGNNConfig(num_layers=3, **PARTICLES),
    "painn": PaiNNConfig(**ATOMS),
    "painn, gaussian, tags": PaiNNConfig(radial_basis="gaussian", tags=True, pooling="sum", **ATOMS),
    "painn, orbitals": PaiNNConfig(orbitals="huckel", **ATOMS),
    "painn, particles": PaiNNConfig(**PARTICLES),
    "torchmd-et": TorchMDETConfig(num_layers=3, num_kernels=16, **ATOMS),
    "torchmd-et, first version": TorchMDETConfig(num_layers=3, vector_cutoff=False, trainable_kernels=True, **ATOMS),
    "torchmd-et, particles": TorchMDETConfig(num_layers=3, **PARTICLES),
    "sake": SAKEConfig(**SAKE_SIZE),
    "sake, cutoff, tags": SAKEConfig(cutoff=4.0, tags=True, pooling="sum", **SAKE_SIZE),
    "sake, particles": SAKEConfig(**{**SAKE_SIZE, **PARTICLES, "embed_dim": 16}),
    "sake, removed": SAKEConfig(spatial="none", num_vectors=0, **SAKE_SIZE),
    "sake, removed, matched": SAKEConfig(spatial="none-matched", num_vectors=0, **SAKE_SIZE),
    "sake, harmonics": SAKEConfig(spatial="harmonics", degrees=(0, 1, 2, 3), **SAKE_SIZE),
    "sake, harmonics 0 and 2": SAKEConfig(spatial="harmonics", degrees=(0, 2), match_channels=False, **SAKE_SIZE),
    "sake, dot products": SAKEConfig(spatial="dot", **SAKE_SIZE),
    "sake, persistent vectors": SAKEConfig(spatial="persistent", **SAKE_SIZE),
    "sake, distances": SAKEConfig(spatial="distances", **SAKE_SIZE),
    "harmonics": HarmonicsConfig(**HARMONICS_SIZE, **ATOMS),
    "harmonics, particles": HarmonicsConfig(**HARMONICS_SIZE, **PARTICLES),
    "harmonics, no degree 2": HarmonicsConfig(**{**HARMONICS_SIZE, "channels_2": 0}, tags=True, pooling="sum", **ATOMS),
}


def build_network(config: NetworkConfig, dtype: torch.dtype = torch.float64) -> Network:
    """A network with random weights, in eval mode."""
    return randomise(build_model(config)).to(dtype).eval()
