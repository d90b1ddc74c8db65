"""Which frames of a trajectory train, validate and test a model."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geomformer.datasets.raw.npz import read_array
from geomformer.errors import ConfigError, DataError

SPLITS = ("train", "valid", "test")
NUM_TRAIN, NUM_VALID = 950, 50
DEFAULT_SEED = 1
NUM_PUBLISHED = 5


@dataclass(frozen=True)
class TrajectorySplit:
    """Frames by split.

    Attributes:
        name: how it came about.
        numbers: number of its split in `SPLITS` for every frame, -1 for frames in none. (T,) int8
        seed: of the draw.
        seeded: all of it is drawn, nothing published.
        files: what it was read from.
    """

    name: str
    numbers: np.ndarray
    seed: int
    seeded: bool = False
    files: tuple[Path, ...] = ()

    def num_rows(self, limit: int | None) -> int:
        """Returns how many frames are used, with at most `limit` per split."""
        counts = np.bincount(self.numbers[self.numbers >= 0], minlength=len(SPLITS))
        return int(counts.sum() if limit is None else np.minimum(counts, limit).sum())


def choose_split(path: Path, arrays: Collection[str], num_frames: int, seed: int | None) -> TrajectorySplit:
    """Returns the published split of a trajectory where there is one, else a seeded one.

    Published are five pairs of 1,000 train and 1,000 test frames, in `splits/index_train_01.csv` and so on beside the
    data, or in the file itself as `train_idx_01` and so on; `seed` is their number. A twentieth of the train frames
    validates (50 of 1,000). Otherwise 950 frames train, 50 validate and all others test, as in TorchMD-Net.

    Args:
        path: npz file.
        arrays: what is in it.
        num_frames: T.
        seed: 1 for None.

    Raises:
        DataError: the published indices are not what they should be, or there are too few frames for a split.
        ConfigError: there is no published split of that number.
    """
    seed = DEFAULT_SEED if seed is None else seed
    tables = _split_folder(path)
    inside = {name for name in arrays if name.startswith("train_idx_")}
    if tables is None and not inside:
        return TrajectorySplit("seeded 950/50/rest", seeded_split(num_frames, seed, path), seed, seeded=True)
    if not 1 <= seed <= NUM_PUBLISHED:
        raise ConfigError(
            f"Expected the number of a published split of {path}, 1 to {NUM_PUBLISHED}, found {seed}.", "See --seed."
        )
    files: tuple[Path, ...] = ()
    if tables is not None:
        files = tuple(tables / f"index_{part}_{seed:02d}.csv" for part in ("train", "test"))
        _check_there(files, tables)
        train, test = (_read_indices(file) for file in files)
    else:
        train, test = (read_array(path, f"{part}_idx_{seed:02d}") for part in ("train", "test"))
    numbers = published_split(num_frames, train, test, seed, files[0].parent if files else path)
    return TrajectorySplit(f"published {seed:02d}", numbers, seed, files=files)


def seeded_split(num_frames: int, seed: int, path: Path | str = "the trajectory") -> np.ndarray:
    """Returns the number of the split of every frame: 950 train, 50 valid, the rest test. (T,) int8

    The frames are divided in the order of `numpy.random.default_rng(seed).permutation(num_frames)`.

    Raises:
        DataError: no frame would be left to test.
    """
    if num_frames <= NUM_TRAIN + NUM_VALID:
        raise DataError(f"Expected more than {NUM_TRAIN + NUM_VALID} frames to split, found {num_frames} in {path}.")
    order = np.random.default_rng(seed).permutation(num_frames)
    numbers = np.full(num_frames, SPLITS.index("test"), np.int8)
    numbers[order[:NUM_TRAIN]] = SPLITS.index("train")
    numbers[order[NUM_TRAIN : NUM_TRAIN + NUM_VALID]] = SPLITS.index("valid")
    return numbers


def published_split(num_frames: int, train: np.ndarray, test: np.ndarray, seed: int, path: Path) -> np.ndarray:
    """Returns the number of the split of every frame, -1 for those in none. (T,) int8

    The train frames are divided in the order of `numpy.random.default_rng(seed).permutation(len(train))`: the last
    twentieth, at least one, validates.

    Raises:
        DataError: the indices are not distinct frames, or fewer than two train.
    """
    both = np.concatenate([train, test])
    distinct = both.dtype.kind in "iu" and len(np.unique(both)) == len(both)
    if not distinct or len(train) < 2 or not len(test) or both.min() < 0 or both.max() >= num_frames:
        raise DataError(
            f"Expected distinct frames from 0 to {num_frames - 1}, two or more to train and one or more to test, in "
            f"split {seed} of {path}, found others.",
            "Use the index files that belong to this npz file.",
        )
    order = train[np.random.default_rng(seed).permutation(len(train))]
    num_valid = max(1, len(train) // 20)
    numbers = np.full(num_frames, -1, np.int8)
    numbers[order[:-num_valid]] = SPLITS.index("train")
    numbers[order[-num_valid:]] = SPLITS.index("valid")
    numbers[test] = SPLITS.index("test")
    return numbers


def _split_folder(path: Path) -> Path | None:
    """Returns the folder of the published indices of an npz file, in the official layout or beside the file."""
    candidates = (path.parent, path.parent / "splits", path.parent.parent / "splits")
    return next((folder for folder in candidates if any(folder.glob("index_train_*.csv"))), None)


def _check_there(files: Collection[Path], folder: Path) -> None:
    missing = [file.name for file in files if not file.exists()]
    if missing:
        there = ", ".join(sorted(path.name for path in folder.glob("index_*.csv")))
        raise DataError(
            f"Expected {' and '.join(missing)} in {folder}, found {there}.", "Fetch them, or choose another --seed."
        )


def _read_indices(path: Path) -> np.ndarray:
    try:
        return np.array([int(line) for line in path.read_text(encoding="utf-8").split()], np.int64)
    except (OSError, ValueError, OverflowError) as error:
        raise DataError(f"Expected one row number per line in {path}: {error}.", "Use the official file.") from error
