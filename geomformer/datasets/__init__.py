"""Datasets by name. Each module turns raw files into a prepared dataset with one function, `prepare`:

prepare(*, raw, out, data_root, options, progress=None) -> Path
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from geomformer.errors import ConfigError, nearest

DATASETS: dict[str, str] = {
    "custom": "geomformer.datasets.custom",
    "qm9": "geomformer.datasets.qm9",
}
"""Module of every dataset, loaded when it is used."""


def load_dataset(name: str) -> Callable[..., Path]:
    """Returns the `prepare` function of a dataset.

    Raises:
        ConfigError: there is no dataset of that name.
    """
    if name not in DATASETS:
        raise ConfigError(f"Expected one of {', '.join(sorted(DATASETS))}, found '{name}'.{nearest(name, DATASETS)}")
    prepare: Callable[..., Path] = importlib.import_module(DATASETS[name]).prepare
    return prepare
