"""Opening input files: suffixes, compression, decoding and streams that end early."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from geomformer.errors import ConfigError, DataError

TRUNCATED = "the compressed file ends early here: the rest of the input could not be read"
"""Problem of the last record of a damaged gzip file."""


class TruncatedStreamError(Exception):
    """A compressed stream ended before its end mark or is damaged."""


def suffix_of(path: Path) -> str:
    """Returns the suffix in lower case, with the one before it where the last is `.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return "".join(suffixes[-2:]) if suffixes[-1:] == [".gz"] else "".join(suffixes[-1:])


def check_input(path: Path, supported: Iterable[str]) -> str:
    """Checks that `path` is a non-empty file of a supported kind and returns its suffix.

    Raises:
        DataError: the file is missing, a folder, or empty.
        ConfigError: the suffix is not supported.
    """
    if not path.exists():
        raise DataError(f"Expected an input file, found nothing at {path}.", "Check the path.")
    if path.is_dir():
        raise DataError(f"Expected an input file, found the folder {path}.", "Name the file inside it.")
    suffix = suffix_of(path)
    if suffix not in supported:
        raise ConfigError(
            f"Expected one of {', '.join(sorted(supported))}, found '{suffix or 'no suffix'}' in {path}.",
            "Rename or convert the file.",
        )
    if path.stat().st_size == 0:
        raise DataError(f"Expected molecules in {path}, found an empty file.")
    return suffix


def open_text(path: Path) -> TextIO:
    """Opens a text file, gzipped or not: UTF-8 with or without byte-order mark, undecodable bytes replaced."""
    raw = gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")  # noqa: SIM115
    return io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace", newline=None)


def lines(path: Path) -> Iterator[str]:
    """Yields the lines of a text file with their line ends as a single newline.

    Raises:
        DataError: the file has a `.gz` suffix and is not gzip, or cannot be opened.
        TruncatedStreamError: after the readable lines, when the compressed stream ends early.
    """
    started = False
    try:
        with open_text(path) as handle:
            for line in handle:
                started = True
                yield line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        if not started and isinstance(error, gzip.BadGzipFile):
            raise DataError(f"Expected gzip data in {path}, found something else.", "Remove the .gz suffix?") from error
        raise TruncatedStreamError(str(error)) from error
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error
