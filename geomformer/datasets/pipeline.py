"""From input rows to a prepared dataset: what every dataset of molecules shares.

A dataset module yields its rows with their splits, describes its sources, and calls `prepare_molecules`.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from geomformer.chem.build import ChemistryOptions, build
from geomformer.errors import ConfigError, DataError, MoleculeError
from geomformer.executors import Executor, LocalExecutor
from geomformer.prepared.storage import DEFAULT_SHARD_ROWS, DatasetDescription, PreparedWriter, Row
from geomformer.records import RawMolecule, Record

Progress = Callable[[int, int | None], None]
"""Called with the input rows done and their number in all, where known."""

Build = Callable[[RawMolecule], Record | MoleculeError]


@dataclass(frozen=True)
class PrepareOptions:
    """Options of `prepare`; each dataset says which of them it uses.

    Attributes:
        chemistry: how molecules become records.
        workers: processes; no influence on the result.
        timeout: seconds after which a molecule is given up.
        seed: of a random split.
        limit: take only the first so many rows of each split, for trials.
        targets: label columns; () takes what the dataset has.
        smiles_column, id_column, split_column: columns of tables; None finds them by name (split: none).
        fractions: shares of train, valid and test where the input has no split.
        level_of_theory: of the labels; None takes what the dataset says.
        use_geometry: take the 3D geometry of the input as the reference geometry; None: the dataset's own default.
        shard_rows: input rows per shard, hence the most work that an interruption can lose; None: by the number of
            rows.
        overwrite: replace what lies in the output folder.
    """

    chemistry: ChemistryOptions = field(default_factory=ChemistryOptions)
    workers: int = 1
    timeout: float = 300.0
    seed: int = 0
    limit: int | None = None
    targets: tuple[str, ...] = ()
    smiles_column: str | None = None
    id_column: str | None = None
    split_column: str | None = None
    fractions: Mapping[str, float] = field(default_factory=lambda: {"train": 0.8, "valid": 0.1, "test": 0.1})
    level_of_theory: str | None = None
    use_geometry: bool | None = None
    shard_rows: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit must be at least 1, found {self.limit}.")

    def rows_per_shard(self, total: int | None) -> int:
        """Returns `shard_rows`, or a hundredth of `total` rows within 50 and 2,000."""
        if self.shard_rows is not None:
            return self.shard_rows
        return DEFAULT_SHARD_ROWS if total is None else min(2000, max(50, total // 100))


def chemistry_fields(options: PrepareOptions, use_geometry: bool) -> dict[str, Any]:
    """Returns the options that every dataset of molecules records in its manifest."""
    return {"chemistry": asdict(options.chemistry), "limit": options.limit, "use_geometry": use_geometry}


def prepare_with_workers(
    rows: Iterable[RawMolecule],
    out: Path,
    description: DatasetDescription,
    options: PrepareOptions,
    *,
    total: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Runs `prepare_molecules` with the chemistry and the worker processes that the options ask for."""
    function = functools.partial(build, options=options.chemistry)
    with LocalExecutor(options.workers, timeout=options.timeout) as executor:
        return prepare_molecules(
            rows,
            out,
            description,
            build=function,
            executor=executor,
            shard_rows=options.rows_per_shard(total),
            overwrite=options.overwrite,
            total=total,
            progress=progress,
        )


def prepare_molecules(
    rows: Iterable[RawMolecule],
    out: Path,
    description: DatasetDescription,
    *,
    build: Build,
    executor: Executor,
    shard_rows: int = DEFAULT_SHARD_ROWS,
    overwrite: bool = False,
    total: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Prepares molecules, shard by shard; an interrupted run is continued by the same call.

    Args:
        rows: the input, the same in every run, each with its `split`. Memory holds one shard of it.
        out: folder of the prepared dataset.
        description: what the dataset is made of.
        build: turns a row into a record, in a worker process.
        executor: maps `build` over rows in order.
        shard_rows: input rows per shard.
        overwrite: replace what lies in `out`.
        total: number of rows, where known.
        progress: called after every row.

    Returns:
        `out`, complete; at once if it holds this very dataset already.

    Raises:
        ConfigError: `out` holds something else, or was prepared with other options.
        DataError: no row gave a record.
    """
    writer = PreparedWriter(out, description, shard_rows=shard_rows, overwrite=overwrite)
    if writer.complete:
        return out
    run = _Run(writer, total, progress)
    for result in executor.map(build, run.unfinished(rows)):
        run.take(result)
    run.flush()
    return writer.finish(run.seen)


class _Run:
    """Bookkeeping between the rows that go to the workers and the results that come back in the same order."""

    def __init__(self, writer: PreparedWriter, total: int | None, progress: Progress | None) -> None:
        self.writer, self.total, self.progress = writer, total, progress
        self.seen = 0
        self.skipped = 0
        self.done = 0
        self.under_way: deque[tuple[int, int, str, str | None]] = deque()
        self.shard: list[Row] = []
        self.shard_number: int | None = None

    def unfinished(self, rows: Iterable[RawMolecule]) -> Iterator[RawMolecule]:
        """Yields the rows whose shard is not there yet."""
        for raw in rows:
            number = self.seen // self.writer.shard_rows
            self.seen += 1
            if number in self.writer.finished:
                self.skipped += 1
                continue
            self.under_way.append((number, raw.index, raw.id, raw.split))
            yield raw

    def take(self, result: Any) -> None:
        number, source_row, name, split = self.under_way.popleft()
        if number != self.shard_number:
            self.flush()
            self.shard_number = number
        if isinstance(result, Record):
            row = Row(source_row, name, split=split, record=result)
        elif isinstance(result, MoleculeError):
            row = Row(source_row, name, reason=f"{result.status}: {result.message}")
        else:
            row = Row(source_row, name, reason=f"failed: {result.reason}")
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
