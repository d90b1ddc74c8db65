"""Is a molecule like those the model was trained on, and how wrong is its prediction expected to be?

A molecule is known by the environments of its heavy atoms (`chem.environments`). Those of radius 1 (the atom, its
bonds and its neighbours) are familiar when any training molecule has them, those of radius 2 when a few have. A
molecule is outside of what the model was trained on when too many of its atoms stand in an unfamiliar environment of
radius 1, when it is larger or otherwise charged than nearly all training molecules, or when it has unpaired electrons,
since the gap of an open shell is another quantity. The expected error is a linear function, with no negative weight,
of the shares of unfamiliar environments and of the spread over conformers (and networks of a committee), fitted to
errors on validation molecules.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from geomformer.artifacts.files import DOMAIN
from geomformer.artifacts.manifest import Manifest
from geomformer.chem.environments import Environments, environments
from geomformer.errors import ArtifactError, DataError
from geomformer.records import Record

INSIDE, OUTSIDE = "inside", "outside"
MIN_MOLECULES = {1: 1, 2: 3}
"""By radius: an environment of fewer training molecules is unfamiliar."""
MAX_UNFAMILIAR = 0.1
"""Share of heavy atoms in unfamiliar environments of radius 1 up to which a molecule is inside."""
MIN_MOLECULES_AT_EDGE = 20
"""A size or charge counts as known when so many training molecules are at least as far out."""
CHUNK = 4096
"""Training molecules whose environments are hashed at a time."""


@dataclass(frozen=True)
class Judgement:
    """What is known about one prediction.

    Attributes:
        domain: "inside" or "outside".
        expected_error: of the reported target, absolute, in its unit; None where no errors were there to fit.
    """

    domain: str
    expected_error: float | None


@dataclass(frozen=True)
class Domain:
    """What a model was trained on.

    Attributes:
        radius_1, radius_2: hashes of the familiar environments, rising. uint32
        ranges: smallest and largest number of heavy atoms (first row) and net charge (second). (2, 2) int64
        max_unfamiliar: share of atoms in unfamiliar environments of radius 1 up to which a molecule is inside. (1,)
        weights: of 1, the shares of unfamiliar environments at radius 1 and 2 and the spread, in the target's unit;
            (4,) float64, or (0,) where nothing was fitted.
    """

    radius_1: np.ndarray
    radius_2: np.ndarray
    ranges: np.ndarray
    max_unfamiliar: np.ndarray
    weights: np.ndarray

    def judge(self, records: Sequence[Record], spreads: np.ndarray) -> list[Judgement]:
        """Judges predictions.

        Args:
            records: M molecules.
            spreads: of each prediction (`averaging.ConformerPredictions.spread`). (M,)
        """
        found = environments(records)
        shares = self._unfamiliar(found)
        known = (found.sizes >= self.ranges[0, 0]) & (found.sizes <= self.ranges[0, 1])
        known &= (found.charges >= self.ranges[1, 0]) & (found.charges <= self.ranges[1, 1])
        known &= ~found.unpaired
        known &= ~np.array([without_orbitals(record) for record in records], dtype=bool)
        inside = known & (shares[:, 0] <= self.max_unfamiliar[0])
        errors: Iterable[float | None] = [None] * len(records)
        if len(self.weights):
            errors = np.round(_columns(shares, spreads) @ self.weights, 6).tolist()
        return [Judgement(INSIDE if i else OUTSIDE, error) for i, error in zip(inside.tolist(), errors, strict=True)]

    def fitted(self, records: Sequence[Record], spreads: np.ndarray, errors: np.ndarray) -> Domain:
        """The same domain with expected errors.

        Args:
            records: M molecules that the model was not trained on.
            spreads: of their predictions, likewise. (M,)
            errors: absolute errors of their predictions. (M,)

        Raises:
            DataError: fewer molecules than weights.
        """
        columns = _columns(self._unfamiliar(environments(records)), spreads)
        if len(columns) < columns.shape[1]:
            raise DataError(
                f"Expected at least {columns.shape[1]} molecules to fit expected errors to, found {len(records)}."
            )
        return Domain(self.radius_1, self.radius_2, self.ranges, self.max_unfamiliar, _rising_fit(columns, errors))

    def to_bytes(self) -> bytes:
        """Serialises it as safetensors."""
        return save({item.name: np.ascontiguousarray(getattr(self, item.name)) for item in fields(self)})

    def _unfamiliar(self, found: Environments) -> np.ndarray:
        """Share of heavy atoms in unfamiliar environments at radius 1 and 2; 1 for a molecule without. (M, 2)"""
        sizes = found.sizes
        counts = [
            np.bincount(found.molecule, ~_contains(known, found.hashes[radius]), len(sizes))
            for radius, known in ((1, self.radius_1), (2, self.radius_2))
        ]
        return np.where(sizes > 0, np.stack(counts) / np.maximum(sizes, 1), 1.0).T


def without_orbitals(record: Record) -> bool:
    """Whether a model that reads frontier orbitals has to do without: hardly any molecule it learnt from had none."""
    return record.orbital_energies is not None and bool(np.isnan(record.orbital_energies).all())


def describe(records: Iterable[Record]) -> Domain:
    """Describes the molecules a model was trained on; expected errors are added by `Domain.fitted`.

    Raises:
        DataError: there are none.
    """
    pairs: dict[int, list[np.ndarray]] = {radius: [] for radius in MIN_MOLECULES}
    sizes, charges = [], []
    start = 0
    molecules = iter(records)
    while chunk := list(islice(molecules, CHUNK)):
        found = environments(chunk)
        for radius in pairs:
            pairs[radius].append(_pairs(found.hashes[radius], found.molecule + start))
        sizes.append(found.sizes)
        charges.append(found.charges)
        start += len(chunk)
    if not start:
        raise DataError("Expected molecules to describe, found none.")
    familiar = {radius: _familiar(np.concatenate(found), MIN_MOLECULES[radius]) for radius, found in pairs.items()}
    _, largest = _range(np.concatenate(sizes))
    return Domain(
        familiar[1],
        familiar[2],
        ranges=np.array([(1, largest), _range(np.concatenate(charges))]),
        max_unfamiliar=np.array([MAX_UNFAMILIAR]),
        weights=np.empty(0),
    )


def read_domain(folder: Path, manifest: Manifest) -> Domain | None:
    """Reads what a model was trained on; None for a model that does not say.

    Raises:
        ArtifactError: the file is damaged.
    """
    if DOMAIN not in manifest.files:
        return None
    path = folder / DOMAIN
    try:
        tensors = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}", "Copy or download the model again.") from error
    expected = {item.name for item in fields(Domain)}
    if set(tensors) != expected:
        raise ArtifactError(f"{path}: expected {', '.join(sorted(expected))}, found {', '.join(sorted(tensors))}")
    domain = Domain(**tensors)
    _check(domain, path)
    return domain


def _check(domain: Domain, path: Path) -> None:
    hashes = (domain.radius_1, domain.radius_2)
    sound = all(item.ndim == 1 and item.dtype == np.uint32 and (item[1:] > item[:-1]).all() for item in hashes)
    numbers = (domain.weights, domain.max_unfamiliar)
    sound &= all(item.dtype == np.float64 and bool(np.isfinite(item).all()) for item in numbers)
    sound &= domain.weights.shape in ((0,), (4,)) and domain.max_unfamiliar.shape == (1,)
    if not sound or domain.ranges.shape != (2, 2) or domain.ranges.dtype != np.int64:
        raise ArtifactError(f"{path}: its tensors have other types, shapes or values than they must have")


def _pairs(hashes: np.ndarray, molecule: np.ndarray) -> np.ndarray:
    """Each hash once per molecule, as hash * 2^32 + molecule. uint64"""
    return np.unique((hashes.astype(np.uint64) << np.uint64(32)) | molecule.astype(np.uint64))


def _familiar(pairs: np.ndarray, least: int) -> np.ndarray:
    hashes, counts = np.unique((pairs >> np.uint64(32)).astype(np.uint32), return_counts=True)
    return hashes[counts >= least]


def _range(values: np.ndarray) -> tuple[int, int]:
    """Smallest and largest value that so many molecules reach; of few molecules, those of the one in the middle."""
    edge = min(MIN_MOLECULES_AT_EDGE, (len(values) + 1) // 2) - 1
    ordered = np.sort(values)
    return int(ordered[edge]), int(ordered[-1 - edge])


def _contains(known: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    if not len(known):
        return np.zeros(len(hashes), dtype=bool)
    return known[np.minimum(np.searchsorted(known, hashes), len(known) - 1)] == hashes


def _columns(shares: np.ndarray, spreads: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(shares)), shares, spreads])


def _rising_fit(columns: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Least squares without negative weights: the column of the most negative one is dropped until none is left."""
    kept = list(range(columns.shape[1]))
    while True:
        weights = np.zeros(columns.shape[1])
        weights[kept] = np.linalg.lstsq(columns[:, kept], errors, rcond=None)[0]
        lowest = min(kept, key=lambda column: float(weights[column]))
        if weights[lowest] >= 0:
            return weights
        kept.remove(lowest)
