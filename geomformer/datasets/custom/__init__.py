"""Your own molecules: csv, smi, sdf, Parquet, xyz or extxyz files with any number of target columns."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geomformer.chem.build import ChemistryOptions
from geomformer.chem.build import build as chem_build
from geomformer.datasets.custom.survey import SCHEMES, Survey, draw_split, split_name, survey
from geomformer.datasets.options import PrepareOptions, chemistry_fields
from geomformer.datasets.pipeline import Progress, prepare_molecules
from geomformer.datasets.rows import Limit, UniqueIds, check_labels
from geomformer.errors import ConfigError, MoleculeError, nearest
from geomformer.files import describe_file
from geomformer.io.columns import TargetColumn, target_columns
from geomformer.io.readers import input_columns, read_molecules
from geomformer.io.streams import suffix_of
from geomformer.io.xyz import XYZ_SUFFIXES, RawStructure
from geomformer.prepared.splits import split_counts
from geomformer.prepared.storage import DatasetDescription, check_folder
from geomformer.records import RawMolecule, Record

_WHERE_LABELS_ARE = (
    "Labels are columns of csv and Parquet files, properties of SDF records and key=value in the comment lines of xyz "
    "files; smi files have none."
)
_WITH_GEOMETRY = (".sdf", ".sdf.gz", ".mol", *XYZ_SUFFIXES)


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
    Without a split column rows are split by seed, and rows of the same molecule (canonical SMILES) stay together; with
    `split_scheme` "scaffold" all rows of one scaffold do (see `scaffold_groups_split`).
    Structures of xyz and extxyz files are taken as they are, with all atoms, their cell, tags, fixed atoms and forces;
    their columns are the keys of the comment lines. They have no bonds, and are not mixed with files that do.

    Args:
        raw: the files.
        out: folder of the prepared dataset.
        data_root: not used.
        options: all of them are used.
        progress: called after every row.

    Returns:
        `out`.

    Raises:
        ConfigError: no file or no target is given, a column does not exist, or options or files do not go together.
        DataError: a file is unusable, a label is not numeric, a target has no label, or no molecule is valid.
    """
    _check_options(raw, options)
    check_folder(out)
    fractions = {name: options.fractions[name] for name in sorted(options.fractions, key=_split_order)}
    split_counts(1, fractions)
    targets = target_columns(options.targets)
    sources = _sources(raw, targets)
    chemistry = _chemistry(raw, options)
    if _without_bonds(raw):
        # Reading them is all the work there is.
        options = dataclasses.replace(options, workers=0, executor="local")
    found = survey(_all_rows(sources, options), options, chemistry.max_atoms)
    check_labels({target.name: found.labels.get(target.name, 0) for target in targets}, len(found.ids))
    split_of, total = _divided(found, fractions, options)
    return prepare_molecules(
        _rows(sources, targets, split_of, UniqueIds(np.frombuffer(found.ids, np.uint64)), options),
        out,
        _description(raw, targets, fractions, chemistry, options),
        options,
        chemistry=chemistry,
        build=functools.partial(build, options=chemistry),
        total=total,
        progress=progress,
    )


def build(raw: RawMolecule, options: ChemistryOptions) -> Record | MoleculeError:
    """Turns a row into a record; a structure without bonds is one already. Runs in a worker process."""
    if not isinstance(raw, RawStructure) or raw.record is None:
        return chem_build(raw, options)
    if raw.record.num_atoms > options.max_atoms:
        return MoleculeError(
            "too_large", f"The structure has {raw.record.num_atoms} atoms; the limit is {options.max_atoms}."
        )
    return dataclasses.replace(raw.record, id=raw.id, targets=dict(raw.targets))


def _check_options(raw: Sequence[Path], options: PrepareOptions) -> None:
    if not raw:
        raise ConfigError("Expected at least one file of molecules, found none.", "Name csv, sdf or Parquet files.")
    if not options.targets:
        raise ConfigError("Expected at least one target column, found none.", "Name it with --target.")
    scheme = options.split_scheme or SCHEMES[0]
    if scheme not in SCHEMES:
        raise ConfigError(f"Expected a split scheme among {', '.join(SCHEMES)}, found '{scheme}'.")
    given = {"scheme": options.split_scheme, "seed": options.seed}
    for name, value in given.items():
        if value is not None and options.split_column is not None:
            raise ConfigError(f"Expected a split column or a split {name}, found both.", "Leave one of them out.")
    places = [path.resolve() for path in raw]
    twice = next((path for path, place in zip(raw, places, strict=True) if places.count(place) > 1), None)
    if twice is not None:
        raise ConfigError(f"Expected every file once, found {twice} twice.", "Its molecules would count twice.")
    if options.use_geometry and not any(suffix_of(path) in _WITH_GEOMETRY for path in raw):
        raise ConfigError(
            f"Expected a file with 3D structures for use_geometry, found {', '.join(map(str, raw))}.",
            f"Give one of {', '.join(_WITH_GEOMETRY)}, or leave the option out.",
        )


