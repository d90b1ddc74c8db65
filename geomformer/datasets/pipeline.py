"""From input rows to a prepared dataset: what every dataset shares.

A dataset module yields its rows with their splits, describes its sources, and calls `prepare_molecules`,
`prepare_records` or, with a function of its own for the workers, `prepare_rows`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import operator
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from geomformer.chem.build import ChemistryOptions
from geomformer.chem.build import build as chem_build
from geomformer.errors import ConfigError, DataError, MoleculeError
from geomformer.executors import Executor, Failure, LocalExecutor
from geomformer.files import check_space
from geomformer.prepared.storage import DEFAULT_SHARD_ROWS, DatasetDescription, PreparedWriter, Row
from geomformer.records import RawMolecule, Record

Progress = Callable[[int, int | None], None]
"""Called with the input rows done and their number in all, where known."""

Build = Callable[[Any], Record | MoleculeError]
"""Turns an item into a record; it runs in a worker process."""

Review = Callable[[Any, Record | MoleculeError | Failure], Record | MoleculeError | Failure]
"""Sees every item with its result, in order, in this process, and returns what is to become of it."""


MAX_CONFORMERS = 255
"""What the column `num_conformers` can hold."""


class Item(Protocol):
    """One input row on its way to a worker: a `RawMolecule`, or whatever a dataset's own `Build` takes. Picklable."""

    @property
    def index(self) -> int: ...

    @property
    def id(self) -> str: ...

    @property
    def split(self) -> str | None: ...


