"""Members of tar and zip archives, read without extracting them; archives are not trusted.

Names that lead out of a folder, links and devices are refused, and an archive that is empty, ends early or is none at
all says so: `tarfile` by itself takes many of these for a shorter archive.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from geomformer.errors import DataError
from geomformer.files import beginning, check_space, size_text

COPY_BYTES = 2**20
MAX_EXTENSION = 2**20
"""Bytes of a header with a long name or attributes; `tarfile` reads these into memory."""
_DAMAGE = (
    *(EOFError, OSError, RuntimeError, ValueError, LookupError, OverflowError, struct.error),
    *(zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile),
)
"""What damaged archives raise; RuntimeError and its NotImplementedError are zipfile's for encryption and methods."""
_OPENERS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_MAGIC = (*_OPENERS, b"PK")
_EXTENSIONS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
_AGAIN = "Download it again."


def tar_members(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, IO[bytes], int]]:
    """Reads the members of a .tar, .tar.gz, .tar.bz2 or .tar.xz one after another; nothing is extracted.

    The archive is read to its end, and so checked, unless the caller stops before.

    Args:
        path: the archive.
        wanted: says by its name whether a member is wanted.

    Yields:
        Name, contents (to be read before the next member is asked for) and size in bytes of every wanted file.

    Raises:
        DataError: there is no such archive, it is damaged, or it holds something that is refused; also raised when the
            contents are read.
    """
    with _opened(path) as source, _damage(path, source):
        with tarfile.open(fileobj=cast(IO[bytes], source), mode="r|", tarinfo=_StrictHeader) as archive:
            while (member := archive.next()) is not None:
                # These would grow by every member.
                archive.members.clear()  # type: ignore[attr-defined]
                archive.pax_headers.clear()  # type: ignore[attr-defined]
                _check_name(path, member.name)
                if not (member.isfile() or member.isdir()):
                    raise _refused(path, member.name, "it is a link or a device")
                if member.isfile() and wanted(member.name):
                    handle = archive.extractfile(member)
                    if handle is not None:
                        yield member.name, _guarded(handle, path, source), member.size
        while source.read(COPY_BYTES):
            # To the end: the checksum of the compressed stream comes last.
            pass


def zip_members(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, IO[bytes], int]]:
    """Reads the members of a zip archive one after another; nothing is extracted.

    Args:
        path: the archive.
        wanted: says by its name whether a member is wanted.

    Yields:
        Name, contents (to be read before the next member is asked for) and size in bytes of every wanted file.

    Raises:
        DataError: as for `tar_members`.
    """
    with _opened_zip(path) as archive:
        for member in archive.infolist():
            if not member.is_dir() and wanted(member.filename):
                with _damage(path), archive.open(member) as handle:
                    yield member.filename, _guarded(handle, path), member.file_size


def extract_zip_member(path: Path, name: str, out: Path) -> Path:
    """Writes one member of a zip archive to the file `out`, which is there whole or not at all.

    Raises:
        DataError: the archive has no such member, is damaged or holds something that is refused, or the disk has no
            room for the member.
    """
    with _opened_zip(path) as archive:
        names = archive.namelist()
        if name not in names:
            raise DataError(f"Expected {name} in {path}, found {', '.join(names[:10]) or 'nothing'}.")
        with _damage(path):
            handle = archive.open(name)
        with handle:
            return save_member(_guarded(handle, path), archive.getinfo(name).file_size, out)


