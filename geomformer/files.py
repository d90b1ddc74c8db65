"""Files that are there whole or not at all, and their checksums."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from geomformer.errors import DataError

try:
    import fcntl
except ImportError:  # Windows: concurrent writers do the work twice, and the last rename wins
    fcntl = None  # type: ignore[assignment]


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_hash(path: Path, algorithm: str) -> str:
    """Returns the checksum of a file as "ALGORITHM:HEX", e.g. "md5:...", read in pieces."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False))
    return f"{algorithm}:{digest.hexdigest()}"


def describe_file(path: Path) -> dict[str, Any]:
    """Returns name, size in bytes and sha256 of a source file."""
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": file_sha256(path)}


def write_durable(path: Path, data: str | bytes) -> None:
    """Writes a file and waits until it is on the disk."""
    with path.open("wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())


def write_atomic(path: Path, data: str | bytes, *, shared: bool = False) -> None:
    """Writes a file under a temporary name, makes it durable and renames it; folders are made as needed.

    Args:
        path: the file.
        data: its content.
        shared: other processes may write it at the same time, so that the temporary name has to be our own. Otherwise
            it is always the same, and what a killed process left is overwritten by the next.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp" if shared else f"{path.name}.tmp")
    write_durable(temporary, data)
    temporary.replace(path)


def sync_folder(path: Path) -> None:
    """Makes the entries of a folder durable, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_writable(folder: Path) -> None:
    """Makes sure now that a result can be written later.

    Raises:
        DataError: the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DataError(f"Cannot write to {folder}: {error.strerror or error}.", "Choose another folder.") from error


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock file against other processes, also those of other machines that share the folder."""
    with path.open("w") as handle:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def size_text(size: float) -> str:
    """Returns a number of bytes in the unit that reads best, e.g. "8.1 GB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def beginning(data: bytes) -> str:
    """Says what a file begins with, for the message that it is not what was expected.

    Args:
        data: its first bytes.
    """
    page = data.lstrip().lower().startswith((b"<!doctype", b"<html"))
    return f"a file that begins with {'a web page' if page else repr(data[:16])}"


def check_space(folder: Path, needed: int, what: str) -> None:
    """Makes sure that the disk of a folder, which need not exist yet, has room.

    Args:
        folder: where it will be written.
        needed: bytes.
        what: name of what is to be written, for the message.

    Raises:
        DataError: it has not.
    """
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if needed > free:
        raise DataError(
            f"Expected about {size_text(needed)} of free disk space for {what} in {folder}, found {size_text(free)}.",
            "Free some space, or choose another place with --out or --data-root.",
        )
