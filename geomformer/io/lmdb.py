"""Single-file LMDBs of numbered values, read only and without a lock file.

An LMDB is a tree of pages. The library of that name trusts every byte of the file: a damaged one, or one made to,
leads it outside the file and ends the process. This reader looks a key up by itself and checks every step.
"""

from __future__ import annotations

import atexit
import os
import struct
from pathlib import Path

from geomformer.errors import DataError
from geomformer.files import beginning
from geomformer.io.torch_pickles import read_integer

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_META = struct.Struct("<QHHI IIQQ I44x IHHQQQQQ QQ")
_HEADER = struct.Struct("<QHHHH")
_NODE = struct.Struct("<HHHH")
_POINTER = struct.Struct("<H")
_PAGES = struct.Struct("<I")
_NUMBER = struct.Struct("<Q")
_BRANCH, _LEAF, _OVERFLOW = 1, 2, 4
_BIG = 1
_NO_PAGE = 2**64 - 1
_DEEPEST = 32
# The last pages may have been given back before they were ever written.
_UNWRITTEN = 16
_AGAIN = "Fetch it again."
_LENGTH = b"length"
_MAX_OPEN = 16

_open: dict[str, tuple[tuple[int, ...], LmdbFile]] = {}
"""Files that this process has open, with what tells whether they are still the same."""


