"""Prints what the EMT catalyst dataset gives to predictions that need no network, as a markdown table.

    python recipes/emt/baselines.py --data data/prepared/emt

Energy (MAE in eV, EwT in percent), fitted to the train split:
- mean: the mean energy of the train split;
- ridge: linear in the adsorbate (one-hot) and the shares of the slab's elements; an adsorbate that was never trained on
  has no coefficient and gets the intercept;
- ridge, facet: the same with the facet (one-hot) beside.

Relaxed structure (ADwT in percent, and the mean distance of free atoms in Angstrom); fixed atoms stay where they are:
- no move: the initial structure;
- tag mean: the mean displacement of the train split's atoms with the same tag (1 surface, 2 adsorbate), in a frame of
  each atom: the surface normal n, the direction within the surface of the atom's neighbour vector v, and n x v;
- tag linear: a*v + b*(n.v)*n + c*n with coefficients by least squares for each tag.
The neighbour vector v is the sum of unit vectors to all other atoms (periodic ones included) within 5 Angstrom,
weighted by exp(-(distance / sum of covalent radii)^2); n is the normal of the first two lattice vectors. Both turn with
the system, and so do the displacements.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from ase.data import covalent_radii
from ase.neighborlist import primitive_neighbor_list

from geomformer.errors import DataError
from geomformer.evaluation.structures import ADWT, DISTANCE, energy_scores, mean_scores, structure_scores
from geomformer.prepared.dataset import PreparedDataset
from geomformer.records import Record

RIDGE = 1.0
"""Penalty on the squares of all coefficients but the intercept."""
CUTOFF = 5.0
MOVING_TAGS = (1, 2)

Labels = dict[str, dict[str, str]]
"""The row of `systems.csv` by id."""


def read_labels(path: Path) -> Labels:
    """Reads `systems.csv`.

    Raises:
        DataError: it is not there.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {row["id"]: row for row in csv.DictReader(file)}
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.", "recipes/emt/build_data.py writes it.") from error


def energy_features(
    records: Sequence[Record], labels: Labels, adsorbates: Sequence[str], facets: Sequence[str]
) -> np.ndarray:
    """Returns one-hot adsorbates, shares of elements in the slab, and one-hot facets. (systems, features)"""
    rows = []
    for record in records:
        label = labels[record.id]
        slab = record.atomic_numbers[record.tags < 2]
        shares = np.bincount(slab, minlength=len(covalent_radii)) / len(slab)
        known = [label["adsorbate"] == name for name in adsorbates] + [label["facet"] == name for name in facets]
        rows.append(np.concatenate([shares, known]))
    return np.array(rows, dtype=float)


