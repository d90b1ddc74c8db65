"""Submission files for the test splits of PCQM4Mv2, whose labels the organisers of OGB-LSC keep.

Source: Hu et al., OGB-LSC, arXiv:2103.09430: `y_pred`, one float32 per row, in the order of the split.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from geomformer.datasets.pcqm4mv2.sources import OFFICIAL_ROWS, lost_from
from geomformer.errors import ArtifactError, ConfigError, DataError
from geomformer.evaluation.checks import check_inputs, check_records
from geomformer.files import check_writable, write_atomic
from geomformer.inference.averaging import predict_records
from geomformer.inference.predictor import Predictor
from geomformer.prepared.dataset import PreparedDataset
from geomformer.prepared.split import PreparedSplit
from geomformer.prepared.storage import REJECTED

logger = logging.getLogger(__name__)

DATASET = "pcqm4mv2"
TARGET = "gap"
TEST_SPLITS = ("test-dev", "test-challenge")
SUFFIX = ".npz"

Progress = Callable[[int, int | None], None]


def write_submissions(
    predictor: Predictor,
    dataset: PreparedDataset,
    out: Path,
    *,
    splits: Sequence[str] = (),
    progress: Progress | None = None,
) -> dict[str, Path]:
    """Predicts the test splits and writes a file for each, `y_pred_pcqm4m-v2_SPLIT.npz`.

    A file has one entry for every row of its split. Rows that could not be prepared, or for which the model gives no
    number, get the mean of the train labels and are named in a warning.

    Args:
        predictor: the model, ready to run.
        dataset: PCQM4Mv2 as prepared.
        out: folder of the files, or, for a single split, the file (`.npz`).
        splits: some of `TEST_SPLITS`; all that the dataset has by default.
        progress: called with the rows done and their number.

    Returns:
        The file of every split.

    Raises:
        ConfigError: another dataset or split, or one file for several splits.
        ArtifactError: the model does not predict the gap, reads something else, or predicts no numbers.
        DataError: there are no such splits, or the files cannot be written.
    """
    names = _names(dataset, splits)
    is_file = out.suffix == SUFFIX and not out.is_dir()
    if is_file and len(names) > 1:
        raise ConfigError(
            f"Expected a folder for the splits {' and '.join(names)}, found the file {out}.", "Name a folder."
        )
    if TARGET not in predictor.task.targets:
        raise ArtifactError(f"{predictor.manifest.reference} does not predict the target '{TARGET}' of {DATASET}.")
    check_inputs(predictor.manifest, dataset)
    check_writable(out.parent if is_file else out)
    parts = {name: dataset.split(name) for name in names}
    lost = lost_rows(dataset)
    total, done = sum(map(len, parts.values())), 0
    files = {}
    for name, split in parts.items():

        def advance(rows: int, before: int = done) -> None:
            if progress is not None:
                progress(before + rows, total)

        check_records(predictor.manifest, dataset, split)
        values = _predict(predictor, split, advance)
        done += len(split)
        values = _complete(dataset, split, values, lost.get(name, []))
        _compare_size(name, len(values))
        files[name] = out if is_file else out / f"y_pred_pcqm4m-v2_{name}{SUFFIX}"
        _write(files[name], values)
    return files


def _predict(predictor: Predictor, split: PreparedSplit, advance: Callable[[int], None]) -> np.ndarray:
    """Predictions of all rows, means over their conformers. (R,)"""
    values = np.empty(len(split))
    records = ((row, split[row]) for row in range(len(split)))
    for prediction in predict_records(predictor.model, predictor.task, records, predictor.settings):
        values[prediction.index] = prediction.mean(TARGET)
        advance(prediction.index + 1)
    return values


def _write(file: Path, values: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, y_pred=values.astype(np.float32))
    try:
        write_atomic(file, buffer.getvalue())
    except OSError as error:
        raise DataError(f"Cannot write {file}: {error.strerror or error}.", "Choose another folder.") from error


def lost_rows(dataset: PreparedDataset) -> dict[str, list[int]]:
    """Returns idx of the rows of every test split that are in `rejected.parquet`."""
    found: dict[str, list[int]] = {}
    for row in pq.read_table(dataset.path / REJECTED).to_pylist():
        split = lost_from(row["reason"])
        if split is not None:
            found.setdefault(split, []).append(int(row["id"]))
    return found


def _names(dataset: PreparedDataset, splits: Sequence[str]) -> list[str]:
    kind = dataset.manifest.get("dataset")
    if kind != DATASET:
        raise ConfigError(
            f"Submission files are for {DATASET}, found the dataset {kind} in {dataset.path}.",
            "Name a folder of that dataset with --data.",
        )
    wrong = [name for name in splits if name not in TEST_SPLITS]
    if wrong:
        raise ConfigError(
            f"Submission files are for {' and '.join(TEST_SPLITS)}, found split '{wrong[0]}'.",
            "Without --submission it is evaluated.",
        )
    names = list(dict.fromkeys(splits)) or [name for name in TEST_SPLITS if name in dataset.splits]
    if not names:
        raise DataError(
            f"Expected {' or '.join(TEST_SPLITS)} in {dataset.path}, found {', '.join(dataset.splits)}.",
            "Prepare it from the official files.",
        )
    return names


def _complete(dataset: PreparedDataset, split: PreparedSplit, values: np.ndarray, lost: Sequence[int]) -> np.ndarray:
    """Puts the mean of the train labels in the places of rows without a number; in the order of idx. (R,)

    Raises:
        ArtifactError: the model gives no number for any row.
    """
    rows = np.array(split.ids, np.int64)
    wrong = rows[~np.isfinite(values.astype(np.float32))].tolist()
    if len(wrong) == len(rows):
        raise ArtifactError(f"The model predicts no number for any row of {split.name}.", "Train it again.")
    if not lost and not wrong:
        return values
    mean = _train_mean(dataset.manifest)
    for what, missing in (("could not be prepared", lost), ("have no finite prediction", wrong)):
        if missing:
            message = "%d rows of %s %s and get the mean train gap, %.3f eV: %s"
            logger.warning(message, len(missing), split.name, what, mean, ", ".join(map(str, missing)))
    values = np.where(np.isin(rows, wrong), mean, values)
    return np.concatenate([values, np.full(len(lost), mean)])[np.argsort(np.concatenate([rows, np.array(lost, int)]))]


def _train_mean(manifest: Mapping[str, dict[str, dict[str, float | None]]]) -> float:
    mean = manifest["targets"][TARGET].get("mean")
    if mean is None:
        raise DataError(
            "Rows of the test split are missing, and there are no train labels to take a mean of.",
            "Prepare the dataset with its train split.",
        )
    return mean


def _compare_size(name: str, found: int) -> None:
    if found != OFFICIAL_ROWS[name]:
        logger.warning("%s: expected %d predictions for a submission, found %d", name, OFFICIAL_ROWS[name], found)
