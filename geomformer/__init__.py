"""GeoMFormer: a general two-stream Transformer for geometric molecular representation learning.

The public names load on first use, so that `import geomformer` is free.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "load_model": "geomformer.api",
    "predict": "geomformer.api",
    "evaluate": "geomformer.api",
    "train": "geomformer.api",
    "prepare": "geomformer.api",
    "GeoMFormer": "geomformer.models.geomformer",
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'geomformer' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
