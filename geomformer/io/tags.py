"""Tags of the atoms of a catalyst: which belong to the adsorbate, which to the surface, which lie below it.

OC20 gives every atom a tag: 0 below the surface, 1 at the surface, 2 in the adsorbate. Files of other origin often have
none. The rule here is simple and refuses what it cannot tell: atoms that are fixed get 0, other atoms of the slab 1,
and the adsorbate is whatever is not metal on a slab of metal.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from geomformer.errors import ConfigError, MoleculeError

SUBSURFACE, SURFACE, ADSORBATE = 0, 1, 2

NONMETALS = (1, 2, 6, 7, 8, 9, 10, 15, 16, 17, 18, 34, 35, 36, 53, 54, 86)
"""Elements that an adsorbate is recognised by. Metalloids (B, Si, Ge, As, Te) belong to slabs."""

MAX_ADSORBATE = 11
"""Atoms of the largest adsorbates in OC20; more nonmetal atoms are taken for a part of the slab."""

MIN_VACUUM = 5.0
"""Angstrom without atoms that make a surface; gaps between the layers of a crystal are smaller."""

ROUGHNESS = 1.0
"""Angstrom: an adsorbate may lie so far below the outermost atom of the slab, in a hollow or where that is rough."""

ASK = "Give the atoms tags (0 subsurface, 1 surface, 2 adsorbate), or name the adsorbate with --adsorbate."

_RANGE = re.compile(r"(\d{1,7})(?:-(\d{1,7}))?")


def parse_atoms(text: str) -> tuple[int, ...]:
    """Reads numbers of atoms, counted from 0, such as "36,37" or "36-38".

    Raises:
        ConfigError: the text is something else.
    """
    found: dict[int, None] = {}
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise ConfigError(
                f"Expected numbers of atoms counted from 0, such as 36,37 or 36-38, found '{text}'.",
                "Check --adsorbate.",
            )
        found.update(dict.fromkeys(range(first, last + 1)))
    return tuple(found)


def tag_atoms(
    numbers: np.ndarray,
    positions: np.ndarray,
    lattice: np.ndarray,
    pbc: np.ndarray,
    fixed: np.ndarray,
    tags: np.ndarray | None = None,
    adsorbate: Sequence[int] | None = None,
) -> np.ndarray:
    """Returns the tags of a system: its own, where they are OC20's, else by the rule above. (N,) int8

    Args:
        numbers: atomic numbers. (N,)
        positions: Angstrom. (N, 3)
        lattice: rows are lattice vectors; directions that are not periodic have some vector out of the plane of the
            others. (3, 3)
        pbc: periodic directions. (3,)
        fixed: atoms that may not move. (N,) bool
        tags: what the file says, if anything. (N,)
        adsorbate: numbers of the adsorbate's atoms, which then count instead of its own tags 2.

    Raises:
        MoleculeError: `wrong_input_kind`; no adsorbate, no slab, or they cannot be told apart.
    """
    own = tags if tags is not None and are_tags(tags, numbers) else None
    if adsorbate is not None:
        found = np.isin(np.arange(len(numbers)), adsorbate)
        if found.sum() < len(set(adsorbate)):
            raise _wrong(
                f"The adsorbate is given as atoms {', '.join(map(str, adsorbate[:20]))}, counted from 0; "
                f"the structure has {len(numbers)} atoms."
            )
        slab = np.where(fixed, SUBSURFACE, SURFACE) if own is None else np.minimum(own, SURFACE)
    elif own is not None:
        found, slab = own == ADSORBATE, own
    else:
        found, slab = find_adsorbate(numbers, positions, lattice, pbc, fixed), np.where(fixed, SUBSURFACE, SURFACE)
    if not found.any():
        raise _wrong(f"There is no adsorbate: no atom has tag {ADSORBATE}.")
    if found.all():
        raise _wrong("There is no slab: all atoms belong to the adsorbate.")
    return np.where(found, ADSORBATE, slab).astype(np.int8)


def are_tags(tags: np.ndarray, numbers: np.ndarray) -> bool:
    """Whether tags can be OC20's: 0, 1 and 2, not all 0, and what has tag 2 is not metal alone.

    The slabs that ASE builds carry numbers of layers instead, from 1 at the surface, and 0 at the adsorbate.
    """
    known = bool(np.isin(tags, (SUBSURFACE, SURFACE, ADSORBATE)).all()) and bool(np.any(tags))
    adsorbate = numbers[tags == ADSORBATE]
    return known and (not len(adsorbate) or bool(np.isin(adsorbate, NONMETALS).any()))


def find_adsorbate(
    numbers: np.ndarray, positions: np.ndarray, lattice: np.ndarray, pbc: np.ndarray, fixed: np.ndarray
) -> np.ndarray:
    """Returns which atoms are the adsorbate on a slab of metal. (N,) bool

    Raises:
        MoleculeError: there is none, or it may be a part of the slab: it is large, fixed, lies below the outermost
            fixed atoms (the outermost metal atoms, where none is fixed), or no direction holds vacuum.
    """
    found = np.isin(numbers, NONMETALS)
    if not found.any():
        raise _wrong("There is no adsorbate: the structure has no tags, and all its atoms are of the slab's elements.")
    if found.all():
        raise _wrong("There is no slab: no atom is a metal.")
    if found.sum() > MAX_ADSORBATE:
        raise _unclear(f"it has {found.sum()} nonmetal atoms, more than an adsorbate of up to {MAX_ADSORBATE}")
    if fixed[found].any():
        raise _unclear("some of its nonmetal atoms are fixed, as atoms of a slab are")
    heights = heights_above(positions, lattice, pbc, ~found)
    if heights is None:
        raise _unclear(f"no lattice direction holds {MIN_VACUUM:g} Angstrom of vacuum")
    # A crystal with nonmetals has some among or below its fixed atoms; a surface that may move can be rough.
    inner = heights[fixed] if fixed.any() else heights[~found]
    if heights[found].min() < inner.max() - ROUGHNESS and heights[found].max() > inner.min() + ROUGHNESS:
        kind = "fixed atoms" if fixed.any() else "outermost metal atoms"
        raise _unclear(f"some of its nonmetal atoms lie below the {kind}")
    return found


def heights_above(positions: np.ndarray, lattice: np.ndarray, pbc: np.ndarray, slab: np.ndarray) -> np.ndarray | None:
    """Returns heights of all atoms across the surface, in Angstrom, without a jump at the border of the cell. (N,)

    The surface lies across the direction in which the slab leaves the widest gap, a direction that is not periodic
    before all others.

    Args:
        positions: Angstrom. (N, 3)
        lattice: rows are lattice vectors. (3, 3)
        pbc: periodic directions. (3,)
        slab: atoms that are surely of the slab. (N,) bool

    Returns:
        None where the gap is no vacuum, or more than one direction is not periodic.
    """
    inverse = np.linalg.inv(lattice)
    spacing = 1.0 / np.linalg.norm(inverse, axis=0)
    fractions = positions @ inverse
    if not pbc.all():
        (open_axes,) = np.nonzero(~pbc)
        return fractions[:, open_axes[0]] * spacing[open_axes[0]] if len(open_axes) == 1 else None
    axis = int(np.argmax([widest_gap(fractions[slab, i])[0] * spacing[i] for i in range(3)]))
    width, start = widest_gap(fractions[:, axis])
    if width * spacing[axis] < MIN_VACUUM:
        return None
    return (fractions[:, axis] - start) % 1.0 * spacing[axis]


def widest_gap(fractions: np.ndarray) -> tuple[float, float]:
    """Returns the widest gap between periodic coordinates, and its middle, above which heights are counted."""
    inside = np.sort(fractions % 1.0)
    gaps = np.diff(inside, append=inside[0] + 1.0)
    widest = int(np.argmax(gaps))
    return float(gaps[widest]), float(inside[widest] + gaps[widest] / 2)


def _wrong(reason: str) -> MoleculeError:
    return MoleculeError("wrong_input_kind", reason)


def _unclear(reason: str) -> MoleculeError:
    return _wrong(f"The structure has no tags, and its adsorbate cannot be told from the slab: {reason}. {ASK}")
