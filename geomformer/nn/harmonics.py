"""Real spherical harmonics up to degree 3 as polynomials. Legend: `nn.ops`."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_DEGREE = 3


def harmonics(u: Tensor, degree: int) -> Tensor:
    """sqrt(4 pi / (2 l + 1)) Y_lm(u), m = -l..l: of length 1 for a unit vector, |u|^l in general.

    Args:
        u: (..., 3); its degree-1 harmonics are its components x, y, z themselves.
        degree: l, 0 to `MAX_DEGREE`.

    Returns:
        (..., 2 l + 1)
    """
    x, y, z = u.unbind(-1)
    if degree == 0:
        return torch.ones_like(x)[..., None]
    if degree == 1:
        return u
    if degree == 2:
        root = 3.0**0.5
        squares = 0.5 * (2.0 * z.square() - x.square() - y.square())
        return torch.stack(
            [root * x * y, root * y * z, squares, root * x * z, 0.5 * root * (x.square() - y.square())], -1
        )
    if degree != MAX_DEGREE:
        raise ValueError(f"expected a degree of 0 to {MAX_DEGREE}, found {degree}")
    xx, yy, zz = x.square(), y.square(), z.square()
    outer, inner, middle = (5.0 / 8.0) ** 0.5, (3.0 / 8.0) ** 0.5, 15.0**0.5
    return torch.stack(
        [
            outer * y * (3.0 * xx - yy),
            middle * x * y * z,
            inner * y * (4.0 * zz - xx - yy),
            0.5 * z * (2.0 * zz - 3.0 * xx - 3.0 * yy),
            inner * x * (4.0 * zz - xx - yy),
            0.5 * middle * z * (xx - yy),
            outer * x * (xx - 3.0 * yy),
        ],
        -1,
    )
