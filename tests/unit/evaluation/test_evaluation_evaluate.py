from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checks.molecules import (
    CHEMISTRY,
    random_record,
    save_model,
    toy_config,
    toy_splits,
    two_target_splits,
    write_dataset,
)

from geomformer import api
from geomformer.artifacts.manifest import Inputs
from geomformer.errors import ArtifactError, DataError
from geomformer.evaluation.evaluate import average, evaluate_dataset
from geomformer.inference.averaging import predict_records
from geomformer.prepared.dataset import PreparedDataset
from geomformer.records import Record

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    save_model(root)
    save_model(root, "reference", config=toy_config(task={"input_geometry": "reference"}))
    inputs = Inputs(hydrogens=False, geometry="conformer", features=True, orbitals="huckel", periodic=False)
    save_model(root, "orbitals", config=toy_config(model={"orbitals": "huckel"}), inputs=inputs)
    save_model(root, "both", config=toy_config(task={"targets": ["gap", "gap_dft"]}))
    save_model(root, "mean", config=toy_config(model={"members": 2}))
    return root


def three_splits() -> dict[str, list[Record]]:
    """Two of the validation rows have no label."""
    splits = toy_splits(4, 9)
    valid = [replace(r, targets={"gap": math.nan}) if i in (1, 4) else r for i, r in enumerate(splits["valid"])]
    return {"train": splits["train"], "valid": valid, "test": [random_record(i) for i in range(50, 55)]}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return write_dataset(tmp_path_factory.mktemp("data") / "toy", three_splits())


def evaluate(models: Path, dataset: PreparedDataset, model: str = "toy", **options: Any) -> dict[str, Any]:
    return api.evaluate(dataset.path, model=model, models=models, device="cpu", **options)


def by_hand(models: Path, dataset: PreparedDataset, split: str) -> dict[str, float]:
    predictor = api.load_model("toy", models=models, geometry="input", device="cpu")
    records = list(dataset.split(split))
    found = list(predict_records(predictor.model, predictor.task, enumerate(records), predictor.settings))
    labels = np.array([record.targets["gap"] for record in records])
    known = ~np.isnan(labels)
    errors = np.array([p.values["gap"].mean() for p in found])[known] - labels[known]
    single = np.array([p.values["gap"][0] for p in found])[known] - labels[known]
    return {
        "gap_mae_ev": np.abs(errors).mean(),
        "gap_rmse_ev": np.sqrt((errors**2).mean()),
        "gap_mse_ev": (errors**2).mean(),
        "gap_mae_single_conformer_ev": np.abs(single).mean(),
    }


def test_metrics_are_those_of_numpy_and_the_average_is_the_plain_mean(models: Path, dataset: PreparedDataset) -> None:
    found = evaluate(models, dataset)
    assert list(found["splits"]) == ["valid", "test"], "train is left out unless asked for"
    for split in found["splits"]:
        expected = by_hand(models, dataset, split)
        got = {name.replace("_mse_ev2", "_mse_ev"): value for name, value in found["splits"][split].items()}
        assert got == pytest.approx(expected, rel=1e-6)
    for name, value in found["average"].items():
        assert value == pytest.approx((found["splits"]["valid"][name] + found["splits"]["test"][name]) / 2, rel=1e-12)
    assert (found["model"], found["dataset"], found["rows"]) == ("toy@1", "toy", {"valid": 9, "test": 5})
    assert found["splits"]["valid"]["gap_mae_ev"] != found["splits"]["test"]["gap_mae_ev"]
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("model", ["toy", "mean"])
def test_the_spread_is_that_of_predict(model: str, models: Path, dataset: PreparedDataset, tmp_path: Path) -> None:
    """Expected errors are fitted to the one and applied to the other."""
    evaluate(models, dataset, model, splits=["test"], out=tmp_path)
    predictor = api.load_model(model, models=models, geometry="input", device="cpu")
    found = predict_records(predictor.model, predictor.task, enumerate(dataset.split("test")), predictor.settings)
    with (tmp_path / "test_gap.csv").open(newline="") as file:
        spreads = [float(row["spread_gap_ev"]) for row in csv.DictReader(file)]
    assert spreads == pytest.approx([prediction.spread("gap") for prediction in found], rel=1e-4)
    assert min(spreads) > 0


def test_splits_limits_and_progress(models: Path, dataset: PreparedDataset) -> None:
    seen: list[tuple[int, int | None]] = []
    found = evaluate(models, dataset, splits=["train", "valid"], limit=3, progress=lambda *done: seen.append(done))
    assert found["rows"] == {"train": 3, "valid": 3}
    assert seen == [(done, 6) for done in range(1, 7)]
    whole = evaluate(models, dataset, splits=["train"])
    assert whole["splits"]["train"]["gap_mae_ev"] == pytest.approx(by_hand(models, dataset, "train")["gap_mae_ev"])
    assert found["splits"]["train"]["gap_mae_ev"] != whole["splits"]["train"]["gap_mae_ev"]
    with pytest.raises(DataError, match="Did you mean 'test'"):
        evaluate(models, dataset, splits=["tset"])


