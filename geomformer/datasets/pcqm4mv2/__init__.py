"""PCQM4Mv2: 3.7 million molecules with HOMO-LUMO gaps, DFT geometries for the train split only."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from geomformer.datasets.options import PrepareOptions, chemistry_fields
from geomformer.datasets.pcqm4mv2.review import Review, build
from geomformer.datasets.pcqm4mv2.sources import (
    ARCHIVE,
    GEOMETRIES,
    OFFICIAL_ROWS,
    SPLITS,
    Files,
    find,
    sdf_records,
    table_rows,
)
from geomformer.datasets.pcqm4mv2.split import read_splits
from geomformer.datasets.pipeline import Progress, prepare_molecules
from geomformer.datasets.raw.download import RemoteFile, entries, fetch_all
from geomformer.datasets.rows import Limit
from geomformer.errors import ConfigError, DataError
from geomformer.files import describe_file
from geomformer.prepared.storage import DatasetDescription
from geomformer.records import RawMolecule

logger = logging.getLogger(__name__)

LEVEL_OF_THEORY = "B3LYP/6-31G*"
TARGET = "gap"
NUM_CONFORMERS = 8
_FITTING = "Use the table, the split and the SDF that belong together."

FILES = (
    RemoteFile(
        ARCHIVE,
        "https://dgl-data.s3-accelerate.amazonaws.com/dataset/OGB-LSC/pcqm4m-v2.zip",
        "md5:65b742bafca5670be4497499db7d361b",
        60_000_000,
        ("http://ogb-data.stanford.edu/data/lsc/pcqm4m-v2.zip",),
    ),
    RemoteFile(
        GEOMETRIES,
        "http://ogb-data.stanford.edu/data/lsc/pcqm4m-v2-train.sdf.tar.gz",
        "md5:fd72bce606e7ddf36c2a832badeec6ab",
        1_500_000_000,
    ),
)


def prepare(
    *,
    raw: Sequence[Path],
    out: Path,
    data_root: Path,
    options: PrepareOptions,
    progress: Progress | None = None,
) -> Path:
    """Prepares PCQM4Mv2 with the DFT geometries of the train split as `target_positions`.

    A train row whose geometry is that of another molecule keeps its label and has no `target_positions`. Rows of the
    other splits get a flat drawing where nothing better can be made of them.

    Args:
        raw: the official archives or what is in them, or folders of these; nothing: `DATA_ROOT/raw/pcqm4mv2`, where
            what is missing is downloaded to.
        out: folder of the prepared dataset.
        data_root: root of raw and prepared data.
        options: `use_geometry=False` does without the geometries.
        progress: called after every row.

    Returns:
        `out`.

    Raises:
        DataError: files are missing, cannot be downloaded, are damaged, or the geometries are not in the order of the
            train split.
        ConfigError: a target other than "gap", conformers that are not generated, or `out` holds something else.
    """
    for name in options.targets:
        if name != TARGET:
            raise ConfigError(
                f"Expected the target {TARGET}, found '{name}': PCQM4Mv2 has no other.", "Leave out --target."
            )
    chemistry = options.chemistry_options(num_conformers=NUM_CONFORMERS)
    if chemistry.geometry != "generate":
        raise ConfigError(
            "PCQM4Mv2 has no geometries for validation and test: its conformers are generated.",
            "Leave out the other geometry.",
        )
    use_geometry = options.use_geometry is not False
    files = _files(raw, data_root / "raw" / "pcqm4mv2", use_geometry)
    splits = read_splits(files.splits)
    _compare_sizes(splits)
    description = DatasetDescription(
        dataset="pcqm4mv2",
        targets={TARGET: "ev"},
        sources=[describe_file(path) for path in files.all],
        options=chemistry_fields(chemistry, options, use_geometry),
        level_of_theory=options.level_of_theory or LEVEL_OF_THEORY,
    )
    limit = options.limit
    total = sum(len(indices) if limit is None else min(limit, len(indices)) for indices in splits.values())
    review = Review(splits["train"][:limit], options.rows_per_shard(total), chemistry)
    prepare_molecules(
        molecules(files, splits, limit),
        out,
        description,
        options,
        chemistry=chemistry,
        build=functools.partial(build, options=chemistry),
        review=review,
        total=total,
        progress=progress,
    )
    review.report()
    return out


def _files(raw: Sequence[Path], folder: Path, use_geometry: bool) -> Files:
    files = find(list(raw) or entries(folder), geometry=use_geometry)
    if isinstance(files, list) and not raw:
        fetch_all([file for file in FILES if file.name in files], folder)
        files = find(entries(folder), geometry=use_geometry)
    if isinstance(files, Files):
        return files
    what = {ARCHIVE: f"{ARCHIVE} (or its data.csv.gz and split_dict.pt)", GEOMETRIES: f"{GEOMETRIES} (or its .sdf)"}
    places = ", ".join(f"{path}{'' if path.exists() else ' (missing)'}" for path in raw) or str(folder)
    without = " --no-use-geometry does without the train geometries." if GEOMETRIES in files else ""
    raise DataError(
        f"Expected {' and '.join(what[name] for name in files)}, found none in {places}.",
        f"Name the files, or a folder that holds them, with --raw.{without}",
    )


def _compare_sizes(splits: Mapping[str, np.ndarray]) -> None:
    found = {name: len(splits.get(name, ())) for name in SPLITS}
    if found != OFFICIAL_ROWS:
        sizes = ["; ".join(f"{name} {rows}" for name, rows in counts.items()) for counts in (OFFICIAL_ROWS, found)]
        logger.warning("the split is not the official one: expected %s rows, found %s", *sizes)


def molecules(files: Files, splits: Mapping[str, np.ndarray], limit: int | None) -> Iterator[RawMolecule]:
    """Yields the rows of the table in its order; train rows take the next record of the SDF.

    Args:
        files: where they come from.
        splits: names of splits and idx of their rows, ascending. (R,)
        limit: only the first so many rows of each split.

    Raises:
        DataError: a file is damaged, the table lacks rows of a split, or the SDF has not one record per train row.
    """
    names: tuple[str, ...] = tuple(splits)
    number = np.full(1 + max((int(rows[-1]) for rows in splits.values() if len(rows)), default=0), -1, np.int8)
    for code, rows in enumerate(splits.values()):
        number[rows] = code
    blocks = None if files.geometry is None else sdf_records(files.geometry)
    wanted = sum(len(rows) if limit is None else min(limit, len(rows)) for rows in splits.values())
    within, num_train = Limit(limit), 0
    for index, smiles, gap in table_rows(files.table):
        code = int(number[index]) if index < len(number) else -1
        if code < 0:
            yield RawMolecule(index, str(index), smiles, problem="The row is in no split of split_dict.pt.")
            continue
        split = names[code]
        if not within(split):
            continue
        raw = RawMolecule(index, str(index), smiles, targets={TARGET: gap}, split=split)
        if blocks is not None and split == "train":
            raw.reference_block = next(blocks, None)
            if raw.reference_block is None:
                raise _wrong_count(files, num_train, splits)
            num_train += 1
        yield raw
        wanted -= 1
        if limit is not None and wanted == 0:
            return
    if wanted:
        raise DataError(f"The table in {files.table} lacks {wanted} of the rows that {files.splits} divides.", _FITTING)
    if limit is None and blocks is not None and (more := sum(1 for _ in blocks)):
        raise _wrong_count(files, num_train + more, splits)


def _wrong_count(files: Files, found: int, splits: Mapping[str, np.ndarray]) -> DataError:
    expected = len(splits["train"])
    return DataError(
        f"Expected one record per train row in {files.geometry}, {expected} in all, found {found}.",
        _FITTING,
    )
