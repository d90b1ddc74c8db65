"""Input layers of both streams and the structural encoding (paper section 4.2 and appendix A). Legend: `nn.ops`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from geomformer.nn.basis import AtomAffine, GaussianBasis, PairAffine, cosine_cutoff
from geomformer.nn.neighbours import Edges, bias_over_copies, sum_over_queries
from geomformer.nn.ops import direction, lookup, safe_norm

DIRECTION_EPS = 0.1
"""Angstrom. An atom this close to the origin of its direction has a short direction, so that moving it by a
hundredth of that changes little."""


class AtomEmbedding(nn.Module):
    """Z^{I,0}_i: the sum of one embedding per categorical input of an atom and a linear map of its numbers.

    Args:
        dim: D.
        sizes: number of values of each categorical input.
        num_numbers: number of real-valued inputs (charge, speed, orbitals).
    """

    def __init__(self, dim: int, sizes: Sequence[int], num_numbers: int = 0) -> None:
        super().__init__()
        offsets = torch.tensor([0, *sizes[:-1]], dtype=torch.long).cumsum(0)
        self.offsets: Tensor
        self.register_buffer("offsets", offsets, persistent=False)
        self.tables = nn.Embedding(sum(sizes), dim) if sizes else None
        if self.tables is not None:
            nn.init.normal_(self.tables.weight, std=len(sizes) ** -0.5)
        self.numbers = nn.Linear(num_numbers, dim) if num_numbers else None

    def forward(self, categories_BNF: Tensor | None, numbers_BNF: Tensor | None) -> Tensor:
        parts = []
        if self.tables is not None and categories_BNF is not None:
            parts.append(self.tables(categories_BNF + self.offsets).sum(-2))
        if self.numbers is not None and numbers_BNF is not None:
            parts.append(self.numbers(numbers_BNF))
        return sum(parts[1:], parts[0])


class CentroidInput(nn.Module):
    """Z^{E,0}_i = r'_i / |r'_i| (psi(|r'_i|) W)^T, r' the position minus the mean over real atoms (section 4.2).

    Velocities take the same map without centring. In group "e3" (appendix C.2) Z^{E,0}_i = r_i in every channel.
    """

    def __init__(self, dim: int, num_types: int, kernels: GaussianBasis, centre: bool = True) -> None:
        super().__init__()
        self.centre = centre
        self.affine = AtomAffine(num_types)
        self.kernels = kernels
        self.linear = nn.Linear(kernels.centres.numel(), dim, bias=False)

    def forward(self, x_BN3: Tensor, types_BN: Tensor, mask_BN: Tensor, own_BN: Tensor | None = None) -> Tensor:
        """(B, N, 3, D). `own_BN`: atoms that count for the mean, all by default; periodic images do not."""
        if self.centre:
            weight_BN1 = (mask_BN if own_BN is None else own_BN)[..., None].to(x_BN3.dtype)
            x_BN3 = x_BN3 - (x_BN3 * weight_BN1).sum(1, keepdim=True) / weight_BN1.sum(1, keepdim=True)
        x_BN3 = x_BN3 * mask_BN[..., None].to(x_BN3.dtype)
        g_BND = self.linear(self.kernels(self.affine(safe_norm(x_BN3), types_BN)))
        return direction(x_BN3, DIRECTION_EPS)[..., None] * g_BND[:, :, None, :]


class NeighbourInput(nn.Module):
    """Z^{E,0}_i = sum_j r_ij / |r_ij| (psi(|r_ij|) W)^T f(|r_ij|), r_ij = r_j - r_i, f a smooth cutoff.

    Full rank, independent of far atoms, and defined for periodic cells, which the centroid is not: the sum runs over
    all copies of j near i.
    """

    def __init__(
        self, dim: int, num_types: int, kernels: GaussianBasis, cutoff: float, factorised: bool = True
    ) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.affine = PairAffine(num_types, factorised)
        self.kernels = kernels
        self.linear = nn.Linear(kernels.centres.numel(), dim, bias=False)

    def forward(self, edges: Edges, types_BN: Tensor) -> Tensor:
        types_A = types_BN.flatten()
        d_E = self.affine(edges.d, types_A[edges.query], types_A[edges.key])
        u_E3 = direction(edges.r, DIRECTION_EPS) * cosine_cutoff(edges.d, self.cutoff)[:, None]
        terms_E3K = u_E3[:, :, None] * self.kernels(d_E)[:, None, :]
        sum_AQ = sum_over_queries(terms_E3K.flatten(1), edges, types_A.numel())  # Q = 3 * K
        return self.linear(sum_AQ.view(*types_BN.shape, 3, -1))


class BondEncoding(nn.Module):
    """A bias per head for each pair of atoms from its bond (type, stereo, conjugation); 0 is "no bond"."""

    def __init__(self, sizes: Sequence[int], num_heads: int) -> None:
        super().__init__()
        self.tables = nn.ParameterList(torch.zeros(size, num_heads) for size in sizes)
        self.none = nn.Parameter(torch.zeros(1, num_heads))

    def forward(self, bond_BNN: Tensor) -> Tensor:
        """(B, N, N) -> (B, N, N, H). The tables are added up once, for all combinations, then looked up."""
        table = self.tables[0]
        for other in list(self.tables)[1:]:
            table = (table[:, None, :] + other[None, :, :]).flatten(0, 1)
        return lookup(torch.cat([self.none, table]), bond_BNN)


class StructuralEncoding(nn.Module):
    """The bias of all attentions: B_ij = GELU(b_ij W_1) W_2, b_ij Gaussian kernels of the distance (appendix A).

    Args:
        num_types: number of atom types.
        kernels: K Gaussian kernels.
        num_outputs: number of heads, or 1 for one value shared by all heads, as printed.
        factorised: see `PairAffine`.
        bond_sizes: values of each bond feature, to add a bias per bond; empty for none.
        num_paths: number of shortest-path values, to add a bias per path length; 0 for none.
    """

    def __init__(
        self,
        num_types: int,
        kernels: GaussianBasis,
        num_outputs: int,
        factorised: bool = True,
        bond_sizes: Sequence[int] = (),
        num_paths: int = 0,
    ) -> None:
        super().__init__()
        num_kernels = kernels.centres.numel()
        self.affine = PairAffine(num_types, factorised)
        self.kernels = kernels
        self.w1 = nn.Linear(num_kernels, num_kernels)
        self.w2 = nn.Linear(num_kernels, num_outputs)
        self.bond = BondEncoding(bond_sizes, num_outputs) if bond_sizes else None
        self.path = nn.Embedding(num_paths, num_outputs) if num_paths else None
        if self.path is not None:
            nn.init.zeros_(self.path.weight)

    def forward(
        self, d_BNN: Tensor, types_BN: Tensor, bond_BNN: Tensor | None = None, path_BNN: Tensor | None = None
    ) -> Tensor:
        """Returns (B, H or 1, N, N), padding not yet masked; its transpose is contiguous, as `attend` likes it."""
        symmetric = self.affine.factorised
        bias_BNNH = (
            self.of_half(d_BNN, types_BN)
            if symmetric
            else self.of_pairs(d_BNN, types_BN[:, :, None], types_BN[:, None, :])
        )
        return self.with_graph(bias_BNNH, bond_BNN, path_BNN)

    def of_copies(
        self,
        edges: Edges,
        cutoff: float,
        types_BN: Tensor,
        bond_BNN: Tensor | None = None,
        path_BNN: Tensor | None = None,
    ) -> Tensor:
        """The same for all copies of each atom within a cutoff, which falls to no weight smoothly: `nn.neighbours`."""
        types_A = types_BN.flatten()
        bias_EH = self.of_pairs(edges.d, types_A[edges.query], types_A[edges.key])
        b, n = types_BN.shape
        bias_BNNH = bias_over_copies(bias_EH, cosine_cutoff(edges.d, cutoff), edges, (b, n))
        return self.with_graph(bias_BNNH, bond_BNN, path_BNN)

    def with_graph(self, bias_BNNH: Tensor, bond_BNN: Tensor | None, path_BNN: Tensor | None) -> Tensor:
        """Adds the terms of the 2D graph and lays the bias out for `attend`. (B, H, N, N)"""
        if self.bond is not None and bond_BNN is not None:
            bias_BNNH = bias_BNNH + self.bond(bond_BNN)
        if self.path is not None and path_BNN is not None:
            bias_BNNH = bias_BNNH + self.path(path_BNN)
        return bias_BNNH.permute(0, 3, 2, 1).contiguous().mT

    def of_pairs(self, d: Tensor, row_types: Tensor, column_types: Tensor) -> Tensor:
        """GELU(b W_1) W_2, (...) -> (..., H)."""
        b_K = self.kernels(self.affine(d, row_types, column_types))
        return self.w2(nn.functional.gelu(self.w1(b_K)))

    def of_half(self, d_BNN: Tensor, types_BN: Tensor) -> Tensor:
        """The same where ij and ji are alike: each pair is computed once and put in both places."""
        n = d_BNN.shape[1]
        row_P, column_P = torch.triu_indices(n, n, device=d_BNN.device)
        d_BP = d_BNN.flatten(1).index_select(1, row_P * n + column_P)
        bias_BPH = self.of_pairs(d_BP, types_BN[:, row_P], types_BN[:, column_P])
        place_NN = torch.empty(n, n, dtype=torch.long, device=d_BNN.device)
        place_NN[row_P, column_P] = place_NN[column_P, row_P] = torch.arange(len(row_P), device=d_BNN.device)
        return bias_BPH.index_select(1, place_NN.flatten()).unflatten(1, (n, n))


def mask_keys(bias_BHNN: Tensor | None, mask_BN: Tensor, dtype: torch.dtype) -> Tensor:
    """Adds -inf where the key is padding. Queries stay unmasked: a row of -inf alone would be NaN."""
    key_B11N = torch.zeros(mask_BN.shape, dtype=dtype, device=mask_BN.device)
    key_B11N = key_B11N.masked_fill(~mask_BN, float("-inf"))[:, None, None, :]
    return key_B11N if bias_BHNN is None else bias_BHNN + key_B11N
