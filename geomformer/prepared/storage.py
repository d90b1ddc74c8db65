"""Writing a prepared dataset, shard by shard, so that an interrupted run continues.

Shard k holds what became of input rows k * shard_rows to (k + 1) * shard_rows: one file per split that has rows among
them. A shard is finished when its sidecar in `.building` is there. Nothing written depends on the time, on the number
of workers or on interruptions.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from geomformer.errors import ConfigError, DataError
from geomformer.files import file_sha256, locked, write_atomic
from geomformer.prepared.folder import BUILDING, CACHE, IDENTITY, MANIFEST, REJECTED, check_folder, check_identity
from geomformer.prepared.schema import FORMAT_VERSION, REJECTED_SCHEMA, check_targets, schema_for, to_table
from geomformer.prepared.schemes import ALL, Divide, write_schemes
from geomformer.prepared.statistics import summarise
from geomformer.records import Record

logger = logging.getLogger(__name__)

DEFAULT_SHARD_ROWS = 1000
_OURS = re.compile(r"[\w-]+-\d{5,}\.parquet|scheme-\w+\.parquet")


@dataclass(frozen=True)
class DatasetDescription:
    """What a prepared dataset is made of: everything that decides its content.

    Attributes:
        dataset: name.
        targets: unit of every target by name; "" where it is unknown.
        sources: name, size and sha256 of every source file (see `describe_file`).
        options: everything else that changes the result.
        level_of_theory: of the labels, where known.
        seed: of the split and of whatever else is drawn.
        particles: systems of charged particles, no molecules.
        units: units of list columns that differ from the usual ones.
        divide: gives the splits of every scheme, where the rows all lie in the split "all".
    """

    dataset: str
    targets: Mapping[str, str]
    sources: Sequence[Mapping[str, Any]] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    level_of_theory: str | None = None
    seed: int = 0
    particles: bool = False
    units: Mapping[str, str] = field(default_factory=dict)
    divide: Divide | None = None


@dataclass(frozen=True)
class Row:
    """What became of one input row: a record in a split, or the reason why there is none."""

    source_row: int
    id: str
    split: str | None = None
    record: Record | None = None
    reason: str | None = None


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def installed_version(package: str) -> str:
    """Returns the version of a package as installed, without loading it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


