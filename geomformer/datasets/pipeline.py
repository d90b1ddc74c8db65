"""From input rows to a prepared dataset: what every dataset shares.

A dataset module yields its rows with their splits, describes its sources, and calls `prepare_molecules`,
`prepare_records` or, with a function of its own for the workers, `prepare_rows`.
"""

from __future__ import annotations

import functools
import operator
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from geomformer.chem.build import ChemistryOptions
from geomformer.chem.build import build as chem_build
from geomformer.datasets.options import PrepareOptions, open_executor
from geomformer.errors import MoleculeError
from geomformer.executors import Failure
from geomformer.files import check_space
from geomformer.prepared.storage import DatasetDescription, PreparedWriter, Row
from geomformer.records import RawMolecule, Record

Progress = Callable[[int, int | None], None]
"""Called with the input rows done and their number in all, where known."""

Build = Callable[[Any], Record | MoleculeError]
"""Turns an item into a record; it runs in a worker process."""

Review = Callable[[Any, Record | MoleculeError | Failure], Record | MoleculeError | Failure]
"""Sees every item with its result, in order, in this process, and returns what is to become of it."""


class Item(Protocol):
    """One input row on its way to a worker: a `RawMolecule`, or whatever a dataset's own `Build` takes. Picklable."""

    @property
    def index(self) -> int: ...

    @property
    def id(self) -> str: ...

    @property
    def split(self) -> str | None: ...


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
    features = 3 * atoms if chemistry.features else 0
    orbitals = 30 + 7 * atoms if chemistry.features and chemistry.orbitals != "none" else 0
    return 150 + 11 * atoms * (chemistry.num_conformers + 1) + features + orbitals


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
