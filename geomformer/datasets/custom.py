"""Your own molecules: csv, smi, sdf or Parquet files with any number of target columns."""

from __future__ import annotations

import dataclasses
import math
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geomformer.datasets.pipeline import (
    Limit,
    PrepareOptions,
    Progress,
    UniqueIds,
    check_labels,
    chemistry_fields,
    count_labels,
    prepare_molecules,
    text_key,
)
from geomformer.errors import ConfigError, DataError, nearest
from geomformer.files import describe_file
from geomformer.io.columns import TargetColumn, target_columns
from geomformer.io.readers import input_columns, read_molecules
from geomformer.prepared.splits import grouped_split, split_counts
from geomformer.prepared.storage import DatasetDescription
from geomformer.records import RawMolecule

_SPLIT_NAMES = {"training": "train", "val": "valid", "validation": "valid", "dev": "valid", "testing": "test"}


@dataclass(frozen=True)
class _Source:
    """One input file and the columns to read from it."""

    path: Path
    columns: tuple[str, ...]

    def read(self, options: PrepareOptions) -> Iterator[RawMolecule]:
        return read_molecules(
            self.path,
            smiles_column=options.smiles_column,
            id_column=options.id_column,
            targets=self.columns,
            split_column=options.split_column,
        )


@dataclass
class _Survey:
    """What a first pass over the files found.

    Attributes:
        keys: a hash of every row's structure. (R,) uint64
        ids: a hash of every row's identifier. (R,) uint64
        labels: number of labels of every target.
        splits: rows of every split that the input names.
    """

    keys: np.ndarray
    ids: np.ndarray
    labels: dict[str, int]
    splits: Counter[str | None]


def prepare(
    *,
    raw: Sequence[Path],
    out: Path,
    data_root: Path,
    options: PrepareOptions,
    progress: Progress | None = None,
) -> Path:
    """Prepares files of molecules.

    Rows of several files are put one after another; a target column that a file lacks is NaN for its rows, so that
    files at different levels of theory can be mixed as different targets. Columns that end in an energy unit
    (`gap_hartree`) are converted to eV and named without it (`gap`); others keep name and values.
    With `use_geometry` the 3D coordinates of an SDF are the reference geometry; by default they are not used.
    Without a split column rows are split by seed, and rows with the same text of the structure stay together.

    Args:
        raw: the files.
        out: folder of the prepared dataset.
        data_root: not used.
        options: all of them are used.
        progress: called after every row.

    Returns:
        `out`.

    Raises:
        ConfigError: no file or no target is given, or a column does not exist.
        DataError: a file is unusable, a label is not numeric, a target has no label, or no molecule is valid.
    """
    if not raw:
        raise ConfigError("Expected at least one file of molecules, found none.", "Name csv, sdf or Parquet files.")
    if not options.targets:
        raise ConfigError("Expected at least one target column, found none.", "Name it with --target.")
    fractions = {name: options.fractions[name] for name in sorted(options.fractions, key=_split_order)}
    split_counts(1, fractions)
    targets = target_columns(options.targets)
    sources = _sources(raw, targets)
    survey = _survey(sources, options)
    check_labels({target.name: survey.labels.get(target.name, 0) for target in targets}, len(survey.keys))
    description = _description(raw, targets, fractions, options)
    splits = None
    if options.split_column is None:
        names = list(fractions)
        splits = [names[i] for i in grouped_split(survey.keys, fractions, options.seed or 0)]
    limit = options.limit or len(survey.keys)
    total = sum(min(limit, count) for count in (survey.splits if splits is None else Counter(splits)).values())
    rows = _rows(sources, targets, splits, UniqueIds(survey.ids), options)
    chemistry = options.chemistry_options()
    return prepare_molecules(rows, out, description, options, chemistry=chemistry, total=total, progress=progress)


def _description(
    raw: Sequence[Path], targets: Sequence[TargetColumn], fractions: Mapping[str, float], options: PrepareOptions
) -> DatasetDescription:
    return DatasetDescription(
        dataset="custom",
        targets={target.name: target.unit for target in targets},
        sources=[describe_file(path) for path in raw],
        options={
            **chemistry_fields(options.chemistry_options(), options, bool(options.use_geometry)),
            "target_columns": {target.name: target.column for target in targets},
            "smiles_column": options.smiles_column,
            "id_column": options.id_column,
            "split_column": options.split_column,
            "fractions": None if options.split_column else dict(fractions),
        },
        level_of_theory=options.level_of_theory,
        seed=options.seed or 0,
    )


def _split_order(name: str) -> tuple[bool, str]:
    return name != "train", name


def _sources(raw: Sequence[Path], targets: Sequence[TargetColumn]) -> list[_Source]:
    """Returns every file with those of the target columns that it has."""
    sources = []
    everything: dict[str, None] = {}
    for path in raw:
        columns = input_columns(path)
        everything.update(dict.fromkeys(columns))
        sources.append(_Source(path, tuple(target.column for target in targets if target.column in columns)))
    for target in targets:
        if target.column not in everything:
            raise ConfigError(
                f"Expected a target column '{target.column}' in {', '.join(str(path) for path in raw)}, found "
                f"{', '.join(everything) or 'no columns'}.{nearest(target.column, everything)}"
            )
    return sources


def _survey(sources: Sequence[_Source], options: PrepareOptions) -> _Survey:
    """Reads all files once: every label is checked before any long work starts."""
    keys, ids = array("Q"), array("Q")
    labels: dict[str, int] = {}
    splits: Counter[str | None] = Counter()
    for source in sources:
        for molecule in source.read(options):
            keys.append(_structure_key(molecule))
            ids.append(text_key(molecule.id))
            count_labels(labels, molecule.targets)
            splits[_split_name(molecule, source.path)] += 1
    return _Survey(np.array(keys, np.uint64), np.array(ids, np.uint64), labels, splits)


def _structure_key(molecule: RawMolecule) -> int:
    """Returns a hash of SMILES or mol block, the latter without its three header lines."""
    text = molecule.text if molecule.kind == "smiles" else "".join(molecule.text.split("\n", 3)[3:])
    return text_key(text)


def _split_name(molecule: RawMolecule, path: Path) -> str | None:
    """Returns the usual name of the split that a row names.

    Raises:
        DataError: the name cannot be part of a file name.
    """
    if molecule.split is None:
        return None
    name = _SPLIT_NAMES.get(molecule.split.lower(), molecule.split.lower())
    if not re.fullmatch(r"[a-z0-9_]{1,40}", name):
        raise DataError(
            f"Expected a split such as train, valid or test, found '{molecule.split}' in record {molecule.index} "
            f"of {path}."
        )
    return name


def _rows(
    sources: Sequence[_Source],
    targets: Sequence[TargetColumn],
    splits: Sequence[str] | None,
    unique: UniqueIds,
    options: PrepareOptions,
) -> Iterator[RawMolecule]:
    """Yields the rows of all files with unique ids, all targets and their splits."""
    within, row = Limit(options.limit), 0
    for source in sources:
        for molecule in source.read(options):
            split = _split_name(molecule, source.path) if splits is None else splits[row]
            row += 1
            if not within(split):
                continue
            yield dataclasses.replace(
                molecule,
                index=row - 1,
                id=unique(molecule.id),
                targets={target.name: molecule.targets.get(target.name, math.nan) for target in targets},
                split=split,
                columns={},
                reference_block=molecule.text if options.use_geometry and molecule.kind == "mol" else None,
            )
