"""Message passing with spherical harmonics up to degree 2 and tensor products (Thomas et al., 2018; the layers follow
NequIP, Batzner et al., Nat. Commun. 13, 2453, 2022), for comparisons. Legend: `nn.ops`; A places of atoms, E pairs.

Features are 0e + 1o + 2e: scalars, vectors and symmetric traceless tensors; reflections turn them as they turn polar
vectors, so the network is equivariant under O(3). With u_ij the direction and d_ij the length from i to j:

    message   m_i = n^(-1/2) sum_j R(d_ij) [ (W_up z_j) (x) Y(u_ij) ]      R(d) = mlp(bessel(d)) f(d)
    update    z_i += gate(W_out m_i + W_self z_i)

over the other atoms within the cutoff, f the cosine cutoff, (x) all paths of the tensor product that end in 0e, 1o or
2e, each with weights of its own from the radial network; the gate is SiLU for scalars, and multiplies the others by
sigmoids of scalars. Vectors of particles enter as degree 1. The heads read the degrees 0 and 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from geomformer.config.harmonics import HarmonicsConfig
from geomformer.errors import ConfigError
from geomformer.models.network import ModelOutput, Network, VelocityInput, atom_inputs, category_sizes, num_numbers
from geomformer.nn.basis import cosine_cutoff
from geomformer.nn.encodings import AtomEmbedding
from geomformer.nn.neighbours import Edges, find_edges, sum_over_queries
from geomformer.nn.ops import lookup
from geomformer.nn.radial import BesselRBF, other_pairs, unit_vectors
from geomformer.records import Batch

if TYPE_CHECKING:
    from e3nn import o3


class Harmonics(Network):
    """Layers of tensor products, then the heads on degrees 0 and 1."""

    def __init__(self, config: HarmonicsConfig) -> None:
        super().__init__(config)
        irreps = hidden_irreps(config)
        self.config: HarmonicsConfig = config
        self.embedding = AtomEmbedding(config.embed_dim, category_sizes(config), num_numbers(config))
        self.velocity_input = VelocityInput(config.channels_1) if config.particles and config.speed else None
        self.rbf = BesselRBF(config.num_kernels, config.neighbour_cutoff)
        with torch.device("cpu"):  # e3nn computes its constants while it builds, which needs memory that is there
            self.layers = nn.ModuleList(TensorLayer(config, irreps) for _ in range(config.num_layers))
        self.to_vectors = nn.Linear(config.channels_1, config.embed_dim, bias=False)
        self.rest = irreps.dim - config.embed_dim - 3 * config.channels_1
        self.make_heads(config.embed_dim)

    def forward(self, batch: Batch, atom_weight: Tensor | None = None) -> ModelOutput:
        """Runs the network, in the type of its parameters; see `Network.forward`."""
        from e3nn import o3

        inputs = atom_inputs(self.config, batch)
        with torch.autocast(batch.positions.device.type, enabled=False):
            edges = find_edges(batch.positions, batch.mask, batch.pairs, batch.pair_shifts)
            y_EY = o3.spherical_harmonics([0, 1, 2], unit_vectors(edges), normalize=False, normalization="component")
            weight_E = cosine_cutoff(edges.d, self.config.neighbour_cutoff) * other_pairs(edges)
            rbf_EK = self.rbf(edges.d)
            z_AI = self.first_features(batch, self.embedding(inputs.categories, inputs.numbers).flatten(0, 1))
            for layer in self.layers:
                z_AI = z_AI + layer(z_AI, edges, y_EY, rbf_EK, weight_E)
            z_inv, z_equ = (z.unflatten(0, batch.mask.shape) for z in self.streams(z_AI))
        scalars, vectors = self.read_out(batch, z_inv, z_equ, atom_weight)
        return ModelOutput(scalars, vectors, [z_inv], [z_equ])

    def first_features(self, batch: Batch, scalars_AD: Tensor) -> Tensor:
        """Degree 0 from what atoms are, degree 1 from the velocities of particles, the rest zero. (A, I)"""
        vectors = scalars_AD.new_zeros(len(scalars_AD), 3 * self.config.channels_1)
        if self.velocity_input is not None:
            vectors = self.velocity_input(batch).flatten(0, 1).mT.flatten(1)  # channels first, then x, y, z
        return torch.cat([scalars_AD, vectors, scalars_AD.new_zeros(len(scalars_AD), self.rest)], -1)

    def streams(self, z_AI: Tensor) -> tuple[Tensor, Tensor]:
        """Degree 0 (A, D) and degree 1 (A, 3, D)."""
        dim, channels = self.config.embed_dim, self.config.channels_1
        vectors_AC3 = z_AI[:, dim : dim + 3 * channels].unflatten(1, (channels, 3))
        return z_AI[:, :dim], self.to_vectors(vectors_AC3.mT)


class TensorLayer(nn.Module):
    """gate(W_out m_i + W_self z_i).

    The state dict holds the learnt weights alone: the tables of e3nn (coupling coefficients, masks) are constants whose
    names change between its versions.
    """

    def __init__(self, config: HarmonicsConfig, irreps: o3.Irreps) -> None:
        super().__init__()
        from e3nn import nn as enn
        from e3nn import o3

        others = o3.Irreps([item for item in irreps if item.ir.l])
        gates = o3.Irreps([(others.num_irreps, "0e")])
        scalars = o3.Irreps([(config.embed_dim, "0e")])
        with plain_code():
            self.gate = enn.Gate(scalars, [torch.nn.functional.silu], gates, [torch.sigmoid], others)
            self.up = o3.Linear(irreps, irreps)
            self.product = tensor_product(irreps)
            self.out = o3.Linear(self.product.irreps_out.simplify(), self.gate.irreps_in)
            self.itself = o3.Linear(irreps, self.gate.irreps_in)
        self.radial = radial_network(config, self.product.weight_numel)
        self.norm = config.average_neighbours**-0.5
        self.register_state_dict_post_hook(drop_tables)
        self.register_load_state_dict_pre_hook(add_tables)

    def forward(self, z_AI: Tensor, edges: Edges, y_EY: Tensor, rbf_EK: Tensor, weight_E: Tensor) -> Tensor:
        """Features (A, I) -> what the layer adds to them (A, I). Y counts the 9 harmonics."""
        weights_EW = self.radial(rbf_EK) * (self.norm * weight_E)[:, None]
        messages = self.product(lookup(self.up(z_AI), edges.key), y_EY, weights_EW)
        total = sum_over_queries(messages, edges, len(z_AI))
        return self.gate(self.out(total) + self.itself(z_AI))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TensorLayer:
        super()._apply(fn, recurse)
        refresh_coefficients(self.product)  # e3nn keeps them in float32, which would stay in a network made float64
        return self


def hidden_irreps(config: HarmonicsConfig) -> o3.Irreps:
    """Degrees 0e, 1o and 2e with their channels.

    Raises:
        ConfigError: e3nn is not installed.
    """
    try:
        from e3nn import o3
    except ImportError as error:
        raise ConfigError(
            "Architecture harmonics needs e3nn, which is not installed.", "pip install 'geomformer[ablations]'"
        ) from error
    channels = [(config.embed_dim, "0e"), (config.channels_1, "1o"), (config.channels_2, "2e")]
    return o3.Irreps([item for item in channels if item[0]])


def tensor_product(irreps: o3.Irreps) -> Any:
    """Products of features with harmonics along all paths back to the degrees of the features, one weight per path and
    channel, given from outside.
    """
    from e3nn import o3

    harmonics = o3.Irreps.spherical_harmonics(2)
    kept = {item.ir for item in irreps}
    ends: list[tuple[int, o3.Irrep]] = []
    paths: list[tuple[int, int, int, str, bool]] = []
    for left, item in enumerate(irreps):
        for right, harmonic in enumerate(harmonics):
            for ir in item.ir * harmonic.ir:
                if ir in kept:
                    paths.append((left, right, len(ends), "uvu", True))
                    ends.append((item.mul, ir))
    order = sorted(range(len(ends)), key=lambda place: ends[place][1])
    place = {old: new for new, old in enumerate(order)}
    paths = [(left, right, place[end], mode, weighted) for left, right, end, mode, weighted in paths]
    out = o3.Irreps([ends[old] for old in order])
    return o3.TensorProduct(irreps, harmonics, out, paths, shared_weights=False, internal_weights=False)


def radial_network(config: HarmonicsConfig, num_weights: int) -> nn.Sequential:
    """R(d) without its cutoff, from radial functions (E, K) to weights (E, W)."""
    first, last = nn.Linear(config.num_kernels, config.radial_dim), nn.Linear(config.radial_dim, num_weights)
    for linear in (first, last):
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")  # messages start as large as what they add to
        nn.init.zeros_(linear.bias)
    return nn.Sequential(first, nn.SiLU(), last)


@contextmanager
def plain_code() -> Iterator[None]:
    """e3nn builds its modules without TorchScript, which copies and saves badly, whatever its version's default is."""
    import e3nn

    before = e3nn.get_optimization_defaults()
    e3nn.set_optimization_defaults(jit_script_fx=False)
    try:
        yield
    finally:
        e3nn.set_optimization_defaults(**before)


def refresh_coefficients(product: nn.Module) -> None:
    """Puts coupling coefficients at the precision of the network in place of rounded ones."""
    from e3nn import o3

    for name, table in product.named_buffers():
        if "_w3j_" in name:
            degrees = [int(degree) for degree in name.rsplit("_", 3)[1:]]
            table.copy_(o3.wigner_3j(*degrees, dtype=torch.float64))


def drop_tables(layer: nn.Module, state: dict[str, Any], prefix: str, _: object) -> None:
    for name, _table in layer.named_buffers():
        del state[prefix + name]


def add_tables(layer: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    state.update({prefix + name: table for name, table in layer.named_buffers()})