def fit_ridge(features: np.ndarray, values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the fitted function; features are centred, so that the intercept carries no penalty."""
    middle, mean = features.mean(0), float(values.mean())
    centred = features - middle
    weights = np.linalg.solve(centred.T @ centred + RIDGE * np.eye(features.shape[1]), centred.T @ (values - mean))

    def predict(found: np.ndarray) -> np.ndarray:
        return (found - middle) @ weights + mean

    return predict


def local_frames(record: Record) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the neighbour vectors (N, 3), the surface normal (3,) and the frames, axes as rows (N, 3, 3)."""
    place, cell = record.positions[0].astype(float), record.cell.astype(float)
    i, j, distance, vector = primitive_neighbor_list("ijdD", record.pbc, cell, place, CUTOFF)
    radii = covalent_radii[record.atomic_numbers]
    weighted = (np.exp(-((distance / (radii[i] + radii[j])) ** 2)) / distance)[:, None] * vector
    toward = np.stack([np.bincount(i, weighted[:, k], len(place)) for k in range(3)], 1)
    normal = np.cross(cell[0], cell[1])
    normal = normal / np.linalg.norm(normal)
    along = toward - (toward @ normal)[:, None] * normal
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    return toward, normal, np.stack([along, np.cross(normal, along), np.broadcast_to(normal, along.shape)], 1)


def linear_basis(toward: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Returns the three vectors of every atom that "tag linear" combines, along the last axis. (N, 3, 3)"""
    upright = (toward @ normal)[:, None] * normal
    return np.stack([toward, upright, np.broadcast_to(normal, toward.shape)], -1)


class Displacements:
    """The two fits of displacements by tag."""

    def __init__(self, records: Sequence[Record]) -> None:
        local: dict[int, list[np.ndarray]] = {tag: [] for tag in MOVING_TAGS}
        basis: dict[int, list[np.ndarray]] = {tag: [] for tag in MOVING_TAGS}
        moves: dict[int, list[np.ndarray]] = {tag: [] for tag in MOVING_TAGS}
        for record in records:
            toward, normal, frames = local_frames(record)
            vectors = linear_basis(toward, normal)
            move = record.target_positions.astype(float) - record.positions[0]
            for tag in MOVING_TAGS:
                chosen = record.tags == tag
                local[tag].append(np.einsum("nkx,nx->nk", frames[chosen], move[chosen]))
                basis[tag].append(vectors[chosen].reshape(-1, 3))
                moves[tag].append(move[chosen].ravel())
        self.mean = {tag: np.concatenate(local[tag]).mean(0) for tag in MOVING_TAGS}
        self.linear = {
            tag: np.linalg.lstsq(np.concatenate(basis[tag]), np.concatenate(moves[tag]))[0] for tag in MOVING_TAGS
        }

    def by_mean(self, record: Record) -> np.ndarray:
        """Returns the relaxed structure with the mean displacements. (N, 3)"""
        _, _, frames = local_frames(record)
        return self._moved(record, {tag: np.einsum("nkx,k->nx", frames, self.mean[tag]) for tag in MOVING_TAGS})

    def by_fit(self, record: Record) -> np.ndarray:
        """Returns the relaxed structure with the displacements by least squares. (N, 3)"""
        toward, normal, _ = local_frames(record)
        vectors = linear_basis(toward, normal)
        return self._moved(record, {tag: vectors @ self.linear[tag] for tag in MOVING_TAGS})

    @staticmethod
    def _moved(record: Record, moves: dict[int, np.ndarray]) -> np.ndarray:
        place = record.positions[0].astype(float)
        for tag, move in moves.items():
            chosen = (record.tags == tag) & ~record.fixed
            place[chosen] += move[chosen]
        return place


def energies(records: Sequence[Record]) -> np.ndarray:
    return np.array([record.targets["energy"] for record in records])


def score_energies(predicted: np.ndarray, records: Sequence[Record]) -> str:
    found = mean_scores(energy_scores("energy", error) for error in predicted - energies(records))
    return f"{found['energy_mae_ev']:.4f} / {found['energy_ewt_percent']:.1f}"


def score_structures(predict: Callable[[Record], np.ndarray], records: Sequence[Record]) -> str:
    found = mean_scores(structure_scores(record, predict(record)) for record in records)
    return f"{found[ADWT]:.1f} / {found[DISTANCE]:.3f}"


def table(splits: dict[str, list[Record]], labels: Labels) -> str:
    """Returns the table; "train" is what is fitted to, and the other splits are scored."""
    train = splits["train"]
    adsorbates = sorted({labels[record.id]["adsorbate"] for record in train})
    facets = sorted({labels[record.id]["facet"] for record in train})
    known: dict[str, tuple[Sequence[str], Sequence[str]]] = {
        "ridge": (adsorbates, ()),
        "ridge, facet": (adsorbates, facets),
    }
    fits = {
        name: fit_ridge(energy_features(train, labels, *columns), energies(train)) for name, columns in known.items()
    }
    displacements = Displacements(train)
    names = ["mean", *fits, "no move", "tag mean", "tag linear"]
    units = ["MAE / EwT"] * 3 + ["ADwT / distance"] * 3
    lines = [
        "| split | systems | " + " | ".join(f"{name}: {unit}" for name, unit in zip(names, units, strict=True)) + " |",
        "|---|---|" + "---|" * len(names),
    ]
    for split, records in splits.items():
        if split == "train":
            continue
        cells = [score_energies(np.full(len(records), energies(train).mean()), records)]
        for name, fit in fits.items():
            cells.append(score_energies(fit(energy_features(records, labels, *known[name])), records))
        for predict in (lambda record: record.positions[0], displacements.by_mean, displacements.by_fit):
            cells.append(score_structures(predict, records))
        lines.append(f"| {split} | {len(records)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def mean_displacements(records: Sequence[Record]) -> dict[int, float]:
    """Returns how far atoms move on average, Angstrom, by tag."""
    moves = [np.linalg.norm(record.target_positions - record.positions[0], axis=1) for record in records]
    far, tags = np.concatenate(moves), np.concatenate([record.tags for record in records])
    return {tag: float(far[tags == tag].mean()) for tag in MOVING_TAGS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("data/prepared/emt"))
    arguments = parser.parse_args()
    dataset = PreparedDataset(arguments.data)
    splits = {}
    for name in dataset.splits:
        split = dataset.split(name)
        splits[name] = [split[row] for row in range(len(split))]
    surface, adsorbate = mean_displacements(splits["train"]).values()
    print(f"Mean displacement, train: surface atoms {surface:.3f}, adsorbate atoms {adsorbate:.3f} Angstrom\n")
    print(table(splits, read_labels(arguments.data / "systems.csv")))


if __name__ == "__main__":
    main()
