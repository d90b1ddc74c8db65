"""Files that are there whole or not at all, and their checksums."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

from geomformer.errors import DataError


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_file(path: Path) -> dict[str, Any]:
    """Returns name, size in bytes and sha256 of a source file."""
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": file_sha256(path)}


def write_durable(path: Path, data: str | bytes) -> None:
    """Writes a file and waits until it is on the disk."""
    with path.open("wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())


def write_atomic(path: Path, data: str | bytes) -> None:
    """Writes a file under a temporary name, makes it durable and renames it; folders are made as needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
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
