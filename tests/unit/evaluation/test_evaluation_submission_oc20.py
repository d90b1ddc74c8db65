from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from typer.testing import CliRunner

import geomformer.api
import geomformer.artifacts.store
from geomformer.artifacts.manifest import Inputs, Target
from geomformer.errors import ArtifactError, ConfigError, DataError
from geomformer.evaluation import submission_oc20
from geomformer.evaluation.submission_oc20 import TEST_SPLITS, write_submission
from geomformer.inference.averaging import ConformerPredictions
from geomformer.inference.predictor import Predictor
from geomformer.prepared.dataset import PreparedDataset
from geomformer.prepared.storage import DatasetDescription, PreparedWriter, Row
from geomformer.records import Record
from geomformer_cli.app import app

SIDS = {"train": (1,), "test_id": (9, 10, 110), "test_ood_ads": (7,), "test_ood_cat": (30, 4), "test_ood_both": (5, 6)}
MEAN = -1.5


def system(sid: int) -> Record:
    """As many atoms as the last digit of its sid says, and one more; the first is frozen."""
    n = sid % 10 + 1
    return Record(
        id=str(sid),
        positions=np.random.default_rng(sid).uniform(0, 5, (1, n, 3)).astype(np.float32),
        conformer_source=np.zeros(1, np.uint8),
        atomic_numbers=np.full(n, 29, np.uint8),
        cell=(9 * np.eye(3)).astype(np.float32),
        pbc=np.ones(3, bool),
        tags=np.ones(n, np.int8),
        fixed=np.arange(n) < 1,
        targets={"energy": math.nan},
    )


def dataset(out: Path, name: str = "oc20", without: tuple[str, ...] = ()) -> PreparedDataset:
    chosen = [(split, sid) for split, sids in SIDS.items() for sid in sids if split not in without]
    rows = [Row(i, str(sid), split, system(sid)) for i, (split, sid) in enumerate(chosen)]
    rows[0] = replace(rows[0], record=replace(system(1), targets={"energy": MEAN}))
    writer = PreparedWriter(out, DatasetDescription(name, {"energy": "ev"}), shard_rows=100)
    writer.write_shard(0, rows)
    return PreparedDataset(writer.finish(len(rows)))


def predictor(task: str) -> Predictor:
    targets = ("energy",) if task == "is2re" else ()
    names = [*targets, "positions"]
    manifest = SimpleNamespace(
        reference=f"{task}-toy@1",
        task=task,
        targets=[Target(name=name, unit="ev", mean=MEAN) for name in names],
        inputs=Inputs(hydrogens=True, geometry="conformer", features=False, periodic=True),
        target=lambda name: Target(name=name, unit="ev", mean=MEAN),
    )
    parts = {"manifest": manifest, "task": SimpleNamespace(targets=targets, vectors=("positions",))}
    return cast("Predictor", SimpleNamespace(**parts, model=None, settings=None))


BROKEN: set[str] = set()


def moved(model: Any, task: Any, records: Any, settings: Any) -> Iterator[ConformerPredictions]:
    """Moves free atoms by one; the energy is the sid. Systems in `BROKEN` get no numbers."""
    for index, record in records:
        positions = record.positions + ~record.fixed[:, None]
        bad = math.nan if record.id in BROKEN else 0.0
        values = {target: np.array([float(record.id) + bad]) for target in task.targets}
        yield ConformerPredictions(index, values, {"positions": positions.astype(np.float64) + bad})


@pytest.fixture(autouse=True)
def predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    BROKEN.clear()
    monkeypatch.setattr(submission_oc20, "predict_records", moved)


def loaded(file: Path) -> dict[str, np.ndarray]:
    with np.load(file, allow_pickle=False) as saved:
        return {name: saved[name] for name in saved.files}


