"""Bookkeeping over the rows of an input: names, labels and limits."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import numpy as np

from geomformer.errors import DataError


def text_key(text: str) -> int:
    """Returns a 64-bit hash of a text, the same in every run."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


class UniqueIds:
    """Makes identifiers unique by appending "#2", "#3" and so on. Keeps 8 bytes per identifier.

    Args:
        keys: `text_key` of every identifier that will come. (R,) uint64
    """

    def __init__(self, keys: np.ndarray) -> None:
        self._taken, counts = np.unique(keys, return_counts=True)
        self._seen = dict.fromkeys(self._taken[counts > 1].tolist(), 0)

    def __call__(self, name: str) -> str:
        key = text_key(name)
        if key not in self._seen:
            return name
        self._seen[key] += 1
        if self._seen[key] == 1:
            return name
        while self._is_taken(f"{name}#{self._seen[key]}"):
            self._seen[key] += 1
        return f"{name}#{self._seen[key]}"

    def _is_taken(self, name: str) -> bool:
        key = np.uint64(text_key(name))
        place = int(np.searchsorted(self._taken, key))
        return place < len(self._taken) and bool(self._taken[place] == key)


def check_labels(counts: Mapping[str, int], num_rows: int) -> None:
    """Checks that every target has a label somewhere.

    Raises:
        DataError: one has none.
    """
    for name, count in counts.items():
        if not count:
            raise DataError(f"Target '{name}' has no label in any of the {num_rows} rows.", "Leave it out.")


def count_labels(counts: dict[str, int], targets: Mapping[str, float]) -> None:
    """Adds the labels of one row to `counts`."""
    for name, value in targets.items():
        counts[name] = counts.get(name, 0) + (not math.isnan(value))


class Limit:
    """Passes the first so many rows of each split, all of them for None."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self._counts: dict[str | None, int] = {}

    def __call__(self, split: str | None) -> bool:
        self._counts[split] = self._counts.get(split, 0) + 1
        return self.limit is None or self._counts[split] <= self.limit
