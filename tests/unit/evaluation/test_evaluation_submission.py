from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checks.molecules import CHEMISTRY, random_record, save_model, toy_config
from typer.testing import CliRunner

from geomformer import api
from geomformer.datasets.pcqm4mv2.sources import lost_reason
from geomformer.errors import ArtifactError, ConfigError, DataError
from geomformer.evaluation import submission
from geomformer.evaluation.submission import write_submissions
from geomformer.inference.averaging import ConformerPredictions, predict_records
from geomformer.inference.predictor import Predictor
from geomformer.prepared.dataset import PreparedDataset
from geomformer.prepared.storage import DatasetDescription, PreparedWriter, Row
from geomformer.records import Record
from geomformer_cli.app import app

IDS = {"train": range(6), "test-dev": (10, 11, 13, 16), "test-challenge": (12, 15)}
LOST = {14: "test-dev", 17: "test-dev", 18: "test-challenge"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    save_model(root)
    save_model(root, "other", config=toy_config(task={"targets": ["gap_dft"]}))
    return root


@pytest.fixture(scope="module")
def predictor(models: Path) -> Predictor:
    return api.load_model("toy", models=models, geometry="input", device="cpu")


def record(index: int, split: str) -> Record:
    made = random_record(index)
    targets = made.targets if split == "train" else {"gap": math.nan}
    return replace(made, id=str(index), targets=targets)


def dataset(out: Path, lost: Mapping[int, str] = LOST, name: str = "pcqm4mv2") -> PreparedDataset:
    """Rows of the splits in turn, as idx says, with some that could not be prepared."""
    description = DatasetDescription(name, {"gap": "ev"}, options={"chemistry": CHEMISTRY})
    rows = {i: Row(i, str(i), split, record(i, split)) for split, indices in IDS.items() for i in indices}
    rows |= {i: Row(i, str(i), reason=lost_reason("failed: no reason", split)) for i, split in lost.items()}
    rows[9] = Row(9, "9", reason="unparsable: a train row")
    writer = PreparedWriter(out, description, shard_rows=100)
    writer.write_shard(0, [rows[i] for i in sorted(rows)])
    return PreparedDataset(writer.finish(len(rows)))


def predicted(predictor: Predictor, split: str) -> dict[int, float]:
    records = enumerate(record(i, split) for i in IDS[split])
    found = predict_records(predictor.model, predictor.task, records, predictor.settings)
    return {i: p.values["gap"].mean() for i, p in zip(IDS[split], found, strict=True)}


def test_every_row_of_the_split_has_a_prediction_in_order(
    predictor: Predictor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[tuple[int, int | None]] = []
    files = write_submissions(
        predictor, dataset(tmp_path / "data"), tmp_path / "out", progress=lambda *done: seen.append(done)
    )
    names = {split: f"y_pred_pcqm4m-v2_{split}.npz" for split in ("test-dev", "test-challenge")}
    assert {split: path.name for split, path in files.items()} == names
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(names.values()), "no temporary file is left"
    mean = np.mean([record(i, "train").targets["gap"] for i in IDS["train"]])
    for split, path in files.items():
        with np.load(path, allow_pickle=False) as saved:
            assert saved.files == ["y_pred"]
            values = saved["y_pred"]
        expected = predicted(predictor, split) | {i: mean for i, name in LOST.items() if name == split}
        assert values.dtype == np.float32 and values.ndim == 1
        assert values == pytest.approx([expected[i] for i in sorted(expected)], rel=1e-6)
    assert seen == [(done, 6) for done in range(1, 7)]
    assert f"2 rows of test-dev could not be prepared and get the mean train gap, {mean:.3f} eV: 14, 17" in caplog.text
    assert "test-challenge: expected 147432 predictions for a submission, found 3" in caplog.text


def test_one_split_may_have_a_file_name(predictor: Predictor, tmp_path: Path) -> None:
    data = dataset(tmp_path / "data", lost={})
    files = write_submissions(predictor, data, tmp_path / "new" / "mine.npz", splits=["test-dev"])
    assert files == {"test-dev": tmp_path / "new" / "mine.npz"}
    assert len(np.load(files["test-dev"])["y_pred"]) == 4
    with pytest.raises(ConfigError, match=r"folder for the splits test-dev and test-challenge, found the file .*npz"):
        write_submissions(predictor, data, tmp_path / "mine.npz")


def test_what_cannot_be_submitted(predictor: Predictor, models: Path, tmp_path: Path) -> None:
    data = dataset(tmp_path / "data")
    with pytest.raises(ConfigError, match="found split 'train'"):
        write_submissions(predictor, data, tmp_path, splits=["train"])
    with pytest.raises(ConfigError, match="found the dataset qm9"):
        write_submissions(predictor, dataset(tmp_path / "qm9", name="qm9"), tmp_path)
    other = api.load_model("other", models=models, geometry="input", device="cpu")
    with pytest.raises(ArtifactError, match="does not predict the target 'gap'"):
        write_submissions(other, data, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="Cannot write"):
        write_submissions(predictor, data, tmp_path / "file")


def test_a_folder_may_be_named_like_a_file(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "folder.npz").mkdir()
    data = dataset(tmp_path / "data")
    files = write_submissions(predictor, data, tmp_path / "folder.npz")
    assert {path.parent for path in files.values()} == {tmp_path / "folder.npz"}
    files["test-dev"].unlink()
    files["test-dev"].mkdir()
    with pytest.raises(DataError, match=r"Cannot write .*y_pred_pcqm4m-v2_test-dev"):
        write_submissions(predictor, data, tmp_path / "folder.npz")


def test_predictions_that_are_no_numbers(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bad = {0}

    def predict(*arguments: Any) -> Iterator[ConformerPredictions]:
        for found in predict_records(*arguments):
            yield ConformerPredictions(found.index, {"gap": np.full(2, np.nan)}) if found.index in bad else found

    monkeypatch.setattr(submission, "predict_records", predict)
    data = dataset(tmp_path / "data")
    files = write_submissions(predictor, data, tmp_path / "out", splits=["test-dev"])
    mean = np.mean([record(i, "train").targets["gap"] for i in IDS["train"]])
    values = np.load(files["test-dev"])["y_pred"]
    expected = predicted(predictor, "test-dev") | {10: mean, 14: mean, 17: mean}
    assert values == pytest.approx([expected[i] for i in sorted(expected)], rel=1e-6)
    assert "1 rows of test-dev have no finite prediction and get the mean train gap" in caplog.text
    bad.update(range(4))
    with pytest.raises(ArtifactError, match="no number for any row of test-dev"):
        write_submissions(predictor, data, tmp_path / "other", splits=["test-dev"])
    assert not list((tmp_path / "other").iterdir())


def test_the_command(tmp_path: Path) -> None:
    dataset(tmp_path / "data")
    arguments = ["evaluate", "--data", str(tmp_path / "data"), "--submission", str(tmp_path / "out"), "--device", "cpu"]
    result = CliRunner().invoke(app, [*arguments, "--split", "test-dev", "--json"])
    assert result.exit_code == 0, result.stderr
    file = tmp_path / "out" / "y_pred_pcqm4m-v2_test-dev.npz"
    assert json.loads(result.stdout)["submission"] == {"test-dev": str(file)}
    assert np.load(file)["y_pred"].shape == (6,)
    for extra in (["--limit", "1"], ["--out", "other"], ["--split-scheme", "random"]):
        refused = CliRunner().invoke(app, [*arguments, *extra])
        assert isinstance(refused.exception, ConfigError) or refused.exit_code == 2
