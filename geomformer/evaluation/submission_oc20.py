"""The file that the OC20 leaderboard takes for its test splits, whose energies and relaxed structures it keeps.

One compressed npz for all four test splits, keys with `id`, `ood_ads`, `ood_cat` or `ood_both` in front, as the
benchmark's own code writes it. IS2RE: `ids` (S,) text, `energy` (S,) eV. IS2RS: `ids`; `pos` (A, 3) Angstrom, all
atoms of all systems, frozen ones too, in the order of `ids`; `chunk_idx` (S - 1,), where a system ends in `pos` and
the next begins, as `numpy.split` takes it. Systems stand in the order of their ids as text.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from geomformer.errors import ArtifactError, ConfigError, DataError
from geomformer.evaluation.checks import check_inputs, check_records
from geomformer.files import check_writable, write_atomic
from geomformer.inference.averaging import predict_records
from geomformer.inference.predictor import Predictor
from geomformer.prepared.dataset import PreparedDataset
from geomformer.prepared.split import PreparedSplit
from geomformer.tasks import POSITIONS

logger = logging.getLogger(__name__)

DATASET = "oc20"
ENERGY = "energy"
TEST_SPLITS = {"test_id": "id", "test_ood_ads": "ood_ads", "test_ood_cat": "ood_cat", "test_ood_both": "ood_both"}
"""Splits of the prepared dataset, and what stands in front of their keys."""

OFFICIAL_ROWS = {"test_id": 24_948, "test_ood_ads": 24_930, "test_ood_cat": 24_965, "test_ood_both": 24_985}
SUFFIX = ".npz"

Progress = Callable[[int, int | None], None]


@dataclass
class _Found:
    """Predictions of one split, by row; those that are no numbers are counted in `replaced`."""

    ids: list[str] = field(default_factory=list)
    energies: list[float] = field(default_factory=list)
    positions: list[np.ndarray] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)


def write_submission(
    predictor: Predictor, dataset: PreparedDataset, out: Path, *, progress: Progress | None = None
) -> dict[str, Path]:
    """Predicts the four test splits and writes the file of the leaderboard.

    A model of energies gets `is2re_submission.npz`, one of structures alone `is2rs_submission.npz`. Where the model
    gives no number, the mean train energy or the initial structure stands, and a warning names the systems.

    Args:
        predictor: the model, ready to run.
        dataset: OC20 as prepared.
        out: folder of the file, or the file (`.npz`).
        progress: called with the systems done and their number.

    Returns:
        The file by its task, "is2re" or "is2rs".

    Raises:
        ConfigError: another dataset.
        ArtifactError: the model predicts neither energy nor structure, reads something else, or gives no numbers.
        DataError: a test split is missing, or the file cannot be written.
    """
    _check_splits(dataset)
    task = _task(predictor)
    check_inputs(predictor.manifest, dataset)
    file = out if out.suffix == SUFFIX and not out.is_dir() else out / f"{task}_submission{SUFFIX}"
    check_writable(file.parent)
    parts = {name: dataset.split(name) for name in TEST_SPLITS}
    total, done = sum(map(len, parts.values())), 0
    arrays: dict[str, np.ndarray] = {}
    for name, split in parts.items():

        def advance(rows: int, before: int = done) -> None:
            if progress is not None:
                progress(before + rows, total)

        check_records(predictor.manifest, dataset, split)
        found = _predict(predictor, split, energies=task == "is2re", advance=advance)
        done += len(split)
        _warn(predictor, name, found)
        arrays |= {f"{TEST_SPLITS[name]}_{key}": values for key, values in _arrays(found).items()}
    _write(file, arrays)
    return {task: file}


def _predict(predictor: Predictor, split: PreparedSplit, *, energies: bool, advance: Callable[[int], None]) -> _Found:
    found = _Found()
    records = ((row, split[row]) for row in range(len(split)))
    for prediction in predict_records(predictor.model, predictor.task, records, predictor.settings):
        record = split[prediction.index]
        found.ids.append(record.id)
        if energies:
            energy = prediction.mean(ENERGY)
            whole = bool(np.isfinite(energy))
            found.energies.append(energy if whole else predictor.manifest.target(ENERGY).mean)
        else:
            positions = prediction.vectors[POSITIONS][0]
            whole = bool(np.isfinite(positions).all())
            found.positions.append((positions if whole else record.positions[0]).astype(np.float32))
        if not whole:
            found.replaced.append(record.id)
        advance(prediction.index + 1)
    return found


def _arrays(found: _Found) -> dict[str, np.ndarray]:
    """The arrays of one split, without the split's name in front."""
    ids = np.array(found.ids)
    order = np.argsort(ids)
    if not found.positions:
        return {"ids": ids[order], ENERGY: np.array(found.energies, np.float32)[order]}
    positions = [found.positions[row] for row in order]
    # The end of the last system is no place to cut.
    ends = np.cumsum([len(atoms) for atoms in positions])[:-1]
    return {"ids": ids[order], "pos": np.concatenate(positions), "chunk_idx": ends}


def _check_splits(dataset: PreparedDataset) -> None:
    kind = dataset.manifest.get("dataset")
    if kind != DATASET:
        raise ConfigError(
            f"This model's submission is for {DATASET}, found the dataset {kind} in {dataset.path}.",
            "Name a folder of that dataset with --data.",
        )
    missing = [name for name in TEST_SPLITS if not dataset.splits.get(name)]
    if missing:
        raise DataError(
            f"A submission holds all four test splits of {DATASET}; {dataset.path} has no {', '.join(missing)}.",
            "Prepare the dataset from the official files of the full release.",
        )


def _task(predictor: Predictor) -> str:
    if ENERGY in predictor.task.targets:
        return "is2re"
    if POSITIONS in predictor.task.vectors:
        return "is2rs"
    raise ArtifactError(
        f"{predictor.manifest.reference} predicts neither the energy nor the relaxed structure of {DATASET}.",
        "Name a model of the task is2re or is2rs with --model.",
    )


def _warn(predictor: Predictor, split: str, found: _Found) -> None:
    if len(found.replaced) == len(found.ids):
        raise ArtifactError(
            f"{predictor.manifest.reference} predicts no number for any system of {split}.", "Train it again."
        )
    if found.replaced:
        instead = "the initial structure" if found.positions else "the mean train energy"
        message = "%d systems of %s have no finite prediction and get %s: %s"
        logger.warning(message, len(found.replaced), split, instead, ", ".join(found.replaced))
    if len(found.ids) != OFFICIAL_ROWS[split]:
        message = "%s: expected %d systems for a submission, found %d; the leaderboard refuses incomplete files"
        logger.warning(message, split, OFFICIAL_ROWS[split], len(found.ids))


def _write(file: Path, arrays: dict[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # numpy's stubs take `allow_pickle` for one of them
    try:
        write_atomic(file, buffer.getvalue())
    except OSError as error:
        raise DataError(f"Cannot write {file}: {error.strerror or error}.", "Choose another folder.") from error
