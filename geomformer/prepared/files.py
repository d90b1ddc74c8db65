"""Checksums and atomic writes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any


def file_sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def describe_file(path: Path) -> dict[str, Any]:
    """Returns name, size in bytes and sha256 of a source file."""
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": file_sha256(path)}


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file through a temporary one in the same folder."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)
