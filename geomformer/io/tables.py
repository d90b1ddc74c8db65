"""Tables with a SMILES column: CSV (comma, semicolon or tab) and Parquet; and SMILES lists."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from geomformer.errors import DataError
from geomformer.io.columns import ID_COLUMNS, SMILES_COLUMNS, Query, find_column, smiles_column
from geomformer.io.streams import TRUNCATED, TruncatedStreamError, lines
from geomformer.records import RawMolecule

BATCH_ROWS = 1024
UNCLOSED = "a quote that opens here is never closed: the rest of the file is inside of it"
"""Problem of the last record of a csv file."""


class _Table:
    """Turns the rows of one table into `RawMolecule`s."""

    def __init__(self, path: Path, columns: Sequence[str], query: Query) -> None:
        query.check(columns, path)
        self.path, self.query = path, query
        self.smiles = smiles_column(query.smiles_column, columns, path)
        self.id = query.id_column or find_column(ID_COLUMNS, columns)

    def molecule(self, index: int, row: dict[str, Any]) -> RawMolecule:
        text = str(row.get(self.smiles) or "").strip()
        name = row.get(self.id) if self.id else None
        return RawMolecule(
            index=index,
            id=str(index) if name is None or not str(name).strip() else str(name).strip(),
            text=text,
            columns=row,
            targets=self.query.labels(row, self.path, index),
            split=self.query.split_of(row),
            problem=None if text else f"empty cell in column '{self.smiles}'",
        )


def _header(line: str) -> tuple[list[str], str]:
    """Returns the column names of a header line and the delimiter that gives most of them."""
    rows = {delimiter: next(csv.reader([line], delimiter=delimiter), []) for delimiter in (",", ";", "\t")}
    delimiter = max(rows, key=lambda key: len(rows[key]))
    return [name.strip() for name in rows[delimiter]], delimiter


def _open_csv(path: Path) -> tuple[list[str], str, Iterator[str]]:
    stream = lines(path)
    try:
        line = next((line for line in stream if line.strip()), None)
    except TruncatedStreamError as error:
        raise DataError(f"The compressed file {path} ends early, before its first line.", "Fetch it again.") from error
    if line is None:
        raise DataError(f"Expected a header line in {path}, found none.")
    if "\0" in line:
        raise DataError(f"Expected text in UTF-8 in {path}, found zero bytes.", "Save it as csv in UTF-8.")
    columns, delimiter = _header(line)
    _check_distinct(columns, path)
    return columns, delimiter, stream


def _check_distinct(columns: Sequence[str], path: Path) -> None:
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"Expected distinct column names in {path}, found '{twice}' more than once.")


def csv_columns(path: Path) -> list[str]:
    return _open_csv(path)[0]


class _Watched:
    """Lines, and whether their end has been met: a row that reaches beyond the last line has an open quote."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines, self.ended = lines, False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            return next(self._lines)
        except StopIteration:
            self.ended = True
            raise


def read_csv(path: Path, query: Query) -> Iterator[RawMolecule]:
    """Yields the rows of a delimited text file with a header; blank lines are no rows.

    Raises:
        ConfigError: a column is missing.
        DataError: there is no header, or a label is not numeric.
    """
    columns, delimiter, stream = _open_csv(path)
    table = _Table(path, columns, query)
    source = _Watched(stream)
    reader = csv.reader(source, delimiter=delimiter)
    index = 0
    while True:
        try:
            cells = next(reader, None)
        except TruncatedStreamError:
            yield RawMolecule(index=index, id=str(index), text="", problem=TRUNCATED)
            return
        except csv.Error as error:
            yield RawMolecule(index=index, id=str(index), text="", problem=f"unreadable row: {error}")
            index += 1
            continue
        if cells is None:
            return
        if not cells:
            continue
        if source.ended:
            yield RawMolecule(index=index, id=str(index), text="", problem=UNCLOSED)
            return
        yield _csv_molecule(table, columns, cells, index)
        index += 1


def _csv_molecule(table: _Table, columns: list[str], cells: list[str], index: int) -> RawMolecule:
    while len(cells) > len(columns) and not cells[-1].strip():
        cells.pop()
    if len(cells) == len(columns):
        return table.molecule(index, dict(zip(columns, cells, strict=True)))
    row = dict(zip(columns, cells, strict=False))
    text = row.get(table.smiles, "")
    problem = f"expected {len(columns)} fields, found {len(cells)}"
    return RawMolecule(index=index, id=str(index), text=text, columns=row, problem=problem)


def _scalar(kind: pa.DataType) -> bool:
    return not (pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _open_parquet(path: Path) -> tuple[pq.ParquetFile, list[str]]:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"Expected a Parquet file at {path}, found something else: {str(error).rstrip('.')}."
        ) from error
    columns = [field.name for field in file.schema_arrow]
    _check_distinct(columns, path)
    return file, [field.name for field in file.schema_arrow if _scalar(field.type)]


def parquet_columns(path: Path) -> list[str]:
    file, columns = _open_parquet(path)
    with file:
        return columns


def read_parquet(path: Path, query: Query) -> Iterator[RawMolecule]:
    """Yields the rows of a Parquet file; nested columns are left out.

    Raises:
        ConfigError: a column is missing.
        DataError: the file is not Parquet or damaged, a name stands for two columns, or a label is not numeric.
    """
    file, columns = _open_parquet(path)
    with file:
        table = _Table(path, columns, query)
        index = 0
        try:
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns):
                for row in batch.to_pylist():
                    yield table.molecule(index, row)
                    index += 1
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"Parquet file {path} is damaged after row {index}: {error}.") from error


def read_smi(path: Path, query: Query) -> Iterator[RawMolecule]:
    """Yields the lines "SMILES name" of a SMILES list; blank lines, `#` comments and a header are no records.

    Raises:
        ConfigError: a column is asked for: the format has none.
    """
    query.check([], path)
    index, first = 0, True
    try:
        for line in lines(path):
            words = line.split(maxsplit=1)
            if not words or words[0].startswith("#"):
                continue
            header = first and words[0].strip(",").lower() in SMILES_COLUMNS
            first = False
            if header:
                continue
            text, name = words[0], words[1].strip() if len(words) > 1 else ""
            if name.startswith("|") and "|" in name[1:]:
                extension, name = name[: name.index("|", 1) + 1], name[name.index("|", 1) + 1 :].strip()
                text = f"{text} {extension}"
            yield RawMolecule(index=index, id=name or str(index), text=text)
            index += 1
    except TruncatedStreamError:
        yield RawMolecule(index=index, id=str(index), text="", problem=TRUNCATED)
