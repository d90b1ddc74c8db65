"""Molecule3D: 3.9 million molecules of PubChemQC with DFT geometries, all hydrogens and B3LYP/6-31G* properties.

Source: Xu et al., "Molecule3D: A Benchmark for Predicting 3D Geometries from Molecular Graphs", arXiv:2110.01717.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from geomformer.chem.build import ChemistryOptions
from geomformer.chem.scaffolds import murcko_scaffold
from geomformer.datasets.molecule3d.sources import (
    COLUMNS,
    INDEX_FILES,
    Files,
    check_properties,
    find_files,
    read_indices,
    read_rows,
)
from geomformer.datasets.options import PrepareOptions, chemistry_fields, open_executor
from geomformer.datasets.pipeline import Progress, prepare_molecules
from geomformer.datasets.rows import text_key
from geomformer.errors import ConfigError, DataError, MoleculeError, nearest
from geomformer.executors import Failure
from geomformer.files import describe_file
from geomformer.prepared.schemes import ALL, NO_SPLIT, SPLITS
from geomformer.prepared.splits import scaffold_split, split_ends
from geomformer.prepared.storage import DatasetDescription, check_folder
from geomformer.records import RawMolecule

logger = logging.getLogger(__name__)

LEVEL_OF_THEORY = "B3LYP/6-31G*"
FRACTIONS = {"train": 0.6, "valid": 0.2, "test": 0.2}
SPLIT_SEED = 42
SCAFFOLD_BATCH = 200
"""SMILES that a worker is given at a time."""


def prepare(
    *,
    raw: Sequence[Path],
    out: Path,
    data_root: Path,
    options: PrepareOptions,
    progress: Progress | None = None,
) -> Path:
    """Prepares Molecule3D: all rows in one set of shards, divided by the random and the scaffold scheme.

    The DFT geometry with all hydrogens is the input of the model (`conformer_source` dft). With more than one
    conformer, or `use_geometry` False, conformers are generated instead, and unless that is False the DFT geometry is
    their `target_positions`.

    The published split files are used where they are there; otherwise the published procedure divides the rows anew
    (see `random_numbers` and `Division`). With `limit` the rows are the first ones of each split; a scaffold split
    that is made anew then divides just these rows.

    Args:
        raw: the SDF files, `properties.csv` and split files, or folders that hold them; nothing:
            `DATA_ROOT/raw/molecule3d`.
        out: folder of the prepared dataset.
        data_root: root of raw and prepared data.
        options: `targets` chooses among the labels (names as in `COLUMNS`), `split_scheme` is "random", "scaffold" or
            "both".
        progress: called after every row.

    Returns:
        `out`.

    Raises:
        DataError: files are missing, damaged, or do not belong together.
        ConfigError: there is no such target or scheme, or `out` holds something else.
    """
    schemes = _schemes(options.split_scheme)
    targets = _targets(options.targets)
    check_folder(out)
    files = find_files(raw, data_root / "raw" / "molecule3d")
    logger.info("looking through the table, and checksums of the files")
    check_properties(files)
    indices = {scheme: files.indices[scheme] for scheme in schemes if scheme in files.indices}
    division = divided(files, schemes, options)
    chemistry = _chemistry(options)
    use_geometry = options.use_geometry is not False
    description = DatasetDescription(
        dataset="molecule3d",
        targets=targets,
        sources=[describe_file(path) for path in (*_paths(files), *indices.values())],
        options={
            **chemistry_fields(chemistry, options, use_geometry),
            "split_schemes": {name: indices[name].name if name in indices else "regenerated" for name in schemes},
        },
        level_of_theory=options.level_of_theory or LEVEL_OF_THEORY,
        seed=SPLIT_SEED,
        divide=division,
    )
    referenced = use_geometry and chemistry.geometry == "generate"
    rows = _rows(files, tuple(targets), division.chosen, referenced)
    total = len(division.chosen)
    return prepare_molecules(rows, out, description, options, chemistry=chemistry, total=total, progress=progress)


def random_numbers(num_rows: int) -> np.ndarray:
    """Returns the published random split: numpy's shuffle with seed 42, cut at 60 and 80 %.

    Returns:
        number of every row's split in `SPLITS`. (R,) uint8
    """
    order = np.arange(num_rows)
    np.random.RandomState(SPLIT_SEED).shuffle(order)
    numbers = np.empty(num_rows, np.uint8)
    for split, part in enumerate(np.split(order, split_ends(num_rows, FRACTIONS))):
        numbers[part] = split
    return numbers


@dataclass(frozen=True)
class Division:
    """Divides the rows of the finished shards.

    Attributes:
        chosen: source rows that are prepared, in order. (R,) int64
        schemes: split of every source row by scheme, see `schemes.Divide`; None for the scaffold split that is made
            from the shards: sets of molecules with the same Bemis-Murcko scaffold, the largest first, to train, then
            valid, then test. A row that gave no record counts as a set of its own, so that the splits are 60, 20 and
            20 % of the same rows for everybody.
        options: for the processes that find scaffolds.
    """

    chosen: np.ndarray
    schemes: Mapping[str, np.ndarray | None]
    options: PrepareOptions

    def __call__(self, shards: Sequence[Path], rejected: np.ndarray) -> dict[str, np.ndarray]:
        kept = ~np.isin(self.chosen, rejected)
        return {
            name: (self._by_scaffold(shards, kept) if numbers is None else numbers[self.chosen])[kept]
            for name, numbers in self.schemes.items()
        }

    def _by_scaffold(self, shards: Sequence[Path], kept: np.ndarray) -> np.ndarray:
        logger.info("finding the scaffolds of %d molecules", int(kept.sum()))
        keys = np.array([text_key(f"row {row}") for row in self.chosen[~kept].tolist()], np.uint64)
        scaffolds = np.empty(len(self.chosen), np.uint64)
        scaffolds[~kept] = keys
        with open_executor(self.options) as executor:
            found = []
            for result in executor.map(scaffold_keys, _smiles(shards)):
                if isinstance(result, Failure):
                    raise DataError(f"Scaffolds could not be found: {result.reason}.", "Run the same command again.")
                found.append(result)
        scaffolds[kept] = np.concatenate(found)
        return scaffold_split(scaffolds, FRACTIONS)


def scaffold_keys(smiles: Sequence[str]) -> np.ndarray:
    """Returns a number that stands for the scaffold of every molecule; without one, for the molecule. (R,) uint64"""
    return np.array([text_key(_scaffold(text)) for text in smiles], np.uint64)


def _scaffold(smiles: str) -> str:
    try:
        return murcko_scaffold(smiles)
    except MoleculeError:
        return f"none of {smiles}"


def _smiles(shards: Sequence[Path]) -> Iterator[list[str]]:
    for path in shards:
        smiles = pq.read_table(path, columns=["smiles"]).column("smiles").to_pylist()
        yield from (smiles[start : start + SCAFFOLD_BATCH] for start in range(0, len(smiles), SCAFFOLD_BATCH))


def divided(files: Files, schemes: Sequence[str], options: PrepareOptions) -> Division:
    """Reads or draws the splits of all source rows, and chooses the rows that are prepared.

    Raises:
        DataError: a split file does not fit the records.
    """
    numbers: dict[str, np.ndarray | None] = {}
    for scheme in schemes:
        if scheme in files.indices:
            numbers[scheme] = read_indices(files.indices[scheme], files.num_records)
        else:
            numbers[scheme] = random_numbers(files.num_records) if scheme == "random" else None
    if options.limit is None:
        return Division(np.arange(files.num_records), numbers, options)
    limited = {name: None if known is None else _first_of_each(known, options.limit) for name, known in numbers.items()}
    by = [known for known in limited.values() if known is not None]
    by = by or [_first_of_each(random_numbers(files.num_records), options.limit)]
    chosen = np.flatnonzero(np.any([known != NO_SPLIT for known in by], axis=0))
    return Division(chosen, limited, options)


def _first_of_each(numbers: np.ndarray, limit: int) -> np.ndarray:
    """Returns the splits of the first so many rows of each, `NO_SPLIT` for the others."""
    result = np.full_like(numbers, NO_SPLIT)
    for split in range(len(SPLITS)):
        result[np.flatnonzero(numbers == split)[:limit]] = split
    return result


def _rows(files: Files, targets: Sequence[str], chosen: np.ndarray, referenced: bool) -> Iterator[RawMolecule]:
    wanted = np.zeros(files.num_records, bool)
    wanted[chosen] = True
    last = int(chosen[-1])
    for raw in read_rows(files, targets):
        if wanted[raw.index]:
            yield dataclasses.replace(raw, split=ALL, reference_block=raw.text if referenced else None)
        if raw.index == last and last + 1 < files.num_records:
            return


def _chemistry(options: PrepareOptions) -> ChemistryOptions:
    if options.use_geometry is False or options.chemistry.get("num_conformers", 1) > 1:
        return options.chemistry_options(hydrogens=True)
    return options.chemistry_options(num_conformers=1, hydrogens=True, geometry="dft")


def _paths(files: Files) -> list[Path]:
    return [*(shard.path for shard in files.shards), files.properties]


def _schemes(asked: str | None) -> tuple[str, ...]:
    if asked in (None, "both"):
        return tuple(INDEX_FILES)
    if asked not in INDEX_FILES:
        raise ConfigError(
            f"Expected the split scheme random, scaffold or both, found '{asked}'."
            f"{nearest(asked, [*INDEX_FILES, 'both'])}"
        )
    return (asked,)


def _targets(asked: Sequence[str]) -> dict[str, str]:
    for name in asked:
        if name not in COLUMNS:
            raise ConfigError(f"Expected targets among {', '.join(COLUMNS)}, found '{name}'.{nearest(name, COLUMNS)}")
    return {name: unit for name, (_, unit) in COLUMNS.items() if not asked or name in asked}
