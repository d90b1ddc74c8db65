"""QM9: 134,000 small organic molecules with B3LYP/6-31G(2df,p) geometries and properties."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from geomformer.datasets.options import PrepareOptions, chemistry_fields
from geomformer.datasets.pipeline import Progress, prepare_molecules
from geomformer.datasets.qm9.sources import (
    ARCHIVE,
    HIGHEST_ID,
    UNCHARACTERIZED,
    UNITS,
    Source,
    XyzFolder,
    open_source,
    uncharacterized,
)
from geomformer.datasets.raw.download import RemoteFile, entries, fetch_all, raw_files
from geomformer.datasets.rows import Limit
from geomformer.errors import ConfigError, DataError, nearest
from geomformer.files import describe_file
from geomformer.prepared.storage import DatasetDescription
from geomformer.records import RawMolecule

LEVEL_OF_THEORY = "B3LYP/6-31G(2df,p)"
SPLIT_SEED = 20240721
NUM_TRAIN, NUM_VALID = 110_000, 10_000
SPLITS = ("train", "valid", "test")

FILES = (
    RemoteFile(
        ARCHIVE,
        "https://ndownloader.figshare.com/files/3195389",
        "md5:ad1ebd51ee7f5b3a6e32e974e5d54012",
        86_000_000,
        ("https://springernature.figshare.com/ndownloader/files/3195389",),
    ),
    RemoteFile(
        UNCHARACTERIZED,
        "https://ndownloader.figshare.com/files/3195404",
        "md5:a361887bacb427b8a0ce7903d92a53b4",
        mirrors=("https://springernature.figshare.com/ndownloader/files/3195404",),
    ),
)

KNOWN_SPLITS = {
    # the 130,680 molecules of the Parquet table
    "00b269d8daae6bf809ce7c49a28d1ea5053ccef14a6fdbde522fe69bd3486f68": (
        "578b2e9c3d55161c1f87dfffb9de64588fbab602b7160d41b64666d5e5cecf22"
    ),
    # all 133,885
    "98ec3838ab5a223f786dccb3beeae0616e29e85110ede90e9706edf33980aac7": (
        "6b4dd61fe0256b3d904a40659f9c1dca6099a0aa4b536210abf86c49d61f1a24"
    ),
}
"""Hash of the split by the hash of the ids it divides: a check that the random generator still draws the same."""


def prepare(
    *,
    raw: Sequence[Path],
    out: Path,
    data_root: Path,
    options: PrepareOptions,
    progress: Progress | None = None,
) -> Path:
    """Prepares QM9 with the reference geometry as `target_positions`.

    Molecules in `uncharacterized.txt`, where that lies beside the data, are left out. The split is ours: 110,000 train,
    10,000 valid, the rest test, by a fixed seed (see `split_ids`).

    Args:
        raw: the archive, a folder of its files, `gdb9.sdf` or a Parquet table; nothing: `DATA_ROOT/raw/qm9`, where the
            archive is downloaded to if nothing is there.
        out: folder of the prepared dataset.
        data_root: root of raw and prepared data.
        options: `targets` chooses among the labels (names as in `UNITS`).
        progress: called after every row.

    Returns:
        `out`.

    Raises:
        DataError: the data are missing, cannot be downloaded, or are not QM9.
        ConfigError: there is no such target, or `out` holds something else.
    """
    source, excluded = open_source(_raw_files(raw, data_root / "raw" / "qm9"))
    left_out = uncharacterized(excluded) if excluded is not None else set()
    ids = source.ids()
    ids = ids[~np.isin(ids, list(left_out))]
    splits = split_ids(ids)
    use_geometry = options.use_geometry is not False
    chemistry = options.chemistry_options()
    description = DatasetDescription(
        dataset="qm9",
        targets=_targets(options.targets),
        sources=_describe(source, excluded),
        options=chemistry_fields(chemistry, options, use_geometry),
        level_of_theory=options.level_of_theory or LEVEL_OF_THEORY,
        seed=SPLIT_SEED,
    )
    rows = _rows(source, splits, tuple(description.targets), options.limit, use_geometry)
    limit = options.limit or len(ids)
    total = sum(min(limit, len(split)) for split in splits.values())
    return prepare_molecules(rows, out, description, options, chemistry=chemistry, total=total, progress=progress)


def split_ids(ids: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the gdb ids of every split, sorted.

    One fixed permutation of all ids of QM9 is drawn and those that are absent are skipped, so that forms of the data
    with a few molecules more or less have nearly the same split.

    Raises:
        DataError: the ids are not distinct numbers of QM9, or numpy draws another split than the one published here.
    """
    if len(np.unique(ids)) != len(ids) or not len(ids) or ids.min() < 1 or ids.max() > HIGHEST_ID:
        raise DataError(f"Expected distinct gdb ids from 1 to {HIGHEST_ID}, found others.")
    order = np.random.default_rng(SPLIT_SEED).permutation(np.arange(1, HIGHEST_ID + 1))
    order = order[np.isin(order, ids)]
    parts = np.split(order, [NUM_TRAIN, NUM_TRAIN + NUM_VALID])
    splits = {name: np.sort(part) for name, part in zip(SPLITS, parts, strict=True)}
    expected = KNOWN_SPLITS.get(ids_sha256([np.sort(ids)]))
    found = ids_sha256(list(splits.values()))
    if expected is not None and found != expected:
        raise DataError(f"The random split of QM9 came out as {found}, expected {expected}.", "Report this, please.")
    return splits


def ids_sha256(parts: Sequence[np.ndarray]) -> str:
    """Returns the sha256 of arrays of ids, as their numbers in text, arrays divided by a semicolon."""
    return hashlib.sha256(";".join(",".join(map(str, part.tolist())) for part in parts).encode()).hexdigest()


def _raw_files(raw: Sequence[Path], folder: Path) -> Sequence[Path]:
    if not raw and [path.name for path in entries(folder)] == [UNCHARACTERIZED]:
        return fetch_all(FILES, folder)
    return raw_files(raw, FILES, folder)


def _targets(asked: Sequence[str]) -> dict[str, str]:
    for name in asked:
        if name not in UNITS:
            raise ConfigError(f"Expected targets among {', '.join(UNITS)}, found '{name}'.{nearest(name, UNITS)}")
    return {name: unit for name, unit in UNITS.items() if not asked or name in asked}


def _describe(source: Source, excluded: Path | None) -> list[dict[str, object]]:
    described = [describe_file(path) for path in ([] if excluded is None else [excluded])]
    if not isinstance(source, XyzFolder):
        return [*(describe_file(path) for path in source.files), *described]
    digest = hashlib.sha256()
    for path in source.files:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    size = sum(path.stat().st_size for path in source.files)
    folder = {"file": f"{source.path.name}/", "bytes": size, "sha256": digest.hexdigest()}
    return [folder, *described]


def _rows(
    source: Source, splits: dict[str, np.ndarray], targets: tuple[str, ...], limit: int | None, use_geometry: bool
) -> Iterator[RawMolecule]:
    names = np.full(HIGHEST_ID + 1, -1, np.int8)
    for number, ids in enumerate(splits.values()):
        names[ids] = number
    within = Limit(limit)
    for gdb_id, raw in source.rows():
        split = SPLITS[names[gdb_id]] if names[gdb_id] >= 0 else None
        if split is None or not within(split):
            continue
        labels = {name: raw.targets[name] for name in targets if name in raw.targets}
        raw = dataclasses.replace(raw, split=split, targets=labels)
        if not use_geometry:
            raw = dataclasses.replace(raw, reference_numbers=None, reference_positions=None, reference_block=None)
        yield raw
