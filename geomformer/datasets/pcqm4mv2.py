"""PCQM4Mv2: 3.7 million molecules with HOMO-LUMO gaps, DFT geometries for the train split only."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from geomformer.chem.build import ChemistryOptions
from geomformer.chem.build import build as chem_build
from geomformer.chem.composition import block_composition, formula, smiles_composition
from geomformer.chem.drawing import flat_record
from geomformer.datasets.download import RemoteFile, entries, fetch_all
from geomformer.datasets.pcqm4mv2_sources import (
    ARCHIVE,
    GEOMETRIES,
    OFFICIAL_ROWS,
    SPLITS,
    Files,
    find,
    lost_reason,
    read_splits,
    sdf_records,
    table_rows,
)
from geomformer.datasets.pipeline import Limit, PrepareOptions, Progress, chemistry_fields, prepare_molecules
from geomformer.errors import ConfigError, DataError, MoleculeError
from geomformer.executors import Failure, LocalExecutor
from geomformer.files import describe_file
from geomformer.prepared.storage import DatasetDescription
from geomformer.records import CONFORMER_SOURCES, RawMolecule, Record

logger = logging.getLogger(__name__)

LEVEL_OF_THEORY = "B3LYP/6-31G*"
TARGET = "gap"
NUM_CONFORMERS = 8
DRAWING_SECONDS = 60.0
"""Time for the drawing of a molecule that took a worker down."""
MAX_MISMATCHES = 0.1
"""With a larger share of geometries of other molecules in a shard the SDF is not in the order of the train split."""
MIN_MISMATCHES = 5
SHOWN = 10

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
        ConfigError: a target other than "gap", or `out` holds something else.
    """
    for name in options.targets:
        if name != TARGET:
            raise ConfigError(f"Expected the target {TARGET}, found '{name}': PCQM4Mv2 has no other.")
    use_geometry = options.use_geometry is not False
    files = _files(raw, data_root / "raw" / "pcqm4mv2", use_geometry)
    splits = read_splits(files.splits)
    _compare_sizes(splits)
    chemistry = options.chemistry_options(num_conformers=NUM_CONFORMERS)
    description = DatasetDescription(
        dataset="pcqm4mv2",
        targets={TARGET: "ev"},
        sources=[describe_file(path) for path in files.all],
        options=chemistry_fields(chemistry, options, use_geometry),
        level_of_theory=options.level_of_theory or LEVEL_OF_THEORY,
    )
    limit = options.limit
    total = sum(len(indices) if limit is None else min(limit, len(indices)) for indices in splits.values())
    review = Review(splits["train"][:limit], options.rows_per_shard(total), chemistry, options.timeout)
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
    number = np.full(1 + max(int(rows[-1]) for rows in splits.values() if len(rows)), -1, np.int8)
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
        raise DataError(f"The table in {files.table} lacks {wanted} of the rows that {files.splits} divides.")
    if limit is None and blocks is not None and (more := sum(1 for _ in blocks)):
        raise _wrong_count(files, num_train + more, splits)


def _wrong_count(files: Files, found: int, splits: Mapping[str, np.ndarray]) -> DataError:
    expected = len(splits["train"])
    return DataError(
        f"Expected one record per train row in {files.geometry}, {expected} in all, found {found}.",
        "Use the SDF that belongs to the split.",
    )


def build(raw: RawMolecule, options: ChemistryOptions) -> Record | MoleculeError:
    """Turns a row into a record, in a worker process.

    A geometry of another molecule is not used. Rows that are not for training are drawn if nothing else works.
    """
    if raw.reference_block is not None and block_composition(raw.reference_block) != smiles_composition(raw.text):
        raw = dataclasses.replace(raw, reference_block=None)
    result = chem_build(raw, options)
    if isinstance(result, MoleculeError) and _is_evaluated(raw):
        drawn = flat_record(raw, options)
        return drawn if isinstance(drawn, Record) else result
    return result


