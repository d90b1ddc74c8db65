"""Fetching raw files: https, checksum, and what to do without a network."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path

from geomformer.errors import DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemoteFile:
    """A raw file on the network.

    Attributes:
        name: its name on disk.
        url: where it is.
        known_hash: checksum as "md5:..." or "sha256:...".
    """

    name: str
    url: str
    known_hash: str


def fetch(file: RemoteFile, folder: Path) -> Path:
    """Downloads a file unless it is there with the right checksum, and returns its path; on a terminal with a bar.

    Raises:
        DataError: it cannot be downloaded or has another checksum; the message says which file to put where.
    """
    import pooch

    pooch.get_logger().setLevel(logging.WARNING)
    logger.info("fetching %s from %s", file.name, file.url)
    try:
        bar = sys.stderr.isatty()
        return Path(pooch.retrieve(file.url, file.known_hash, fname=file.name, path=folder, progressbar=bar))
    except (OSError, ValueError) as error:
        raise DataError(
            f"Cannot download {file.name}: {error}.",
            f"Get it from {file.url}, and put it into {folder} or name it with --raw.",
        ) from error
