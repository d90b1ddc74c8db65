"""The memory-mapped Arrow file of a split, built once beside the shards."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from geomformer.errors import DataError
from geomformer.files import file_sha256, locked
from geomformer.prepared.schema import LIST_COLUMNS, NEEDED_COLUMNS, SCALAR_COLUMNS
from geomformer.prepared.storage import CACHE

logger = logging.getLogger(__name__)

BATCH_ROWS = 16384


def cache_folder(dataset: Path, fingerprint: str) -> Path:
    """Returns where the mapped files of a dataset lie: beside the shards, or in the user's cache if read-only."""
    if os.access(dataset, os.W_OK):
        return dataset / CACHE / fingerprint[:16]
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "geomformer" / fingerprint[:16]


def build_cache(dataset: Path, fingerprint: str, split: str, files: list[dict[str, Any]]) -> Path:
    """Returns the split's Arrow file, after building it if it is not there; safe against concurrent builders.

    Raises:
        DataError: a shard is missing or not the one the manifest lists, or the file cannot be written.
    """
    folder = cache_folder(dataset, fingerprint)
    path = folder / f"{split}.arrow"
    if path.exists():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / f"{split}.lock"):
            if not path.exists():
                temporary = folder / f"{split}.arrow.{os.getpid()}.tmp"
                _write(dataset, files, temporary)
                temporary.replace(path)
    except OSError as error:
        raise DataError(
            f"Cannot write the training cache {path}: {error.strerror or error}.", "Free some space there."
        ) from error
    return path


def _write(dataset: Path, files: list[dict[str, Any]], path: Path) -> None:
    logger.info("building the memory-mapped training file %s", path)
    writer: pa.RecordBatchFileWriter | None = None
    pending: list[pa.Table] = []
    with path.open("wb") as handle:
        for position, item in enumerate(files):
            pending.append(mappable(_read_shard(dataset / item["file"], item["sha256"])))
            full = sum(table.num_rows for table in pending) >= BATCH_ROWS
            if not full and position + 1 < len(files):
                continue
            table = pa.concat_tables(pending).combine_chunks()
            if writer is None:
                writer = pa.ipc.new_file(handle, table.schema)
            writer.write_table(table)
            pending = []
        if writer is not None:
            writer.close()
        handle.flush()
        os.fsync(handle.fileno())


def _read_shard(path: Path, sha256: str) -> pa.Table:
    if not path.exists():
        raise DataError(f"Expected the shard {path} that manifest.json lists, found nothing.", "Prepare it again.")
    if file_sha256(path) != sha256:
        raise DataError(f"The shard {path} is damaged or not the one that manifest.json lists.", "Prepare it again.")
    table = pq.read_table(path)
    missing = sorted(NEEDED_COLUMNS.difference(table.column_names))
    if missing:
        raise DataError(f"Expected the columns {', '.join(missing)} in {path}, found none.", "Prepare it again.")
    return table


def mappable(table: pa.Table) -> pa.Table:
    """Returns a table whose buffers can be used in place: bytes for bits, NaN for missing labels."""
    for i, field in enumerate(table.schema):
        if field.name in SCALAR_COLUMNS:
            continue
        column = table.column(i)
        if field.name in LIST_COLUMNS:
            if pa.types.is_boolean(field.type.value_type):
                column = column.cast(pa.list_(pa.uint8()))
        else:
            column = pc.fill_null(column, float("nan"))
        table = table.set_column(i, pa.field(field.name, column.type, metadata=field.metadata), column)
    return table