def _without_bonds(raw: Sequence[Path]) -> list[Path]:
    return [path for path in raw if suffix_of(path) in XYZ_SUFFIXES]


def _chemistry(raw: Sequence[Path], options: PrepareOptions) -> ChemistryOptions:
    """Returns how rows become records; structures without bonds are taken as they are.

    Raises:
        ConfigError: files with and without bonds are mixed, or an option has no meaning without bonds.
    """
    bare = _without_bonds(raw)
    if not bare:
        return options.chemistry_options()
    if len(bare) < len(raw):
        raise ConfigError(
            f"Expected files of one kind, found {bare[0]}, which has no bonds, and {len(raw) - len(bare)} with bonds.",
            "Prepare them as two datasets.",
        )
    meaningless = [name for name in options.chemistry if name != "max_atoms"]
    meaningless += ["split_scheme scaffold"] if options.split_scheme == "scaffold" else []
    meaningless += ["smiles_column"] if options.smiles_column is not None else []
    meaningless += ["use_geometry off"] if options.use_geometry is False else []
    if meaningless:
        raise ConfigError(
            f"Structures without bonds, as in {bare[0]}, are taken as they are; this has no meaning for them: "
            f"{', '.join(meaningless)}.",
            "Leave it out.",
        )
    return options.chemistry_options(num_conformers=1, hydrogens=True, geometry="input", features=False)


def _description(
    raw: Sequence[Path],
    targets: Sequence[TargetColumn],
    fractions: Mapping[str, float],
    chemistry: ChemistryOptions,
    options: PrepareOptions,
) -> DatasetDescription:
    return DatasetDescription(
        dataset="custom",
        targets={target.name: target.unit for target in targets},
        sources=[describe_file(path) for path in raw],
        options={
            **chemistry_fields(chemistry, options, bool(options.use_geometry)),
            "target_columns": {target.name: target.column for target in targets},
            "smiles_column": options.smiles_column,
            "id_column": options.id_column,
            "split_column": options.split_column,
            "split_scheme": None if options.split_column else options.split_scheme or SCHEMES[0],
            "fractions": None if options.split_column else dict(fractions),
        },
        level_of_theory=options.level_of_theory,
        seed=options.seed or 0,
    )


def _divided(
    found: Survey, fractions: Mapping[str, float], options: PrepareOptions
) -> tuple[Callable[[int], str] | None, int]:
    """Returns what says the split of a row, None where the input does, and the number of rows that are used."""
    if options.split_column is not None:
        split_of, counts = None, list(found.splits.values())
    else:
        names, numbers = tuple(fractions), draw_split(found, fractions, options)
        split_of = functools.partial(_numbered, names, numbers)
        counts = np.bincount(numbers, minlength=len(names)).tolist()
    return split_of, sum(min(options.limit or count, count) for count in counts)


def _numbered(names: Sequence[str], numbers: np.ndarray, row: int) -> str:
    return names[numbers[row]]


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
                f"{', '.join(everything) or 'no columns'}.{nearest(target.column, everything)}",
                None if everything else _WHERE_LABELS_ARE,
            )
    return sources


def _all_rows(sources: Sequence[_Source], options: PrepareOptions) -> Iterator[tuple[Path, RawMolecule]]:
    for source in sources:
        for raw in source.read(options):
            yield source.path, raw


def _rows(
    sources: Sequence[_Source],
    targets: Sequence[TargetColumn],
    split_of: Callable[[int], str] | None,
    unique: UniqueIds,
    options: PrepareOptions,
) -> Iterator[RawMolecule]:
    """Yields the rows of all files with unique ids, all targets and their splits."""
    within = Limit(options.limit)
    for row, (path, raw) in enumerate(_all_rows(sources, options)):
        split = split_name(raw, path) if split_of is None else split_of(row)
        if within(split):
            yield dataclasses.replace(
                raw,
                index=row,
                id=unique(raw.id),
                targets={target.name: raw.targets.get(target.name, math.nan) for target in targets},
                split=split,
                columns={},
                reference_block=raw.text if options.use_geometry and raw.kind == "mol" else None,
            )
