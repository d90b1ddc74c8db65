"""Small prepared datasets that come with geomformer, for a first run without a download."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from geomformer.files import check_writable

SAMPLES = {"is2re": "oc20-sample", "is2rs": "oc20-sample"}
"""Name of the sample by task."""

FOLDERS = {"oc20-sample": "oc20"}
"""Folder of each sample beside this file."""


def install_sample(name: str, prepared: Path) -> Path:
    """Copies a sample to the prepared datasets, where files built from it have room; one that is there stays.

    Args:
        name: of the sample.
        prepared: folder of all prepared datasets.

    Returns:
        its folder.

    Raises:
        DataError: the folder cannot be written.
    """
    folder = prepared / name
    if (folder / "manifest.json").exists():
        return folder
    check_writable(prepared)
    copy = prepared / f".{name}.{os.getpid()}"
    shutil.copytree(Path(__file__).parent / FOLDERS[name], copy, dirs_exist_ok=True)
    try:
        copy.rename(folder)  # also onto an empty folder
    except OSError:  # another process was faster
        shutil.rmtree(copy)
    return folder
