"""Where OC20's structures are found: the official tree, one LMDB, the official archive, relaxation trajectories."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geomformer.datasets.raw.archives import save_member, tar_members
from geomformer.datasets.raw.download import RemoteFile
from geomformer.errors import DataError
from geomformer.files import (
    check_space,
    check_writable,
    describe_file,
    file_sha256,
    locked,
    size_text,
    write_atomic,
)
from geomformer.io.structures import TRAJECTORY_SUFFIXES
from geomformer.prepared.folder import BUILDING, MANIFEST

logger = logging.getLogger(__name__)

SIZES = ("10k", "100k", "all")
VALIDATION = ("val_id", "val_ood_ads", "val_ood_cat", "val_ood_both")
SPLITS = ("train", *VALIDATION, "test_id", "test_ood_ads", "test_ood_cat", "test_ood_both")

ARCHIVE = RemoteFile(
    "is2res_train_val_test_lmdbs.tar.gz",
    "https://dl.fbaipublicfiles.com/opencatalystproject/data/is2res_train_val_test_lmdbs.tar.gz",
    "md5:cfc04dd2f87b4102ab2f607240d25fb1",
    8_100_000_000,
)
UNPACKED = {"10k": 22_000_000_000, "100k": 34_000_000_000, "all": 83_000_000_000}
"""Bytes of the members that are needed, about."""

_MEMBER = re.compile(r"(?:.*/)?is2re/(10k|100k|all)/(\w+)/(data\.lmdb)")
_STATE = ".extracted.json"
_LOCK = ".extracted.lock"
_CHECKSUMS = "checksums.json"
_TREES = ("is2re", "data/is2re", "is2res_train_val_test_lmdbs/data/is2re", ".")


@dataclass(frozen=True)
class Part:
    """Files of one split.

    Attributes:
        split: its name.
        files: LMDBs, or trajectories.
    """

    split: str
    files: tuple[Path, ...]


def find_parts(raw: Sequence[Path], size: str, unpacked: Path) -> list[Part]:
    """Returns the files of every split that is there, in the order of `SPLITS`.

    Args:
        raw: the tree, an LMDB, the archive, trajectories, or folders of them.
        size: which train split: "10k", "100k" or "all".
        unpacked: where members of an archive go.

    Raises:
        DataError: there are none, or neither a train nor a validation split is among them.
    """
    files: dict[str, list[Path]] = {}
    for path in raw:
        for split, found in _files(path, size, unpacked):
            files.setdefault(split, []).append(found)
    if not any(split in files for split in ("train", *VALIDATION)):
        raise DataError(
            f"Expected is2re/{size}/train/data.lmdb and is2re/all/val_id/data.lmdb of OC20, found "
            f"{', '.join(files) or 'neither'} in {', '.join(map(str, raw))}.",
            f"Name their folder, {ARCHIVE.name}, one data.lmdb or trajectories with --raw.",
        )
    if len({path.suffix == ".lmdb" for paths in files.values() for path in paths}) > 1:
        raise DataError(
            "Expected LMDBs, with adsorption energies, or trajectories, with total energies, found both in "
            f"{', '.join(map(str, raw))}.",
            "Name one kind with --raw, and prepare the other for itself.",
        )
    missing = [split for split in SPLITS if split not in files]
    if missing:
        logger.info("not there, left out: %s", ", ".join(missing))
    return [Part(split, tuple(files[split])) for split in SPLITS if split in files]


def check_room(folder: Path, size: str) -> None:
    """Makes sure before the download that the disk has room for the archive and what is unpacked from it.

    Raises:
        DataError: it has not.
    """
    needed = (ARCHIVE.size or 0) + UNPACKED[size]
    logger.info("OC20 needs %s in %s: the archive and the members of size %s", size_text(needed), folder, size)
    check_space(folder, needed, "OC20, archive and unpacked")


def describe(parts: Sequence[Part], out: Path) -> list[dict[str, Any]]:
    """Returns split, size and sha256 of every LMDB, and of all trajectories of a split together.

    They are kept in the unfinished dataset by path, size and time of change: the full release takes minutes to read,
    which a continued run and the jobs of an array need not do again.

    Args:
        parts: the files.
        out: folder of the dataset (see `check_folder`), where checksums are kept until it is complete.
    """
    folder = out / BUILDING
    if (out / MANIFEST).exists():
        return [item for part in parts for item in _describe(part)]
    check_writable(folder)
    # The jobs of an array wait for the first.
    with locked(folder / f"{_CHECKSUMS}.lock"):
        path = folder / _CHECKSUMS
        known = json.loads(path.read_text()) if path.exists() else {}
        described: list[dict[str, Any]] = []
        for part in parts:
            key = _fingerprint(part)
            if key not in known:
                known[key] = _describe(part)
                write_atomic(path, json.dumps(known))
            described += known[key]
    return described


def warn_about_copies(sources: Sequence[Mapping[str, Any]]) -> None:
    """Says which files hold the same bytes: systems in two splits spoil every score."""
    first: dict[str, str] = {}
    for source in sources:
        if source["sha256"] in first:
            logger.warning("%s and %s hold the same systems", first[source["sha256"]], source["file"])
        first.setdefault(source["sha256"], source["file"])


def _fingerprint(part: Part) -> str:
    digest = hashlib.sha256(part.split.encode())
    for path in part.files:
        status = path.stat()
        digest.update(f"\0{path.absolute()}\0{status.st_size}\0{status.st_mtime_ns}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _describe(part: Part) -> list[dict[str, Any]]:
    total = sum(path.stat().st_size for path in part.files)
    logger.info("checksum of %s: %s", part.split, size_text(total))
    if all(path.suffix == ".lmdb" for path in part.files):
        return [describe_file(path) | {"file": f"{part.split}/{path.name}"} for path in part.files]
    digest = hashlib.sha256()
    for path in part.files:
        digest.update(f"{path.name}\0{file_sha256(path)}\n".encode())
    return [{"file": f"{part.split}/", "bytes": total, "sha256": digest.hexdigest()}]


def _files(path: Path, size: str, unpacked: Path) -> Iterator[tuple[str, Path]]:
    if path.is_dir():
        archive = path / ARCHIVE.name
        if archive.is_file() and not _complete(path, archive, size):
            yield from _tree(_extract(archive, size, unpacked), size)
        else:
            yield from _tree(path, size)
    elif not path.is_file():
        found = "no regular file" if path.exists() else "nothing"
        raise DataError(f"Expected OC20 at {path}, found {found}.", "Check the path.")
    elif ".tar" in path.name or path.suffix == ".tgz":
        yield from _tree(_extract(path, size, unpacked), size)
    elif path.name.endswith((".lmdb", *TRAJECTORY_SUFFIXES)):
        yield _split_of(path, path.parent.parent), path
    else:
        raise DataError(f"Expected an LMDB, a tar archive or a trajectory of OC20, found {path}.")


def _tree(root: Path, size: str) -> Iterator[tuple[str, Path]]:
    tree = next((root / name for name in _TREES if _has_splits(root / name)), None)
    if tree is not None:
        other = [name for name in SIZES if (tree / name / "train").is_dir()]
        if other and size not in other:
            raise DataError(
                f"Expected the train split {size}/train in {tree}, found that of {', '.join(other)}.",
                f"Choose --size {other[0]}, or put the folder there.",
            )
        for split in SPLITS:
            sized = tree / (size if split == "train" else "all") / split
            for path in sorted((sized if sized.is_dir() else tree / split).glob("*.lmdb")):
                yield split, path
        return
    for path in sorted(root.rglob("*")):
        if path.name.endswith((".lmdb", *TRAJECTORY_SUFFIXES)) and path.is_file():
            yield _split_of(path, root), path


def _has_splits(tree: Path) -> bool:
    """Whether a folder is laid out as the release is, or has the splits without a folder for the size."""
    return any(any((tree / size / split).is_dir() for size in (*SIZES, ".")) for split in SPLITS) and any(
        True for _ in tree.rglob("*.lmdb")
    )


def _split_of(path: Path, root: Path) -> str:
    """Returns the name of the nearest folder that is called like a split, "train" if none is."""
    folders = [folder.name for folder in path.parents if folder.is_relative_to(root) or folder == path.parent]
    return next((name for name in folders if name in SPLITS), "train")


def _complete(folder: Path, archive: Path, size: str) -> bool:
    """Whether a folder with the archive holds its members too."""
    if (folder / _STATE).exists():
        return size in _state(folder, archive)["done"]
    return any(next((folder / name / size / "train").glob("*.lmdb"), None) is not None for name in _TREES)


def _state(folder: Path, archive: Path) -> dict[str, Any]:
    """Returns what has been unpacked from an archive: `done` sizes, and `files` with their bytes."""
    status, path = archive.stat(), folder / _STATE
    identity = {"file": archive.name, "bytes": status.st_size, "modified": status.st_mtime_ns}
    state: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return state if state.get("archive") == identity else {"archive": identity, "done": [], "files": {}}


def _extract(archive: Path, size: str, folder: Path) -> Path:
    """Writes the members that are needed into a folder, in the tree of the release; what is there already stays.

    LMDBs are read at random, so that they cannot stay in the archive.
    """
    if size not in _state(folder, archive)["done"]:
        check_writable(folder)
        # The jobs of an array wait for the first.
        with locked(folder / _LOCK):
            state = _state(folder, archive)
            if size not in state["done"]:
                _unpack(archive, size, folder, state)
    return folder


def _unpack(archive: Path, size: str, folder: Path, state: dict[str, Any]) -> None:
    for left in folder.glob("is2re/*/*/data.lmdb.*.tmp"):
        left.unlink()
    needed = int(UNPACKED[size] * min(1.0, archive.stat().st_size / (ARCHIVE.size or 1)))
    check_space(folder, max(0, needed - sum(state["files"].values())), f"the unpacked members of {archive.name}")
    logger.info("unpacking %s of %s to %s", size_text(needed), archive, folder)
    seen = set()
    for name, handle, length in tar_members(archive, lambda name: _wanted(name, size)):
        target = name[name.rindex("is2re/") :]
        if target in seen:
            raise DataError(f"Expected {target} once in {archive}, found it twice.", "Use the official file.")
        seen.add(target)
        path = folder / target
        if state["files"].get(target) == length and path.exists() and path.stat().st_size == length:
            continue
        save_member(handle, length, path)
        state["files"][target] = length
        write_atomic(folder / _STATE, json.dumps(state))
    state["done"].append(size)
    write_atomic(folder / _STATE, json.dumps(state))


def _wanted(name: str, size: str) -> bool:
    match = _MEMBER.fullmatch(name)
    return match is not None and match[2] in SPLITS and match[1] == (size if match[2] == "train" else "all")