class PreparedWriter:
    """Writes one prepared dataset into a folder, continuing what an interrupted run left there.

    Attributes:
        complete: the folder holds this very dataset already; there is nothing to do.
        finished: numbers of the shards that are there already.
    """

    def __init__(
        self,
        out: Path,
        description: DatasetDescription,
        *,
        shard_rows: int = DEFAULT_SHARD_ROWS,
        overwrite: bool = False,
        part: tuple[int, int] | None = None,
    ) -> None:
        """Opens the folder.

        Args:
            out: folder of the dataset.
            description: what it is made of.
            shard_rows: input rows per shard.
            overwrite: replace what is there.
            part: (i, n): of every n shards only the i-th is made here, from 1; other writers make the others.

        Raises:
            ConfigError: the folder holds something else, or a dataset with other options, and `overwrite` is False.
        """
        taken = check_targets(description.targets)
        if taken is not None:
            raise ConfigError(f"A target cannot be named '{taken}': prepared datasets have a column of that name.")
        if shard_rows < 1:
            raise ConfigError(f"Expected at least one input row per shard, found {shard_rows}.")
        self.out, self.shard_rows, self.part = out, shard_rows, part
        self._divide = description.divide
        self._building = out / BUILDING
        self._state = self._building / IDENTITY
        self._schema = schema_for(description.targets, particles=description.particles, units=description.units)
        identity: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "dataset": description.dataset,
            "sources": [dict(source) for source in description.sources],
            "options": dict(description.options),
            "level_of_theory": description.level_of_theory,
            "seed": description.seed,
            "targets": dict(description.targets),
            "rdkit_version": installed_version("rdkit"),
            "shard_rows": shard_rows,
        }
        self._identity: dict[str, Any] = json.loads(_json(identity))
        self._open(overwrite)

    def _open(self, overwrite: bool) -> None:
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"Cannot make the folder {self.out}: {error.strerror}.", "Choose another --out."
            ) from error
        state, manifest = self._state, self.out / MANIFEST
        known = manifest if manifest.exists() else state
        check_folder(self.out)
        if overwrite or (known.exists() and not self._continues(known)):
            self._clear()
        self.complete = manifest.exists()
        if self.complete:
            shutil.rmtree(self._building, ignore_errors=True)
            self.finished: frozenset[int] = frozenset()
            return
        self._building.mkdir(exist_ok=True)
        if not state.exists():
            write_atomic(state, _json(self._identity), shared=True)
        self.finished = frozenset(self._finished())

    def _clear(self) -> None:
        for item in self.out.iterdir():
            if item.name in (MANIFEST, REJECTED) or _OURS.fullmatch(item.name):
                item.unlink()
        shutil.rmtree(self._building, ignore_errors=True)
        shutil.rmtree(self.out / CACHE, ignore_errors=True)

    def _continues(self, known: Path) -> bool:
        """Whether the folder's dataset is this one; False where it is another of which nothing is done yet."""
        try:
            check_identity(known, self._identity)
        except (ConfigError, DataError):
            if known.name == MANIFEST or self.part is not None or any(self._building.glob("[0-9]*.json")):
                raise
            return False
        return True

    def wants(self, number: int) -> bool:
        """Whether a shard is ours to make and not there yet."""
        return number not in self.finished and self._is_ours(number)

    def _is_ours(self, number: int) -> bool:
        return self.part is None or number % self.part[1] == self.part[0] - 1

    def _sidecar(self, number: int) -> Path:
        return self._building / f"{number:05d}.json"

    def _finished(self) -> list[int]:
        numbers = []
        for sidecar in sorted(self._building.glob("[0-9]*.json")):
            if not self._is_ours(int(sidecar.stem)):
                continue
            try:
                files = json.loads(sidecar.read_text(encoding="utf-8"))["files"]
            except (ValueError, KeyError, TypeError):
                sidecar.unlink()
                continue
            if all(self._intact(item) for item in files):
                numbers.append(int(sidecar.stem))
        return numbers

    def _intact(self, item: Mapping[str, Any]) -> bool:
        path = self.out / item["file"]
        return path.exists() and file_sha256(path) == item["sha256"]

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps the writers of other parts away from the end of the work; they find the manifest when it is done."""
        self._building.mkdir(exist_ok=True)
        with locked(self._building / "lock"):
            yield
        if self.complete:
            shutil.rmtree(self._building, ignore_errors=True)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"Writing {self.out} failed: {error.strerror or error}.",
                "What is finished is kept: run the same command again when the cause is gone.",
            ) from error

    def write_shard(self, number: int, rows: Sequence[Row]) -> None:
        """Writes the rows of one shard, in order; afterwards it counts as finished.

        Raises:
            DataError: it cannot be written, for instance because the disk is full.
        """
        with self._writing():
            self._write_shard(number, rows)

    def _write_shard(self, number: int, rows: Sequence[Row]) -> None:
        if self._state.exists() and self._state.read_text(encoding="utf-8") != _json(self._identity):
            raise DataError(f"Another run began to prepare something else in {self.out}.", "Choose another --out.")
        by_split: dict[str, list[Record]] = {}
        rejected = []
        for row in rows:
            if row.record is not None and row.split is not None:
                by_split.setdefault(row.split, []).append(row.record)
            else:
                rejected.append([row.id, row.source_row, row.reason or "no split"])
        files = []
        for split, records in sorted(by_split.items()):
            path = self.out / f"{split}-{number:05d}.parquet"
            self._write_table(path, to_table(records, self._schema))
            files.append({"split": split, "file": path.name, "rows": len(records), "sha256": file_sha256(path)})
        write_atomic(self._sidecar(number), _json({"files": files, "rejected": rejected}), shared=True)

    def _write_table(self, path: Path, table: pa.Table) -> None:
        # Other writers may be at the same shard: whoever renames last has written the same bytes.
        temporary = self._building / f"{path.name}.{os.getpid()}.tmp"
        with temporary.open("wb") as handle:
            pq.write_table(table, handle, compression="zstd", row_group_size=max(1, table.num_rows))
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)

    def finish(self, num_rows: int) -> Path:
        """Writes `rejected.parquet` and the manifest, unless other parts are still to come: the dataset is complete.

        Args:
            num_rows: input rows in all.

        Raises:
            DataError: no input row gave a record, or the disk is full.
        """
        with self._writing(), self._alone():
            count = -(-num_rows // self.shard_rows)
            self.complete = (self.out / MANIFEST).exists()
            missing = [] if self.complete else [n for n in range(count) if not self._sidecar(n).exists()]
            if missing and self.part is not None:
                logger.info("%s: %d of %d shards are still to come", self.out, len(missing), count)
            elif not self.complete:
                self._finish(num_rows, count)
        return self.out

    def _finish(self, num_rows: int, count: int) -> None:
        logger.info("%s: %d rows are done; statistics follow", self.out, num_rows)
        files: list[dict[str, Any]] = []
        rejected: list[list[Any]] = []
        for number in range(count):
            sidecar = json.loads(self._sidecar(number).read_text(encoding="utf-8"))
            files.extend(sidecar["files"])
            rejected.extend(sidecar["rejected"])
        if not files:
            reasons = "; ".join(f"{name} (row {row}): {reason}" for name, row, reason in rejected[:3])
            raise DataError(f"None of the {num_rows} input rows gave a usable system: {reasons or 'no rows'}.")
        columns = list(zip(*rejected, strict=True)) if rejected else [(), (), ()]
        arrays = [pa.array(column, kind) for column, kind in zip(columns, REJECTED_SCHEMA.types, strict=True)]
        self._write_table(self.out / REJECTED, pa.Table.from_arrays(arrays, schema=REJECTED_SCHEMA))
        splits: dict[str, dict[str, Any]] = {}
        for item in files:
            split = splits.setdefault(item["split"], {"rows": 0, "files": []})
            split["rows"] += item["rows"]
            split["files"].append({key: item[key] for key in ("file", "rows", "sha256")})
        manifest = {**self._identity, "splits": splits, "rejected": len(rejected), "input_rows": num_rows}
        manifest.update(summarise(self.out, splits, self._identity["targets"]))
        if self._divide is not None:
            gone, targets = [row for _, row, _ in rejected], self._identity["targets"]
            manifest.update(
                write_schemes(self.out, self._divide, splits[ALL]["files"], gone, targets, self._write_table)
            )
        write_atomic(self.out / MANIFEST, _json(manifest))
        self.complete = True
        kept = ", ".join(f"{name} {split['rows']:,}" for name, split in splits.items())
        logger.info("%s: %s; rejected: %d%s", self.out, kept, len(rejected), f", see {REJECTED}" if rejected else "")