def test_files_are_written_with_every_labelled_row(models: Path, dataset: PreparedDataset, tmp_path: Path) -> None:
    found = evaluate(models, dataset, out=tmp_path / "report")
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names == {"metrics.json"} | {
        f"{split}_gap{end}" for split in ("valid", "test") for end in (".csv", "_parity.png", "_error.png")
    }
    assert json.loads((tmp_path / "report" / "metrics.json").read_text()) == found
    for name in names:
        if name.endswith(".png"):
            assert (tmp_path / "report" / name).read_bytes().startswith(PNG)
    with (tmp_path / "report" / "valid_gap.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "gap_ev", "pred_gap_ev", "spread_gap_ev"]
    labelled = [record for record in three_splits()["valid"] if not math.isnan(record.targets["gap"])]
    assert [row["id"] for row in rows] == [record.id for record in labelled]
    errors = [abs(float(row["gap_ev"]) - float(row["pred_gap_ev"])) for row in rows]
    assert np.mean(errors) == pytest.approx(found["splits"]["valid"]["gap_mae_ev"], rel=1e-9)


def test_fewer_conformers_on_request(models: Path, dataset: PreparedDataset) -> None:
    found = evaluate(models, dataset, conformers=1)["splits"]["test"]
    assert found["gap_mae_ev"] == pytest.approx(found["gap_mae_single_conformer_ev"])
    assert found["gap_mae_ev"] != evaluate(models, dataset)["splits"]["test"]["gap_mae_ev"]


def test_every_target_with_labels_is_evaluated(models: Path, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "two", two_target_splits(), units={"gap": "ev", "gap_dft": "ev"})
    found = evaluate(models, data, "both")["splits"]["valid"]
    assert {"gap_mae_ev", "gap_dft_mae_ev"} <= set(found) and all(math.isfinite(value) for value in found.values())
    only = write_dataset(tmp_path / "one", toy_splits(3, 3))
    assert "gap_dft_mae_ev" not in evaluate(models, only, "both")["splits"]["valid"]


def test_the_average_has_what_all_splits_have() -> None:
    assert average([{"a": 1.0, "b": 2.0}, {"a": 3.0}]) == {"a": 2.0}


def unlabelled(records: list[Record]) -> list[Record]:
    return [replace(record, targets={"gap": math.nan}) for record in records]


def test_unlabelled_splits_are_skipped_unless_asked_for(models: Path, tmp_path: Path) -> None:
    splits = toy_splits(4, 6)
    splits["blind"] = unlabelled([random_record(i) for i in range(70, 73)])
    data = write_dataset(tmp_path / "data", splits)
    assert list(evaluate(models, data)["splits"]) == ["valid"]
    with pytest.raises(DataError, match="'blind' have no label of gap") as refused:
        evaluate(models, data, splits=["blind"])
    assert refused.value.exit_code == 3


def test_a_dataset_without_labels_of_the_model_is_a_data_error(models: Path, tmp_path: Path) -> None:
    other = {name: [replace(r, targets={"mu": 1.0}) for r in rows] for name, rows in toy_splits(3, 3).items()}
    with pytest.raises(DataError, match="no label of gap; the dataset's targets are mu"):
        evaluate(models, write_dataset(tmp_path / "mu", other, units={"mu": "debye"}))


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ("toy", {"options": {"chemistry": {**CHEMISTRY, "hydrogens": True}}}, r"heavy atoms only.*--no-hydrogens"),
        ("toy", {"level_of_theory": "PM6"}, r"predicts gap at B3LYP/6-31G\*, the labels of .* are PM6"),
        ("reference", {"drop": "target_positions"}, "generated conformers only"),
        ("toy", {"drop": "atom_features"}, "reads the 2D graph"),
        ("orbitals", {"drop": "orbital_energies"}, "reads frontier orbitals of extended Hückel theory, .* has none"),
        (
            "orbitals",
            {"options": {"chemistry": {**CHEMISTRY, "orbitals": "xtb"}}},
            "has those of GFN1-xTB.*--orbitals huckel",
        ),
    ],
)
def test_what_the_model_cannot_be_judged_on_is_refused(
    model: str, changes: dict[str, Any], message: str, models: Path, tmp_path: Path
) -> None:
    dropped = changes.pop("drop", None)
    splits = toy_splits(3, 3)
    if dropped:
        splits = {name: [replace(record, **{dropped: None}) for record in rows] for name, rows in splits.items()}
    data = write_dataset(tmp_path / "data", splits, **changes)
    with pytest.raises(ArtifactError, match=message) as refused:
        evaluate(models, data, model)
    assert refused.value.exit_code == 4


def test_a_reference_model_reads_reference_geometries(models: Path, tmp_path: Path) -> None:
    splits = {name: [random_record(i) for i in rows] for name, rows in (("train", range(3)), ("valid", range(3, 9)))}
    data = write_dataset(tmp_path / "data", splits)
    predictor = api.load_model("reference", models=models, geometry="input", device="cpu")
    found = evaluate_dataset(predictor, data, splits=["valid"])["splits"]["valid"]
    turned = {name: [replace(r, positions=r.positions[::-1]) for r in rows] for name, rows in splits.items()}
    again = evaluate_dataset(predictor, write_dataset(tmp_path / "again", turned), splits=["valid"])
    assert found == again["splits"]["valid"], "conformers play no part"