def _is_evaluated(raw: RawMolecule) -> bool:
    return raw.split is not None and raw.split != "train"


class Review:
    """Looks at every result: geometries of other molecules, and rows that must not be lost.

    Args:
        train: idx of the train rows in order. (R,)
        window: train rows among which mismatches are counted: those of a shard.
        chemistry: how molecules become records.
        timeout: seconds for a row.
    """

    def __init__(self, train: np.ndarray, window: int, chemistry: ChemistryOptions, timeout: float) -> None:
        self._train, self._window = train, window
        self._chemistry = chemistry
        self._timeout = min(timeout, DRAWING_SECONDS)
        self._mismatches: dict[int, int] = {}
        self._misfits: list[str] = []
        self._flat: list[str] = []
        self._lost: list[str] = []

    def __call__(self, raw: RawMolecule, result: Record | MoleculeError | Failure) -> Record | MoleculeError | Failure:
        if not isinstance(result, Record):
            return self._rescue(raw, result) if _is_evaluated(raw) else result
        if raw.reference_block is not None and result.target_positions is None:
            self._compare(raw, raw.reference_block)
        if CONFORMER_SOURCES[result.conformer_source[0]] == "flat_2d":
            self._flat.append(raw.id)
        return result

    def _compare(self, raw: RawMolecule, block: str) -> None:
        """Notes a geometry that does not fit; many of other molecules cannot be an accident."""
        expected, found = smiles_composition(raw.text), block_composition(block)
        if expected == found:
            self._misfits.append(raw.id)
            return
        row = int(np.searchsorted(self._train, raw.index))
        window = row // self._window
        self._mismatches[window] = count = self._mismatches.get(window, 0) + 1
        what = f"row {raw.id} is {formula(expected)}, record {row} of the SDF (from 0) is {formula(found)}"
        if count <= MIN_MISMATCHES:
            logger.warning("geometry of another molecule, left out: %s", what)
        rows = min(self._window, len(self._train) - window * self._window)
        if count >= MIN_MISMATCHES and count > MAX_MISMATCHES * rows:
            raise DataError(
                f"The SDF is not in the order of the train split: {what}, like {count - 1} of the rows before.",
                "Use the official SDF together with the official split; nothing of this shard was written.",
            )

    def _rescue(self, raw: RawMolecule, result: MoleculeError | Failure) -> Record | MoleculeError:
        """Draws a molecule that took its worker down, in a process of its own, for it may do so again."""
        if isinstance(result, Failure):
            logger.warning("row %s: %s; it is drawn instead", raw.id, result.reason)
            for drawn in (True, False):
                draw = functools.partial(flat_record, options=self._chemistry, drawn=drawn)
                with LocalExecutor(1, timeout=self._timeout) as executor:
                    found = next(iter(executor.map(draw, [raw])))
                if isinstance(found, Record):
                    self._flat.append(raw.id)
                    return found
            result = MoleculeError("failed", result.reason)
        self._lost.append(raw.id)
        return MoleculeError(result.status, lost_reason(result.message, raw.split))

    def report(self) -> None:
        """Logs what happened in this run to rows that are not as they should be."""
        mismatches = sum(self._mismatches.values())
        if mismatches or self._misfits:
            logger.warning(
                "%d train rows have no reference geometry: %d are of another molecule, %d have other bonds%s",
                mismatches + len(self._misfits),
                mismatches,
                len(self._misfits),
                _listed(self._misfits),
            )
        if self._flat:
            logger.warning("%d rows have a flat drawing for a geometry%s", len(self._flat), _listed(self._flat))
        if self._lost:
            logger.error(
                "%d rows of validation or test are LOST, see rejected.parquet; an evaluation without them is not the "
                "official one%s",
                len(self._lost),
                _listed(self._lost),
            )


def _listed(ids: Sequence[str]) -> str:
    return f": {', '.join(ids[:SHOWN])}{', ...' if len(ids) > SHOWN else ''}" if ids else ""
