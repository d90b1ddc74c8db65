"""Statistics of a prepared dataset, from its shards, one shard in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from geomformer.records import CONFORMER_SOURCES

TRAIN = "train"


def target_statistics(values: np.ndarray) -> dict[str, float | int | None]:
    """Returns count, mean, std, min, max and mean absolute deviation of the labels that are there.

    Args:
        values: labels, NaN where there is none. (R,)
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return {"count": 0, "mean": None, "std": None, "min": None, "max": None, "mean_abs_dev": None}
    mean = float(known.mean())
    return {
        "count": len(known),
        "mean": mean,
        "std": float(known.std()),
        "min": float(known.min()),
        "max": float(known.max()),
        "mean_abs_dev": float(np.abs(known - mean).mean()),
    }


def _tables(out: Path, split: Mapping[str, Any], columns: list[str]) -> Iterator[pa.Table]:
    for item in split["files"]:
        present = set(pq.read_schema(out / item["file"]).names)
        yield pq.read_table(out / item["file"], columns=[name for name in columns if name in present])


def _flat(column: pa.ChunkedArray) -> np.ndarray:
    return np.concatenate([chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks] or [np.zeros(0)])


def _atoms(table: pa.Table) -> np.ndarray:
    """Returns the number of atoms (or particles) of every row. (R,) int64."""
    lengths = pc.list_value_length(table.column("positions")).to_numpy()
    return lengths // (3 * table.column("num_conformers").to_numpy().astype(np.int64))


def _elements_per_molecule(table: pa.Table) -> np.ndarray:
    """Returns in how many rows each atomic number occurs. (256,) int64."""
    column = table.column("atomic_numbers")
    numbers = _flat(column).astype(np.int64)
    rows = np.repeat(np.arange(table.num_rows), pc.list_value_length(column).to_numpy())
    return np.bincount(np.unique(rows * 256 + numbers) % 256, minlength=256)


def training_statistics(tables: Iterable[pa.Table], targets: Mapping[str, str]) -> dict[str, Any]:
    """Returns the manifest's statistics of the rows that a model is trained on.

    Args:
        tables: those rows, with the targets and, for molecules, `atomic_numbers`.
        targets: unit of every target by name.
    """
    elements = np.zeros(256, np.int64)
    labels: dict[str, list[np.ndarray]] = {name: [np.zeros(0)] for name in targets}
    for table in tables:
        if "atomic_numbers" in table.column_names:
            elements += _elements_per_molecule(table)
        for target in targets:
            labels[target].append(table.column(target).to_numpy())
    return {
        "targets": {
            target: {"unit": unit, **target_statistics(np.concatenate(labels[target]))}
            for target, unit in targets.items()
        },
        "training_molecules_per_element": {str(i): int(count) for i, count in enumerate(elements) if count},
    }


def summarise(out: Path, splits: Mapping[str, Mapping[str, Any]], targets: Mapping[str, str]) -> dict[str, Any]:
    """Returns the manifest's statistics: of train targets, atoms, conformer sources and elements.

    Args:
        out: folder of the dataset.
        splits: rows and files of every split, as in the manifest.
        targets: unit of every target by name.
    """
    atoms: list[np.ndarray] = []
    sources = np.zeros(256, np.int64)
    for _, split in sorted(splits.items()):
        for table in _tables(out, split, ["positions", "num_conformers", "conformer_source"]):
            atoms.append(_atoms(table))
            sources += np.bincount(_flat(table.column("conformer_source")).astype(np.int64), minlength=256)
    counts = np.concatenate(atoms)
    train = _tables(out, splits[TRAIN], ["atomic_numbers", *targets]) if TRAIN in splits else ()
    return {
        "atoms": {"max": int(counts.max()), "mean": float(counts.mean())},
        "conformer_sources": {name: int(sources[i]) for i, name in enumerate(CONFORMER_SOURCES)},
        **training_statistics(train, targets),
    }
