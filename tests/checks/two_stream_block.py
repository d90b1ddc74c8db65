"""A small general two-stream block: the paper's block with every choice of Eq. (3) to (7) as a hook.

Appendix C.1 of the paper calls PaiNN and TorchMD-Net ET instances of the two-stream framework. This is the block for
which that is true. One system of n atoms, no batch, D channels, H heads; written to be read, not to be fast.

An attention i <- j of either stream is

    increment_i = post(sum_j score_ij V_ij ; Z_i),    score_ij = weight_ij * count_i^sum * activation(logit_ij)

where the paper has softmax(q k + B) for the score, Z_j W_V for the values and a linear map for `post`. What both models
need beyond the paper's text, which leaves it out "for readability" or says it loosely:

- values depend on the pair: on r_ij, its direction and radial functions of its length, not on Z_j alone;
- sums, not means: softmax of constant logits is 1 / (number of neighbours), so it is multiplied by that number, which
  differs from atom to atom where there is a cutoff;
- a score need not be normalised (SiLU), and a cutoff weighs it after the activation;
- `post` has a bias and reads the atom's own streams; it stands outside the sum: moved inside ("O(sum) = sum O") its
  bias would be counted once per neighbour;
- the attention of an atom to itself is left out (PaiNN) or kept (ET);
- all attentions read the input of the layer ("parallel"); in the sequential reading of Eq. (3) the cross attentions
  would read what the self attentions have written, which is another network;
- a feed-forward network may read both streams and write both at once; norms may be left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Geometry:
    """Pairs of one system.

    Attributes:
        r: x_j - x_i. (N, N, 3)
        d: its length. (N, N)
        u: its direction, zero where there is none. (N, N, 3)
        near: which pairs are neighbours, an atom with itself among them. (N, N)
    """

    r: Tensor
    d: Tensor
    u: Tensor
    near: Tensor

    @classmethod
    def of(cls, x_N3: Tensor, cutoff: float) -> Geometry:
        r = x_N3[None] - x_N3[:, None]
        apart = r.square().sum(-1) > 0
        d = torch.where(apart, r.square().sum(-1), 1.0).sqrt() * apart
        return cls(r, d, r / torch.where(apart, d, 1.0)[..., None], d < cutoff)

    @property
    def others(self) -> Tensor:
        return self.near & ~torch.eye(len(self.d), dtype=torch.bool)


Streams = tuple[Tensor, Tensor]
"""Z^I (N, D) and Z^E (N, 3, D)."""


@dataclass(frozen=True)
class Attention:
    """The hooks of one attention.

    Attributes:
        values: V_ij from the streams and the geometry, (N, N, D) or (N, N, 3, D).
        post: from the sum over j, (N, D) or (N, 3, D), and the atom's own streams to the increment.
        pairs: which pairs count. (N, N)
        logits: (N, N, H); None for zero.
        activation: "softmax" or "silu".
        summed: a softmax is multiplied by the number of pairs of the row.
        weight: multiplied to the score after the activation. (N, N)
    """

    values: Callable[[Streams, Geometry], Tensor]
    post: Callable[[Tensor, Streams], Tensor]
    pairs: Callable[[Geometry], Tensor]
    logits: Callable[[Streams, Geometry], Tensor] | None = None
    activation: str = "softmax"
    summed: bool = True
    weight: Callable[[Geometry], Tensor] | None = None

    def __call__(self, streams: Streams, geometry: Geometry) -> Tensor:
        values = self.values(streams, geometry)
        scores_NNH = self.scores(streams, geometry)
        per_channel = scores_NNH.repeat_interleave(values.shape[-1] // scores_NNH.shape[-1], -1)
        if values.dim() == 4:
            per_channel = per_channel[:, :, None]
        return self.post((per_channel * values).sum(1), streams)

    def scores(self, streams: Streams, geometry: Geometry) -> Tensor:
        """(N, N, H)"""
        pairs_NN1 = self.pairs(geometry)[..., None]
        logits = self.logits(streams, geometry) if self.logits else torch.zeros_like(geometry.d)[..., None]
        if self.activation == "silu":
            scores = torch.nn.functional.silu(logits) * pairs_NN1
        else:
            count_N11 = pairs_NN1.sum(1, keepdim=True)
            # A row without any pair has no softmax; its sum is zero.
            logits = logits.masked_fill(~pairs_NN1 & (count_N11 > 0), float("-inf"))
            scores = torch.softmax(logits, 1) * (count_N11 if self.summed else (count_N11 > 0))
        return scores if self.weight is None else scores * self.weight(geometry)[..., None]


@dataclass(frozen=True)
class TwoStreamBlock:
    """Eq. (3) with hooks.

    Attributes:
        inv_self, inv_cross, equ_self, equ_cross: attentions; None for none.
        norm: of the input of the attentions; None for none.
        feed_forward: from both streams to both increments; None for none.
        wiring: "parallel" or "sequential".
    """

    inv_self: Attention | None = None
    inv_cross: Attention | None = None
    equ_self: Attention | None = None
    equ_cross: Attention | None = None
    norm: Callable[[Streams], Streams] | None = None
    feed_forward: Callable[[Streams], Streams] | None = None
    wiring: str = "parallel"

    def __call__(self, streams: Streams, geometry: Geometry) -> Streams:
        start = streams
        streams = self.attend(self.inv_self, self.equ_self, start, start, geometry)
        read = start if self.wiring == "parallel" else streams
        streams = self.attend(self.inv_cross, self.equ_cross, read, streams, geometry)
        if self.feed_forward is None:
            return streams
        inv, equ = self.feed_forward(streams)
        return streams[0] + inv, streams[1] + equ

    def attend(
        self, inv: Attention | None, equ: Attention | None, read: Streams, streams: Streams, geometry: Geometry
    ) -> Streams:
        """Adds what an invariant and an equivariant attention find in `read`."""
        read = read if self.norm is None else self.norm(read)
        z_inv = streams[0] if inv is None else streams[0] + inv(read, geometry)
        z_equ = streams[1] if equ is None else streams[1] + equ(read, geometry)
        return z_inv, z_equ
