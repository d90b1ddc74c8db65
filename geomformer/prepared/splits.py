"""Splits drawn from a seed, and splits by scaffold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from geomformer.errors import ConfigError


def split_counts(num_rows: int, fractions: Mapping[str, float]) -> dict[str, int]:
    """Returns rows per split: every split with a fraction gets at least one row while there are enough.

    Args:
        num_rows: rows in all.
        fractions: share of every split; they add up to 1.

    Raises:
        ConfigError: a fraction is negative, or they do not add up to 1.
    """
    total = sum(fractions.values())
    if any(fraction < 0 for fraction in fractions.values()) or abs(total - 1) > 1e-6:
        given = ", ".join(f"{name} {fraction:g}" for name, fraction in fractions.items())
        raise ConfigError(f"Expected split fractions from 0 that add up to 1, found {given} (sum {total:g}).")
    first, *others = fractions
    counts = dict.fromkeys(fractions, 0)
    left = num_rows
    for name in others:
        wanted = max(int(fractions[name] > 0), round(num_rows * fractions[name]))
        counts[name] = min(wanted, max(0, left - 1))
        left -= counts[name]
    counts[first] = left
    return counts


def random_split(num_rows: int, fractions: Mapping[str, float], seed: int) -> np.ndarray:
    """Returns the number of the split (in the order of `fractions`) of every row. (R,) uint8."""
    counts = split_counts(num_rows, fractions)
    labels = np.repeat(np.arange(len(counts), dtype=np.uint8), list(counts.values()))
    result = np.empty(num_rows, np.uint8)
    result[np.random.default_rng(seed).permutation(num_rows)] = labels
    return result


def grouped_split(keys: np.ndarray, fractions: Mapping[str, float], seed: int) -> np.ndarray:
    """Returns the split of every row, the same for rows with the same key, so that no molecule is in two splits.

    The fractions hold for the number of distinct keys.

    Args:
        keys: one number per row. (R,)
        fractions: share of every split; they add up to 1.
        seed: seed of the draw.
    """
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    # groups are numbered by first appearance, so that the split does not depend on the values of the keys
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(len(first))
    return random_split(len(first), fractions, seed)[rank[group]]


def split_ends(num_rows: int, fractions: Mapping[str, float]) -> list[int]:
    """Returns where every split but the last ends when rows are cut in order: the running sum of fractions, floored.

    Args:
        num_rows: rows in all.
        fractions: share of every split; they add up to 1.

    Raises:
        ConfigError: a fraction is negative, or they do not add up to 1.
    """
    split_counts(num_rows, fractions)
    shares = list(fractions.values())
    return [int(sum(shares[: count + 1]) * num_rows) for count in range(len(shares) - 1)]


def scaffold_split(scaffolds: np.ndarray | Sequence[str], fractions: Mapping[str, float]) -> np.ndarray:
    """Returns the split (in the order of `fractions`) of every row, the same for rows with the same scaffold.

    Sets of rows with one scaffold are taken by size, the largest first and among equals the one whose first row comes
    last, and each goes to the first split where it ends within the share of that split and those before; the last
    split takes what fits nowhere. Nothing is drawn.

    Args:
        scaffolds: the scaffold of every row, or a number that stands for it. (R,)
        fractions: share of every split; they add up to 1.

    Returns:
        (R,) uint8.

    Raises:
        ConfigError: a fraction is negative, or they do not add up to 1.
    """
    _, first, group, sizes = np.unique(
        np.asarray(scaffolds), return_index=True, return_inverse=True, return_counts=True
    )
    ends = [*split_ends(len(group), fractions), len(group)]
    filled = [0] * len(ends)
    chosen = np.zeros(len(sizes), np.uint8)
    for number in np.lexsort((-first, -sizes)).tolist():
        size = int(sizes[number])
        split = next(k for k, end in enumerate(ends) if sum(filled[: k + 1]) + size <= end)
        filled[split] += size
        chosen[number] = split
    return chosen[group]
