"""Single-file LMDBs of numbered values, read only and without a lock file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from geomformer.errors import ConfigError, DataError
from geomformer.io.torch_pickles import read_integer

if TYPE_CHECKING:
    from lmdb import Environment

_LENGTH = b"length"
_MAX_VALUE = 2**30
_MAX_OPEN = 16

_open: dict[str, tuple[tuple[int, ...], Environment]] = {}
"""Files that this process has open, with what tells whether they are still the same: LMDB allows one at a time."""


def count_values(path: Path) -> int:
    """Returns the number of values of an LMDB, keyed "0", "1" and so on, and closes it.

    Raises:
        DataError: the file is missing, empty, cut short, no LMDB, or holds fewer values than it announces.
    """
    import lmdb

    name = str(path)
    try:
        with _environment(name).begin() as transaction:
            entries = int(transaction.stat()["entries"])
            announced = transaction.get(_LENGTH)
            if announced is not None:
                entries -= 1
            count = entries if announced is None else read_integer(announced, f"the value of key 'length' in {path}")
            if not 0 <= count <= entries:
                raise DataError(f"Expected {count} values in {path}, found {entries}.", "Fetch it again.")
            missing = next((key for key in _ends(count) if transaction.get(key, None) is None), None)
            if missing is not None:
                raise DataError(f"Expected the key '{missing.decode()}' in {path}, which holds {entries} values.")
            return count
    except lmdb.Error as error:
        raise _damaged(name, error) from error
    finally:
        close(path)


def read_value(path: str, key: str) -> bytes:
    """Returns one value. The file stays open in this process.

    Raises:
        DataError: there is no such key, or the file is damaged.
    """
    import lmdb

    try:
        with _environment(path).begin(buffers=True) as transaction:
            value = transaction.get(key.encode())
            if value is None:
                raise DataError(f"Expected the key '{key}' in {path}, found none.", "Fetch it again.")
            if len(value) > min(_MAX_VALUE, _open[path][0][0]):
                raise DataError(f"The value of key '{key}' in {path} is larger than the file.", "Fetch it again.")
            return bytes(value)
    except lmdb.Error as error:
        raise _damaged(path, error) from error


def close(path: Path) -> None:
    """Closes a file, if this process has it open."""
    known = _open.pop(str(path), None)
    if known is not None:
        known[1].close()


def _ends(count: int) -> Iterator[bytes]:
    return (str(index).encode() for index in {0, count - 1} if index in range(count))


def _environment(path: str) -> Environment:
    try:
        status = os.stat(path)  # noqa: PTH116 - once per value
    except OSError as error:
        raise DataError(f"Expected an LMDB at {path}, found {error.strerror}.") from error
    identity = (status.st_size, status.st_ino, status.st_mtime_ns, os.getpid())
    known = _open.get(path)
    if known is not None and known[0] == identity:
        return known[1]
    close(Path(path))
    if len(_open) >= _MAX_OPEN:
        close(Path(next(iter(_open))))
    environment = _opened(path, status.st_size)
    _open[path] = identity, environment
    return environment


def _opened(path: str, size: int) -> Environment:
    try:
        import lmdb
    except ImportError as error:
        raise ConfigError("Reading an LMDB needs the package lmdb.", "Run: pip install lmdb") from error
    if size == 0:
        raise DataError(f"Expected an LMDB at {path}, found an empty file.", "Fetch it again.")
    try:
        environment = lmdb.open(path, subdir=False, readonly=True, lock=False, readahead=False, meminit=False)
    except lmdb.Error as error:
        raise _damaged(path, error) from error
    # LMDB maps the file into memory: reading a page that is not there would end the process.
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if size < needed:
        environment.close()
        raise DataError(
            f"The LMDB {path} is cut short: expected {needed} bytes, found {size}.",
            "It was downloaded or unpacked in part: fetch it again.",
        )
    return environment


def _damaged(path: str, error: Exception) -> DataError:
    return DataError(f"Expected an LMDB at {path}, found something else or a damaged one: {error}.", "Fetch it again.")
