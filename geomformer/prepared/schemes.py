"""Several split schemes over one set of shards: all rows lie in the split "all", and every scheme has an index file.

Row k of an index file says which split the k-th row of "all" belongs to, or nothing if it is in none.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from geomformer.errors import DataError, nearest
from geomformer.files import file_sha256, locked
from geomformer.prepared.statistics import training_statistics

ALL = "all"
"""Name of the split that holds all rows of a dataset with schemes."""

SPLITS = ("train", "valid", "test")
NO_SPLIT = 255

Divide = Callable[[Sequence[Path], np.ndarray], Mapping[str, np.ndarray]]
"""Divides the rows of a finished dataset: shard files in order and source rows (R,) int64 that were rejected -> for
every scheme, the default one first, the number of each kept row's split in `SPLITS`, else `NO_SPLIT`. (R,) uint8"""


def index_file(scheme: str) -> str:
    """Returns the name of a scheme's index file."""
    return f"scheme-{scheme}.parquet"


def index_table(numbers: np.ndarray) -> pa.Table:
    """Returns the content of an index file.

    Args:
        numbers: split of every row, see `Divide`. (R,) uint8
    """
    codes = pa.array(numbers, pa.uint8(), mask=numbers == NO_SPLIT)
    return pa.table({"split": pa.DictionaryArray.from_arrays(codes, pa.array(SPLITS))})


def write_schemes(
    out: Path,
    divide: Divide,
    files: Sequence[Mapping[str, Any]],
    rejected: Sequence[int],
    targets: Mapping[str, str],
    write_table: Callable[[Path, pa.Table], None],
) -> dict[str, Any]:
    """Writes the index files and returns what the manifest says of them.

    Args:
        out: folder of the dataset, whose shards are there.
        divide: gives the split of every row.
        files: of the split "all", as in the manifest.
        rejected: source rows that gave no record.
        targets: unit of every target by name.
        write_table: writes a Parquet file whole or not at all.

    Returns:
        "schemes" and "default_scheme", and the statistics of the default scheme's train split.

    Raises:
        DataError: `divide` does not give every row a split.
    """
    rows = sum(item["rows"] for item in files)
    divided = divide([out / item["file"] for item in files], np.array(rejected, np.int64))
    schemes: dict[str, Any] = {}
    for name, numbers in divided.items():
        if len(numbers) != rows:
            raise DataError(f"The split scheme '{name}' is for {len(numbers)} rows, the shards in {out} have {rows}.")
        path = out / index_file(name)
        write_table(path, index_table(numbers))
        counts = np.bincount(numbers, minlength=256)
        schemes[name] = {
            "file": path.name,
            "sha256": file_sha256(path),
            "splits": {split: {"rows": int(counts[i])} for i, split in enumerate(SPLITS) if counts[i]},
            **training_statistics(_train_tables(out, files, numbers, targets), targets),
        }
    default = next(iter(divided))
    return {
        "schemes": schemes,
        "default_scheme": default,
        **{key: schemes[default][key] for key in ("targets", "training_molecules_per_element")},
    }


def _train_tables(
    out: Path, files: Sequence[Mapping[str, Any]], numbers: np.ndarray, targets: Mapping[str, str]
) -> Iterator[pa.Table]:
    start = 0
    for item in files:
        table = pq.read_table(out / item["file"], columns=["atomic_numbers", *targets])
        chosen = numbers[start : start + table.num_rows] == SPLITS.index("train")
        start += table.num_rows
        yield table.filter(pa.array(chosen))


def choose_scheme(manifest: Mapping[str, Any], asked: str | None, path: Path) -> str | None:
    """Returns the scheme to use: the one that is asked for, else the dataset's default, None where it has none.

    Raises:
        DataError: there is no such scheme.
    """
    known = manifest.get("schemes", {})
    if asked is None:
        return manifest.get("default_scheme")
    if asked not in known:
        raise DataError(
            f"Expected the split scheme '{asked}' in {path}, found {', '.join(known) or 'no schemes but one split'}."
            f"{nearest(asked, known)}",
            f"Choose one of these{'' if known else ': leave the scheme out'}, or prepare the dataset with that scheme.",
        )
    return asked


def build_rows(dataset: Path, folder: Path, name: str, scheme: Mapping[str, Any], split: str) -> Path:
    """Returns the `.npy` file with the rows of "all" that a split of a scheme has, after making it on first use.

    Args:
        dataset: folder of the dataset.
        folder: where the file is kept.
        name: of the scheme.
        scheme: what the manifest says of it.
        split: name of the split.

    Raises:
        DataError: the index file is missing or not the one the manifest lists, or the result cannot be written.
    """
    path = folder / f"{name}-{split}.npy"
    if path.exists():
        return path
    numbers = _read_index(dataset / scheme["file"], scheme["sha256"])
    rows = np.flatnonzero(numbers == SPLITS.index(split)).astype(np.uint32)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / f"{path.name}.lock"):
            temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            with temporary.open("wb") as handle:
                np.save(handle, rows)
                handle.flush()
                os.fsync(handle.fileno())
            temporary.replace(path)
    except OSError as error:
        raise DataError(
            f"Cannot write the training cache {path}: {error.strerror or error}.", "Free some space there."
        ) from error
    return path


def _read_index(path: Path, sha256: str) -> np.ndarray:
    """Returns the split of every row, see `Divide`. (R,) uint8"""
    if not path.exists():
        raise DataError(f"Expected the index {path} that manifest.json lists, found nothing.", "Prepare it again.")
    if file_sha256(path) != sha256:
        raise DataError(f"The index {path} is damaged or not the one that manifest.json lists.", "Prepare it again.")
    column = pq.read_table(path).column("split").combine_chunks()
    names = column.dictionary.to_pylist()
    numbers = np.array([SPLITS.index(name) for name in names], np.uint8)
    codes = column.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)
    return np.append(numbers, np.uint8(NO_SPLIT))[codes]


def index_problems(path: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yields what is wrong with the index files of a prepared dataset.

    Args:
        path: its folder.
        manifest: its manifest.
    """
    for name, scheme in manifest.get("schemes", {}).items():
        try:
            numbers = _read_index(path / scheme["file"], scheme["sha256"])
        except DataError as error:
            yield error.message
            continue
        rows = manifest["splits"][ALL]["rows"]
        counts = {split: int((numbers == i).sum()) for i, split in enumerate(SPLITS)}
        listed = {split: scheme["splits"].get(split, {"rows": 0})["rows"] for split in SPLITS}
        if len(numbers) != rows or counts != listed:
            yield f"scheme {name}: {len(numbers)} rows {counts} in its index, {rows} rows {listed} in the manifest"