class LmdbFile:
    """An open LMDB.

    Attributes:
        entries: number of its keys.

    Raises:
        DataError: the file is missing, empty, cut short, of another version or no LMDB.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        if not Path(path).is_file():
            # To open a pipe would wait for somebody who writes to it.
            raise DataError(f"Expected an LMDB at {path}, found {'no file' if Path(path).exists() else 'nothing'}.")
        try:
            self._file = Path(path).open("rb", buffering=0)  # noqa: SIM115 - `close` closes it
        except OSError as error:
            raise DataError(f"Expected an LMDB at {path}, found none: {error.strerror}.") from error
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            self._read_metas()
        except BaseException:
            self.close()
            raise

    def _read_metas(self) -> None:
        if self._size == 0:
            raise DataError(f"Expected an LMDB at {self.path}, found an empty file.", _AGAIN)
        first = self._meta(0)
        self._page_size = first[8]
        if self._page_size not in (2**power for power in range(9, 17)):
            raise self._damaged(f"pages of {self._page_size} bytes")
        # Two pages take turns to say where the tree is.
        newest = max(first, self._meta(self._page_size), key=lambda meta: meta[-1])
        (_, flags, _, _, _, _, self.entries, self._root, last, _) = newest[9:]
        if flags:
            raise self._damaged(f"keys of an unknown kind ({flags:#x})")
        needed = (last + 1) * self._page_size
        if self._size < needed - _UNWRITTEN * self._page_size:
            raise self._cut_short(needed)

    def _meta(self, place: int) -> tuple[int, ...]:
        data = self._bytes(place, min(_META.size, self._size)) if place == 0 else self._bytes(place, _META.size)
        (magic,) = _PAGES.unpack_from(data.ljust(_META.size, b"\0"), 16)
        if magic != _MAGIC and place:
            raise self._damaged("its second header is none")
        if magic != _MAGIC:
            raise DataError(f"Expected an LMDB at {self.path}, found {beginning(data)}.", _AGAIN)
        if len(data) < _META.size:
            raise self._cut_short(_META.size)
        meta: tuple[int, ...] = _META.unpack(data)
        if meta[5] != _VERSION:
            raise DataError(f"Expected an LMDB of format version {_VERSION} at {self.path}, found version {meta[5]}.")
        return meta

    def get(self, key: bytes) -> bytes | None:
        """Returns the value of a key, None if there is none.

        Raises:
            DataError: the file is damaged or cut short.
        """
        number = self._root
        if number == _NO_PAGE:
            return None
        for _ in range(_DEEPEST):
            page = self._bytes(number * self._page_size, self._page_size)
            found, _, kind, lower, upper = _HEADER.unpack_from(page)
            if found != number or kind not in (_BRANCH, _LEAF) or not 16 <= lower <= upper <= len(page):
                raise self._damaged(f"page {number} is none of a tree")
            count = (lower - 16) // 2
            place = self._search(page, key, count, first=kind == _BRANCH)
            if kind == _LEAF:
                return self._leaf_value(page, place, key) if place >= 0 else None
            if count == 0:
                raise self._damaged(f"page {number} is empty")
            low, high, top, _ = _NODE.unpack_from(page, self._node(page, place))
            number = low | high << 16 | top << 32
        raise self._damaged("its tree has no end")

    def close(self) -> None:
        self._file.close()

    def _search(self, page: bytes, key: bytes, count: int, first: bool) -> int:
        """Returns the last of `count` nodes whose key is not behind `key`, -1 for none.

        In branches (`first`) the first node stands for everything before the second.
        """
        low, high = (0 if first else -1), count
        while high - low > 1:
            middle = (low + high) // 2
            if self._key(page, self._node(page, middle)) <= key:
                low = middle
            else:
                high = middle
        return low

    def _node(self, page: bytes, index: int) -> int:
        (place,) = _POINTER.unpack_from(page, 16 + 2 * index)
        if not 16 <= place <= len(page) - _NODE.size:
            raise self._damaged("an entry lies outside its page")
        return int(place)

    def _key(self, page: bytes, node: int) -> bytes:
        size = _NODE.unpack_from(page, node)[3]
        return page[node + _NODE.size : node + _NODE.size + size]

    def _leaf_value(self, page: bytes, index: int, key: bytes) -> bytes | None:
        node = self._node(page, index)
        if self._key(page, node) != key:
            return None
        low, high, flags, key_size = _NODE.unpack_from(page, node)
        size, start = low | high << 16, node + _NODE.size + key_size
        if flags not in (0, _BIG) or start + (8 if flags else size) > len(page):
            raise self._damaged("a value lies outside its page")
        if not flags:
            return page[start : start + size]
        (number,) = _NUMBER.unpack_from(page, start)
        header = self._bytes(number * self._page_size, 16)
        found, _, kind, _, _ = _HEADER.unpack(header)
        (pages,) = _PAGES.unpack_from(header, 12)
        if found != number or kind != _OVERFLOW or pages * self._page_size < 16 + size:
            raise self._damaged(f"page {number} is none of a value")
        return self._bytes(number * self._page_size + 16, size)

    def _bytes(self, place: int, size: int) -> bytes:
        if place + size > self._size:
            raise self._cut_short(place + size)
        try:
            self._file.seek(place)
            data = self._file.read(size)
        except OSError as error:
            raise DataError(f"Cannot read {self.path}: {error.strerror}.") from error
        if data is None or len(data) < size:
            raise self._cut_short(place + size)
        return data

    def _cut_short(self, needed: int) -> DataError:
        return DataError(
            f"The LMDB {self.path} is cut short or damaged: expected at least {needed} bytes, found {self._size}.",
            f"If it was downloaded or unpacked in part: {_AGAIN.lower()}",
        )

    def _damaged(self, what: str) -> DataError:
        return DataError(f"The LMDB {self.path} is damaged: {what}.", _AGAIN)


def count_values(path: Path) -> int:
    """Returns the number of values of an LMDB, keyed "0", "1" and so on.

    Raises:
        DataError: it cannot be read, or holds fewer values than it announces.
    """
    file = LmdbFile(str(path))
    try:
        announced = file.get(_LENGTH)
        entries = file.entries - (announced is not None)
        count = entries if announced is None else read_integer(announced, f"the value of key 'length' in {path}")
        if not 0 <= count <= entries:
            raise DataError(f"Expected {count} values in {path}, found {entries}.", _AGAIN)
        for index in {0, count - 1} if count else ():
            if file.get(str(index).encode()) is None:
                raise _no_key(str(path), str(index))
        return count
    finally:
        file.close()


def read_value(path: str, key: str) -> bytes:
    """Returns one value. The file stays open in this process until `close_files`.

    Raises:
        DataError: it cannot be read, or there is no such key.
    """
    value = _opened(path).get(key.encode())
    if value is None:
        raise _no_key(path, key)
    return value


@atexit.register
def close_files() -> None:
    """Closes what `read_value` has left open in this process."""
    while _open:
        _open.popitem()[1][1].close()


def _no_key(path: str, key: str) -> DataError:
    return DataError(f"Expected the key '{key}' in the LMDB {path}, found none.", _AGAIN)


def _opened(path: str) -> LmdbFile:
    try:
        status = os.stat(path)  # noqa: PTH116 - once per value
    except OSError as error:
        raise DataError(f"Expected an LMDB at {path}, found {error.strerror}.") from error
    # A process that was forked must not move the place in its parent's file.
    identity = (status.st_size, status.st_ino, status.st_mtime_ns, os.getpid())
    known = _open.get(path)
    if known is not None and known[0] == identity:
        return known[1]
    for name in [path, *list(_open)[: max(0, len(_open) - _MAX_OPEN + 1)]]:
        if name in _open:
            _open.pop(name)[1].close()
    _open[path] = identity, LmdbFile(path)
    return _open[path][1]