def test_energies(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[tuple[int, int | None]] = []
    files = write_submission(
        predictor("is2re"), dataset(tmp_path / "data"), tmp_path / "out", progress=lambda *done: seen.append(done)
    )
    assert files == {"is2re": tmp_path / "out" / "is2re_submission.npz"}
    assert list((tmp_path / "out").iterdir()) == [files["is2re"]], "no temporary file is left"
    found = loaded(files["is2re"])
    assert list(found) == [f"{key}_{end}" for key in TEST_SPLITS.values() for end in ("ids", "energy")]
    assert found["id_ids"].tolist() == ["10", "110", "9"], "text, in its order"
    assert found["ood_cat_energy"].dtype == np.float32
    for key in TEST_SPLITS.values():
        assert found[f"{key}_energy"].tolist() == [float(sid) for sid in found[f"{key}_ids"]]
    assert seen == [(done, 8) for done in range(1, 9)]
    assert "test_id: expected 24948 systems for a submission, found 3" in caplog.text


def test_structures_hold_all_atoms_and_can_be_cut(tmp_path: Path) -> None:
    data = dataset(tmp_path / "data")
    files = write_submission(predictor("is2rs"), data, tmp_path / "mine.npz")
    assert files == {"is2rs": tmp_path / "mine.npz"}
    found = loaded(files["is2rs"])
    assert list(found) == [f"{key}_{end}" for key in TEST_SPLITS.values() for end in ("ids", "pos", "chunk_idx")]
    assert found["id_chunk_idx"].tolist() == [1, 2], "10 and 110 have one atom, the last system is not cut off"
    for split, key in TEST_SPLITS.items():
        ids = found[f"{key}_ids"].tolist()
        assert ids == sorted(str(sid) for sid in SIDS[split])
        parts = np.split(found[f"{key}_pos"], found[f"{key}_chunk_idx"])
        for sid, positions in zip(ids, parts, strict=True):
            record = system(int(sid))
            expected = record.positions[0] + ~np.asarray(record.fixed)[:, None]
            np.testing.assert_allclose(positions, expected, rtol=1e-6)
            assert (positions[0] == record.positions[0, 0]).all(), "the frozen atom is where it was"


def test_what_cannot_be_submitted(tmp_path: Path) -> None:
    part = dataset(tmp_path / "part", without=("test_ood_cat", "test_id"))
    with pytest.raises(DataError, match=r"all four test splits of oc20; .*part has no test_id, test_ood_cat"):
        write_submission(predictor("is2re"), part, tmp_path / "out")
    with pytest.raises(ConfigError, match="found the dataset qm9"):
        write_submission(predictor("is2re"), dataset(tmp_path / "qm9", name="qm9"), tmp_path / "out")
    nothing = predictor("is2rs")
    nothing.task.vectors = ()
    with pytest.raises(ArtifactError, match="neither the energy nor the relaxed structure"):
        write_submission(nothing, dataset(tmp_path / "data"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_predictions_that_are_no_numbers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = dataset(tmp_path / "data")
    BROKEN.update({"10"})
    found = loaded(write_submission(predictor("is2re"), data, tmp_path)["is2re"])
    assert found["id_energy"].tolist() == [MEAN, 110.0, 9.0]
    assert "1 systems of test_id have no finite prediction and get the mean train energy: 10" in caplog.text
    found = loaded(write_submission(predictor("is2rs"), data, tmp_path)["is2rs"])
    assert (found["id_pos"][0] == system(10).positions[0, 0]).all()
    BROKEN.update({"7"})
    with pytest.raises(ArtifactError, match="no number for any system of test_ood_ads"):
        write_submission(predictor("is2rs"), data, tmp_path / "other")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset(tmp_path / "data")
    made = predictor("is2re")
    artifact = SimpleNamespace(reference="is2re-toy@1", manifest=made.manifest, config=None)
    monkeypatch.setattr(geomformer.artifacts.store, "load_artifact", lambda *_: artifact)
    monkeypatch.setattr(geomformer.api, "load_model", lambda *_, **__: made)
    arguments = ["evaluate", "--data", str(tmp_path / "data"), "--submission", str(tmp_path / "out"), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    file = tmp_path / "out" / "is2re_submission.npz"
    assert json.loads(result.stdout)["submission"] == {"is2re": str(file)}
    assert file.is_file()
    refused = CliRunner().invoke(app, [*arguments, "--split", "test_id"])
    assert isinstance(refused.exception, ConfigError) or refused.exit_code == 2
