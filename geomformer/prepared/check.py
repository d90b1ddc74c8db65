"""Checking a prepared dataset against its manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from geomformer.files import file_sha256
from geomformer.prepared.dataset import PreparedDataset
from geomformer.prepared.schema import NEEDED_COLUMNS
from geomformer.prepared.schemes import index_problems
from geomformer.prepared.storage import REJECTED


def check_dataset(path: Path, progress: Callable[[int, int | None], None] | None = None) -> list[str]:
    """Returns what is wrong with a prepared dataset, nothing if it is sound.

    Every file that the manifest lists is read: its checksum, its number of rows, identifiers that occur twice in a
    split, lengths of lists that do not fit the number of atoms, coordinates that are no numbers.

    Args:
        path: its folder.
        progress: called with the files done and their number.

    Raises:
        DataError: there is no complete prepared dataset, or its manifest cannot be read.
    """
    manifest = PreparedDataset(path).manifest
    splits = manifest["splits"]
    total = sum(len(split["files"]) for split in splits.values())
    problems: list[str] = []
    done = 0
    for name, split in splits.items():
        ids: list[np.ndarray] = []
        for item in split["files"]:
            problems.extend(_shard_problems(path / item["file"], item, ids))
            done += 1
            if progress is not None:
                progress(done, total)
        problems.extend(_repeated(name, ids))
        if sum(item["rows"] for item in split["files"]) != split["rows"]:
            problems.append(f"split {name}: the rows of its files do not add up to {split['rows']}")
    problems.extend(index_problems(path, manifest))
    problems.extend(_rejected_problems(path, manifest))
    problems.extend(_unlisted(path, splits))
    return problems


def _shard_problems(path: Path, item: dict[str, Any], ids: list[np.ndarray]) -> Iterator[str]:
    if not path.exists():
        yield f"{path.name} is missing"
        return
    if file_sha256(path) != item["sha256"]:
        yield f"{path.name} is not the file that the manifest lists (sha256)"
        return
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        yield f"{path.name} cannot be read: {error}"
        return
    missing = sorted(NEEDED_COLUMNS.difference(table.column_names))
    if missing:
        yield f"{path.name} has no column {', '.join(missing)}"
        return
    if table.num_rows != item["rows"]:
        yield f"{path.name} has {table.num_rows} rows, the manifest says {item['rows']}"
    ids.append(_hashes(table.column("id")))
    yield from (f"{path.name}: {problem}" for problem in _content_problems(table))


def _hashes(column: pa.ChunkedArray) -> np.ndarray:
    return np.array([hash(name) for name in column.to_pylist()], np.int64)


def _content_problems(table: pa.Table) -> Iterator[str]:
    positions = table.column("positions")
    lengths = pc.list_value_length(positions).to_numpy()
    per_conformer = 3 * table.column("num_conformers").to_numpy().astype(np.int64)
    atoms = lengths // np.maximum(per_conformer, 1)
    if (atoms * per_conformer != lengths).any() or (atoms < 1).any():
        yield f"row {int(np.flatnonzero((atoms * per_conformer != lengths) | (atoms < 1))[0])}: broken positions"
        return
    for name, factor in (("atomic_numbers", 1), ("particle_charges", 1), ("target_positions", 3), ("forces", 3)):
        if name in table.column_names:
            found = pc.list_value_length(table.column(name))
            wrong = pc.fill_null(pc.not_equal(found, pa.array(atoms * factor)), False).to_numpy()
            if wrong.any():
                yield f"row {int(np.flatnonzero(wrong)[0])}: {name} does not fit the number of atoms"
    for name in ("positions", *({"target_positions"} & set(table.column_names))):
        values = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in table.column(name).chunks]
        if not all(np.isfinite(part).all() for part in values):
            yield f"{name} has values that are no numbers"


def _repeated(split: str, ids: list[np.ndarray]) -> Iterator[str]:
    if not ids:
        return
    count = sum(map(len, ids)) - len(np.unique(np.concatenate(ids)))
    if count:
        yield f"split {split}: {count} identifiers occur more than once"


def _rejected_problems(path: Path, manifest: dict[str, Any]) -> Iterator[str]:
    file = path / REJECTED
    try:
        rows = pq.read_metadata(file).num_rows if file.exists() else 0
    except (pa.ArrowInvalid, OSError) as error:
        yield f"{REJECTED} cannot be read: {error}"
        return
    if rows != manifest.get("rejected", 0):
        yield f"{REJECTED} has {rows} rows, the manifest says {manifest.get('rejected', 0)}"
    kept = sum(split["rows"] for split in manifest["splits"].values())
    if kept + rows != manifest.get("input_rows"):
        yield f"{manifest.get('input_rows')} input rows, of which {kept} are kept and {rows} rejected"


def _unlisted(path: Path, splits: dict[str, Any]) -> Iterator[str]:
    listed = {item["file"] for split in splits.values() for item in split["files"]}
    for file in sorted(path.glob("*-[0-9][0-9][0-9][0-9][0-9]*.parquet")):
        if file.name not in listed:
            yield f"{file.name} is not listed in the manifest"
