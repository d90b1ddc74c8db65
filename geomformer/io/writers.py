"""Writing result rows by suffix, streamed to `PATH.partial` and renamed when all went well."""

from __future__ import annotations

import csv
import gzip
import json
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from geomformer.errors import ConfigError, DataError, GeomformerError
from geomformer.io.streams import suffix_of

logger = logging.getLogger(__name__)

MOL_KEY = "_mol"
"""Key of a row's mol block, read by the SDF writer and ignored by the others."""

ROW_GROUP = 5000
_ARROW_TYPES = {int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_()}
_EMPTY_BLOCK = "{title}\n  geomformer\n\n  0  0  0  0  0  0  0  0  0  0999 V2000\nM  END\n"


def _plain(value: Any) -> Any:
    """Returns a cell as a plain Python value; None for missing and not-a-number."""
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


class RowWriter(ABC):
    """Writes rows to one file; a context manager.

    On success the finished file replaces `path`. After an exception what was written stays as `PATH.partial`, flushed
    as far as possible, and the error names it.
    """

    def __init__(self, path: Path, columns: Mapping[str, type]) -> None:
        self.path = path
        self.columns = dict(columns)
        self.partial = path.with_name(path.name + ".partial")
        self._lock: BinaryIO | None = None

    def __enter__(self) -> RowWriter:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self._locked()
            self._open()
        except OSError as error:
            raise DataError(f"Cannot write {self.path}: {error.strerror or error}.") from error
        return self

    def _locked(self) -> BinaryIO | None:
        """Keeps a second process from writing the same file at the same time, where the system has file locks."""
        try:
            import fcntl
        except ImportError:
            return None
        file = self.partial.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise DataError(
                f"Another process is writing {self.path} now.", "Wait for it, or name another file."
            ) from error
        return file

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes rows; keys that are no columns are ignored, missing ones are empty.

        Raises:
            DataError: the rows cannot be written (disk full); the message names the partial file.
        """
        try:
            self._write(rows)
        except OSError as error:
            raise self._failure(error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._close()
            if error is None:
                self.partial.replace(self.path)
                return
        except OSError as failure:
            if error is None:
                raise self._failure(failure) from failure
            logger.warning("could not flush %s: %s", self.partial, failure)
        finally:
            if self._lock is not None:
                self._lock.close()
        kept = f"The rows written so far are in {self.partial}."
        if not isinstance(error, GeomformerError):
            error.add_note(kept)
        elif str(self.partial) not in str(error):
            error.hint = f"{error.hint} {kept}" if error.hint else kept
        logger.warning(kept)

    def _failure(self, error: OSError) -> DataError:
        return DataError(
            f"Writing {self.path} failed: {error.strerror or error}.", f"The rows written so far are in {self.partial}."
        )

    @abstractmethod
    def _open(self) -> None:
        """Opens `partial`."""

    @abstractmethod
    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes rows to `partial`, or holds them back for a while."""

    @abstractmethod
    def _close(self) -> None:
        """Writes what is held back, and closes `partial`."""


class _TextWriter(RowWriter):
    handle: TextIO

    def _open(self) -> None:
        if self.path.name.lower().endswith(".gz"):
            self.handle = gzip.open(self.partial, "wt", encoding="utf-8", newline="")  # noqa: SIM115
        else:
            self.handle = self.partial.open("w", encoding="utf-8", newline="")

    def _close(self) -> None:
        self.handle.close()


class CsvWriter(_TextWriter):
    def _open(self) -> None:
        super()._open()
        self._rows = csv.writer(self.handle, lineterminator="\n")
        self._rows.writerow(self.columns)

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._rows.writerows([_plain(row.get(name)) for name in self.columns] for row in rows)


class JsonlWriter(_TextWriter):
    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            values = {name: _plain(row.get(name)) for name in self.columns}
            self.handle.write(json.dumps(values, ensure_ascii=False, allow_nan=False, default=str) + "\n")


class SdfWriter(_TextWriter):
    """Writes the mol block under `MOL_KEY` and the columns as properties; rows without one as an empty molecule."""

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.handle.write("".join(self._record(row) for row in rows))

    def _record(self, row: Mapping[str, Any]) -> str:
        block = row.get(MOL_KEY)
        if isinstance(block, str) and "M  END" in block and "$$$$" not in block:
            text = block[: block.index("M  END")] + "M  END\n"
        else:
            text = _EMPTY_BLOCK.format(title=_one_line(row.get("id", "")))
        for name in self.columns:
            value = _plain(row.get(name))
            if value is not None and str(value).strip():
                text += f"> <{_one_line(name).replace('<', '(').replace('>', ')')}>\n{_one_line(value)}\n\n"
        return text + "$$$$\n"


def _one_line(value: Any) -> str:
    """Returns a value as one line that cannot be taken for the end of its record."""
    return " ".join(str(value).split()).replace("$$$$", "$$$ $")


class ParquetWriter(RowWriter):
    def _open(self) -> None:
        schema = pa.schema([pa.field(name, _ARROW_TYPES[kind]) for name, kind in self.columns.items()])
        self._schema, self._rows = schema, list[dict[str, Any]]()
        self._writer = pq.ParquetWriter(self.partial, schema, compression="zstd")

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._rows.extend({name: _cell(row.get(name), kind) for name, kind in self.columns.items()} for row in rows)
        if len(self._rows) >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        rows, self._rows = self._rows, []
        if rows:
            self._writer.write_table(pa.Table.from_pylist(rows, schema=self._schema))

    def _close(self) -> None:
        try:
            self._flush()
        finally:
            self._writer.close()


def _cell(value: Any, kind: type) -> Any:
    plain = _plain(value)
    if plain is None or isinstance(plain, kind):
        return plain
    if kind is not str and isinstance(plain, str) and not plain.strip():
        return None
    return kind(plain)


WRITERS: dict[str, Callable[[Path, Mapping[str, type]], RowWriter]] = {
    ".csv": CsvWriter,
    ".csv.gz": CsvWriter,
    ".jsonl": JsonlWriter,
    ".jsonl.gz": JsonlWriter,
    ".parquet": ParquetWriter,
    ".sdf": SdfWriter,
    ".sdf.gz": SdfWriter,
}
"""Writers of result rows by suffix."""


def open_writer(path: Path, columns: Mapping[str, type] | Sequence[str]) -> RowWriter:
    """Returns a writer for `path` by its suffix, to be used in a `with` statement.

    Args:
        path: output file.
        columns: names of the columns in order, as a mapping to int, float, str or bool (a sequence: all str).

    Raises:
        ConfigError: the suffix is not supported, or `path` is a folder.
    """
    suffix = suffix_of(path)
    if suffix not in WRITERS:
        raise ConfigError(
            f"Expected an output file ending in one of {', '.join(sorted(WRITERS))}, found '{suffix}' in {path}."
        )
    if path.is_dir():
        raise ConfigError(f"Expected an output file, found the folder {path}.")
    return WRITERS[suffix](path, columns if isinstance(columns, Mapping) else dict.fromkeys(columns, str))
