"""What datasets there are, and what of them lies on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from geomformer.datasets import DATASETS, DatasetInfo
from geomformer.errors import DataError
from geomformer.prepared.dataset import PreparedDataset
from geomformer.prepared.storage import BUILDING, MANIFEST


@dataclass(frozen=True)
class PreparedFolder:
    """A prepared dataset on disk.

    Attributes:
        path: its folder.
        dataset: name of what it was made from; None while it is unfinished.
        rows: rows per split; empty while it is unfinished.
        size: bytes on disk, the mapped training files included.
    """

    path: Path
    dataset: str | None
    rows: dict[str, int]
    size: int


@dataclass(frozen=True)
class Entry:
    """A dataset by name with its raw files and what was prepared from them.

    Attributes:
        name: as `geomformer preprocess` takes it.
        info: licence, citation and so on.
        raw: folder of its raw files.
        raw_size: bytes in that folder.
        prepared: datasets made from it.
    """

    name: str
    info: DatasetInfo
    raw: Path
    raw_size: int
    prepared: list[PreparedFolder] = field(default_factory=list)


def catalogue(root: Path) -> list[Entry]:
    """Returns every dataset, with what lies of it in `root`."""
    found = list(prepared_folders(root / "prepared"))
    return [
        Entry(name, info, raw, folder_size(raw), [item for item in found if belongs(item, name, root)])
        for name, info in DATASETS.items()
        for raw in [root / "raw" / name]
    ]


def belongs(item: PreparedFolder, name: str, root: Path) -> bool:
    """Whether a folder holds a dataset of that name: by its manifest, or by its place while it is unfinished."""
    known = item.dataset or item.path.relative_to(root / "prepared").parts[0]
    return known == name or (known not in DATASETS and known.startswith(f"{name}-"))


def prepared_folders(folder: Path) -> Iterator[PreparedFolder]:
    """Yields the prepared datasets in a folder, finished or not, and in the folders of it."""
    if not folder.is_dir():
        return
    for item in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if (item / MANIFEST).exists():
            yield _finished(item)
        elif (item / BUILDING).exists():
            yield PreparedFolder(item, None, {}, folder_size(item))
        else:
            yield from prepared_folders(item)


def _finished(path: Path) -> PreparedFolder:
    try:
        dataset = PreparedDataset(path)
    except DataError:
        return PreparedFolder(path, None, {}, folder_size(path))
    return PreparedFolder(path, dataset.manifest.get("dataset"), dataset.splits, folder_size(path))


def folder_size(path: Path) -> int:
    """Bytes of all files below a folder; 0 if there is none."""
    return sum(item.stat().st_size for item in path.rglob("*") if item.is_file())