@dataclass(frozen=True)
class PrepareOptions:
    """Options of `prepare`. Every dataset uses those of the first group; `DatasetInfo.uses` names its others.

    Attributes:
        workers: processes; no influence on the result. None: one, or all cores of a Ray cluster.
        executor: "local" processes of this machine, or a "ray" cluster; no influence on the result.
        ray_address: of a running Ray cluster; None starts one on this machine.
        timeout: seconds after which one row is given up.
        limit: take only the first so many rows of each split, for trials.
        shard_rows: input rows per shard, hence the most work that an interruption can lose; None: by the number of
            rows.
        part: (i, n): do the i-th of n equal parts, from 1, for job arrays; the last job to end completes the dataset.
        overwrite: replace what lies in the output folder.

        chemistry: changes to how the dataset turns molecules into records, by field of `ChemistryOptions`.
        use_geometry: take the 3D geometry of the input as the reference geometry; None: the dataset's own default.
        level_of_theory: of the labels; None takes what the dataset says.
        targets: label columns; () takes what the dataset has.
        seed: of what is drawn; None takes the dataset's own.
        smiles_column, id_column, split_column: columns of tables; None finds them by name (split: none).
        fractions: shares of train, valid and test where the input has no split.
        split_scheme: how rows are divided, e.g. "random" or "scaffold"; None takes the dataset's own.
        size: of the train split, where there are several.
        molecules: names of the molecules to prepare, () for all.
        num_particles: particles per system.
        num_systems: systems in train, valid and test.
        isotropic_clip: clip forces by their length instead of per component.

    Raises:
        ConfigError: a value is out of range.
    """

    workers: int | None = None
    executor: Literal["local", "ray"] = "local"
    ray_address: str | None = None
    timeout: float = 300.0
    limit: int | None = None
    shard_rows: int | None = None
    part: tuple[int, int] | None = None
    overwrite: bool = False

    chemistry: Mapping[str, Any] = field(default_factory=dict)
    use_geometry: bool | None = None
    level_of_theory: str | None = None
    targets: tuple[str, ...] = ()
    seed: int | None = None
    smiles_column: str | None = None
    id_column: str | None = None
    split_column: str | None = None
    fractions: Mapping[str, float] = field(default_factory=lambda: {"train": 0.8, "valid": 0.1, "test": 0.1})
    split_scheme: str | None = None
    size: str | None = None
    molecules: tuple[str, ...] = ()
    num_particles: int | None = None
    num_systems: tuple[int, int, int] | None = None
    isotropic_clip: bool = False

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit must be at least 1, found {self.limit}.")
        if self.part is not None and not 1 <= self.part[0] <= self.part[1]:
            raise ConfigError(f"Expected a part i/n with i from 1 to n, found {self.part[0]}/{self.part[1]}.")
        if self.executor not in ("local", "ray"):
            raise ConfigError(f"Expected the executor local or ray, found '{self.executor}'.")
        if self.ray_address is not None and self.executor != "ray":
            raise ConfigError(
                "The address of a Ray cluster has no meaning for local processes.", "Ask for it: --executor ray."
            )
        conformers = self.chemistry.get("num_conformers", 1)
        if not 1 <= conformers <= MAX_CONFORMERS:
            raise ConfigError(f"Expected 1 to {MAX_CONFORMERS} conformers per molecule, found {conformers}.")
        if self.part is not None and self.overwrite:
            raise ConfigError(
                "A part of a dataset cannot overwrite it: it would delete what the other parts have done.",
                "Delete the folder first.",
            )

    def rows_per_shard(self, total: int | None) -> int:
        """Returns `shard_rows`, or a hundredth of `total` rows within 50 and 2,000."""
        if self.shard_rows is not None:
            return self.shard_rows
        return DEFAULT_SHARD_ROWS if total is None else min(2000, max(50, total // 100))

    def in_this_process(self) -> PrepareOptions:
        """Returns the options for rows that take no time: no workers, and shards that are worth a file."""
        shard_rows = self.shard_rows or DEFAULT_SHARD_ROWS
        return dataclasses.replace(self, workers=0, executor="local", shard_rows=shard_rows)

    def chemistry_options(self, **defaults: Any) -> ChemistryOptions:
        """Returns the dataset's own chemistry with the caller's changes."""
        return ChemistryOptions(**{**defaults, **self.chemistry})


def chemistry_fields(chemistry: ChemistryOptions, options: PrepareOptions, use_geometry: bool) -> dict[str, Any]:
    """Returns the options that every dataset of molecules records in its manifest."""
    return {"chemistry": asdict(chemistry), "limit": options.limit, "use_geometry": use_geometry}


def open_executor(options: PrepareOptions) -> Executor:
    """Returns the processes that the options ask for.

    Raises:
        ConfigError: Ray is asked for and not installed.
    """
    if options.executor == "ray":
        from geomformer.executors.ray import RayExecutor

        return RayExecutor(options.ray_address, timeout=options.timeout, workers=options.workers)
    return LocalExecutor(1 if options.workers is None else options.workers, timeout=options.timeout)


def prepare_molecules(
    rows: Iterable[RawMolecule],
    out: Path,
    description: DatasetDescription,
    options: PrepareOptions,
    *,
    chemistry: ChemistryOptions,
    build: Build | None = None,
    review: Review | None = None,
    total: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Runs `prepare_rows` with the chemistry of molecules.

    Args:
        chemistry: how molecules become records.
        build: a dataset's own version of `chem.build.build`.
        review: as for `prepare_rows`.
    """
    return prepare_rows(
        rows,
        out,
        description,
        options,
        build=build or functools.partial(chem_build, options=chemistry),
        review=review,
        total=total,
        bytes_per_row=bytes_per_molecule(chemistry),
        progress=progress,
    )


def bytes_per_molecule(chemistry: ChemistryOptions, heavy_atoms: int = 15) -> float:
    """Estimates the bytes on disk of one molecule: compressed float32 coordinates, features and labels."""
    atoms = heavy_atoms * (2 if chemistry.hydrogens else 1)
    return 150 + 11 * atoms * (chemistry.num_conformers + 1) + (3 * atoms if chemistry.features else 0)


def prepare_rows(
    rows: Iterable[Item],
    out: Path,
    description: DatasetDescription,
    options: PrepareOptions,
    *,
    build: Build,
    review: Review | None = None,
    total: int | None = None,
    bytes_per_row: float = 0.0,
    progress: Progress | None = None,
) -> Path:
    """Prepares rows, shard by shard; an interrupted run is continued by the same call.

    Args:
        rows: the input, the same in every run, each with its `split`. Memory holds one shard of it.
        out: folder of the prepared dataset.
        description: what the dataset is made of.
        options: of which the first group is used.
        build: turns a row into a record, in a worker process.
        review: has the last word on every result, for a dataset that checks results against each other or has another
            way for rows that failed; what it raises ends the run.
        total: number of rows, where known.
        bytes_per_row: estimated bytes on disk of a prepared row, to check first that there is room.
        progress: called after every row.

    Returns:
        `out`; at once if it holds this very dataset already. It is complete unless `options.part` asks for a part and
        others are missing.

    Raises:
        ConfigError: `out` holds something else, or was prepared with other options.
        DataError: no row gave a record, or the disk is full.
    """
    shard_rows = options.rows_per_shard(total)
    writer = PreparedWriter(out, description, shard_rows=shard_rows, overwrite=options.overwrite, part=options.part)
    if writer.complete:
        return out
    left = max(0, (total or 0) - len(writer.finished) * shard_rows)
    check_space(out, int(left * bytes_per_row / (options.part[1] if options.part else 1)), "the prepared dataset")
    run = _Run(writer, review, total, progress)
    with open_executor(options) as executor:
        for result in executor.map(build, run.unfinished(rows)):
            run.take(result)
    run.flush()
    return writer.finish(run.seen)


@dataclass(frozen=True)
class _Made:
    """A record that needs no worker."""

    index: int
    id: str
    split: str | None
    record: Record


def prepare_records(
    rows: Iterable[tuple[str, Record]],
    out: Path,
    description: DatasetDescription,
    options: PrepareOptions,
    *,
    total: int | None = None,
    bytes_per_row: float = 0.0,
    progress: Progress | None = None,
) -> Path:
    """Runs `prepare_rows` on records with their splits that are made in this process."""
    made = (_Made(index, record.id, split, record) for index, (split, record) in enumerate(rows))
    build = operator.attrgetter("record")
    return prepare_rows(
        made,
        out,
        description,
        options.in_this_process(),
        build=build,
        total=total,
        bytes_per_row=bytes_per_row,
        progress=progress,
    )


class _Run:
    """Bookkeeping between the rows that go to the workers and the results that come back in the same order."""

    def __init__(
        self, writer: PreparedWriter, review: Review | None, total: int | None, progress: Progress | None
    ) -> None:
        self.writer, self.review, self.total, self.progress = writer, review, total, progress
        self.seen = 0
        self.skipped = 0
        self.done = 0
        self.under_way: deque[tuple[int, Item]] = deque()
        self.shard: list[Row] = []
        self.shard_number: int | None = None

    def unfinished(self, rows: Iterable[Item]) -> Iterator[Item]:
        """Yields the rows whose shard is not there yet and is ours to make."""
        for item in rows:
            number = self.seen // self.writer.shard_rows
            self.seen += 1
            if not self.writer.wants(number):
                self.skipped += 1
                continue
            self.under_way.append((number, item))
            yield item

    def take(self, result: Any) -> None:
        number, item = self.under_way.popleft()
        if number != self.shard_number:
            self.flush()
            self.shard_number = number
        if self.review is not None:
            result = self.review(item, result)
        if isinstance(result, Record):
            row = Row(item.index, item.id, split=item.split, record=result)
        elif isinstance(result, MoleculeError):
            row = Row(item.index, item.id, reason=f"{result.status}: {result.message}")
        else:
            row = Row(item.index, item.id, reason=f"failed: {result.reason}")
        self.shard.append(row)
        self.done += 1
        if len(self.shard) == self.writer.shard_rows:
            self.flush()
        if self.progress is not None:
            self.progress(self.done + self.skipped, self.total)

    def flush(self) -> None:
        """Writes the shard at hand."""
        if self.shard_number is not None and self.shard:
            self.writer.write_shard(self.shard_number, self.shard)
        self.shard, self.shard_number = [], None


def text_key(text: str) -> int:
    """Returns a 64-bit hash of a text, the same in every run."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


class UniqueIds:
    """Makes identifiers unique by appending "#2", "#3" and so on. Keeps 8 bytes per identifier.

    Args:
        keys: `text_key` of every identifier that will come. (R,) uint64
    """

    def __init__(self, keys: np.ndarray) -> None:
        self._taken, counts = np.unique(keys, return_counts=True)
        self._seen = dict.fromkeys(self._taken[counts > 1].tolist(), 0)

    def __call__(self, name: str) -> str:
        key = text_key(name)
        if key not in self._seen:
            return name
        self._seen[key] += 1
        if self._seen[key] == 1:
            return name
        while self._is_taken(f"{name}#{self._seen[key]}"):
            self._seen[key] += 1
        return f"{name}#{self._seen[key]}"

    def _is_taken(self, name: str) -> bool:
        key = np.uint64(text_key(name))
        place = int(np.searchsorted(self._taken, key))
        return place < len(self._taken) and bool(self._taken[place] == key)


def check_labels(counts: Mapping[str, int], num_rows: int) -> None:
    """Checks that every target has a label somewhere.

    Raises:
        DataError: one has none.
    """
    for name, count in counts.items():
        if not count:
            raise DataError(f"Target '{name}' has no label in any of the {num_rows} rows.", "Leave it out.")


def count_labels(counts: dict[str, int], targets: Mapping[str, float]) -> None:
    """Adds the labels of one row to `counts`."""
    for name, value in targets.items():
        counts[name] = counts.get(name, 0) + (not math.isnan(value))


class Limit:
    """Passes the first so many rows of each split, all of them for None."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self._counts: dict[str | None, int] = {}

    def __call__(self, split: str | None) -> bool:
        self._counts[split] = self._counts.get(split, 0) + 1
        return self.limit is None or self._counts[split] <= self.limit
