"""SDF as text: records are cut at `$$$$` lines and never parsed here, so that none is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from geomformer.io.columns import Query
from geomformer.io.streams import TRUNCATED, TruncatedStreamError, lines
from geomformer.records import RawMolecule

MAX_RECORD = 16 * 2**20
"""Characters kept of one record: a file without any `$$$$` must not fill the memory."""


def _property_name(line: str) -> str | None:
    """Returns NAME of a `> <NAME>` line, or None."""
    if not line.startswith(">"):
        return None
    start, end = line.find("<"), line.rfind(">")
    return line[start + 1 : end] if 0 < start < end else None


def split_record(text: str) -> tuple[str, dict[str, str]]:
    """Cuts the text of a record into its mol block and its properties by name."""
    rows = text.split("\n")
    first = next((i for i, row in enumerate(rows) if _property_name(row) is not None), len(rows))
    properties: dict[str, str] = {}
    name: str | None = None
    value: list[str] = []
    for row in [*rows[first:], "> <>"]:
        found = _property_name(row)
        if found is None:
            value.append(row)
            continue
        if name is not None:
            properties[name] = "\n".join(value).strip("\n")
        name, value = found, []
    block = "\n".join(rows[:first])
    return block if block.endswith("\n") else block + "\n", properties


def records(path: Path) -> Iterator[tuple[str, str | None]]:
    """Yields (text, problem) of every record: one per `$$$$` line, and one for non-blank text after the last.

    Raises:
        DataError: the file cannot be opened.
    """
    rows: list[str] = []
    size, truncated = 0, False
    stream = lines(path)
    while True:
        try:
            line = next(stream, None)
        except TruncatedStreamError:
            line, truncated = None, True
        if line is None:
            break
        if line.startswith("$$$$"):
            yield "".join(rows), _too_large(size)
            rows, size = [], 0
            continue
        size += len(line)
        if size <= MAX_RECORD:
            rows.append(line)
    text = "".join(rows)
    if truncated or text.strip():
        yield text, TRUNCATED if truncated else _too_large(size)


def _too_large(size: int) -> str | None:
    return f"record of {size} characters; at most {MAX_RECORD} are read" if size > MAX_RECORD else None


def read_sdf(path: Path, query: Query) -> Iterator[RawMolecule]:
    """Yields the records of an SDF or mol file, `.gz` or not; the title line is the id unless a property is."""
    for index, (text, problem) in enumerate(records(path)):
        block, columns = split_record(text)
        title = block.split("\n", 1)[0].strip()
        name = columns.get(query.id_column, "").strip() if query.id_column else title
        if problem is None and not block.strip():
            problem = "empty record"
        yield RawMolecule(
            index=index,
            id=name or str(index),
            text=block,
            kind="mol",
            columns=dict(columns),
            targets=query.labels(columns, path, index),
            split=query.split_of(columns),
            problem=problem,
        )


def sdf_columns(path: Path) -> list[str]:
    """Returns the property names of all records, in order of appearance, in one pass over the text."""
    names: dict[str, None] = {}
    try:
        for line in lines(path):
            name = _property_name(line)
            if name is not None:
                names[name] = None
    except TruncatedStreamError:
        return list(names)
    return list(names)


def check_sdf(path: Path, query: Query) -> None:
    """Checks that the properties that were asked for occur in the file.

    Raises:
        ConfigError: one does not.
    """
    if query.id_column is None and query.split_column is None and not query.targets:
        return
    query.check(sdf_columns(path), path)