def save_member(handle: IO[bytes], size: int, out: Path) -> Path:
    """Writes the contents of a member to the file `out`, which is there whole or not at all.

    Args:
        handle: the contents.
        size: their size in bytes, compared with the free space first.
        out: the file; its folder is made as needed.

    Raises:
        DataError: the disk has no room for it or cannot be written to.
    """
    check_space(out.parent, size, out.name)
    # A name of our own: another process may write the same file.
    temporary = out.with_name(f"{out.name}.{os.getpid()}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            shutil.copyfileobj(handle, file, COPY_BYTES)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(out)
    except OSError as error:
        raise DataError(f"Cannot write {out}: {error.strerror or error}.", "Choose another folder.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return out


class _StrictHeader(tarfile.TarInfo):
    """Header of a member. `tarfile` takes a missing or damaged one for the end of the archive; here it is an error."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _StrictHeader:
        if len(buf) < tarfile.BLOCKSIZE:
            raise EOFError
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if not buf.strip(b"\0"):
                raise
            raise tarfile.ReadError(str(error)) from error
        if header.type in _EXTENSIONS and header.size > MAX_EXTENSION:
            raise tarfile.ReadError(f"it has a header of {header.size} bytes")
        return header

    def _refuse_holes(self, *_: Any) -> tarfile.TarInfo:
        raise tarfile.ReadError("it has a file with holes, whose map may have any length")

    _proc_sparse = _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse_holes


class _Source:
    """Decompressed bytes of an archive, which knows whether more were wanted than there are."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.ended = False

    def read(self, size: int) -> bytes:
        data = self.stream.read(size)
        self.ended = not data
        return data


class _Guarded(io.RawIOBase):
    """Contents of a member, whose damage is a `DataError`."""

    def __init__(self, handle: IO[bytes], path: Path, source: _Source | None) -> None:
        self._handle, self._path, self._source = handle, path, source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        with _damage(self._path, self._source):
            data = self._handle.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _guarded(handle: IO[bytes], path: Path, source: _Source | None = None) -> IO[bytes]:
    return cast(IO[bytes], io.BufferedReader(_Guarded(handle, path, source), COPY_BYTES))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[_Source]:
    start = _first_bytes(path)
    opener = next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), Path.open)
    with opener(path, "rb") as stream:
        yield _Source(stream)


@contextlib.contextmanager
def _opened_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Opens a zip archive whose members are all harmless."""
    start = _first_bytes(path)
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        # The table of contents comes last, so that a zip that ends early has none.
        raise (_ends_early(path) if start.startswith(b"PK") else _no_archive(path, start)) from error
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error
    with archive:
        for member in archive.infolist():
            _check_name(path, member.filename)
            if stat.S_ISLNK(member.external_attr >> 16):
                raise _refused(path, member.filename, "it is a link")
        yield archive


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise DataError(f"Expected an archive at {path}: {error.strerror or error}.") from error
    if not start:
        raise DataError(f"Expected an archive at {path}, found an empty file.", _AGAIN)
    return start


def _check_name(path: Path, name: str) -> None:
    parts = re.split(r"[/\\]", name)
    if not parts[0] or re.match("[A-Za-z]:", name) or ".." in parts:
        raise _refused(path, name, "its name leads out of the folder")


def _refused(path: Path, name: str, why: str) -> DataError:
    return DataError(f"The archive {path} is refused because of its member '{name}': {why}.", "Use the official file.")


@contextlib.contextmanager
def _damage(path: Path, source: _Source | None = None) -> Iterator[None]:
    """Makes errors of a damaged archive a `DataError` that says what kind of damage it is."""
    try:
        yield
    except _DAMAGE as error:
        start = _first_bytes(path)
        if not start.startswith(_MAGIC) and b"ustar" not in start:
            raise _no_archive(path, start) from error
        if isinstance(error, EOFError) or (source is not None and source.ended):
            raise _ends_early(path) from error
        raise DataError(f"The archive {path} is damaged: {error}.", _AGAIN) from error


def _ends_early(path: Path) -> DataError:
    size = path.stat().st_size
    return DataError(f"The archive {path} ends early: {size} bytes ({size_text(size)}).", _AGAIN)


def _no_archive(path: Path, start: bytes) -> DataError:
    return DataError(f"Expected an archive at {path}, found {beginning(start)}.", _AGAIN)
