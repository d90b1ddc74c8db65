from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from checks.molecules import random_record, write_dataset
from typer.testing import CliRunner

import geomformer.api
import geomformer.artifacts.store
from geomformer.artifacts.manifest import Inputs, Target
from geomformer.errors import ArtifactError, DataError
from geomformer.evaluation import evaluate as evaluation
from geomformer.evaluation.evaluate import evaluate_dataset
from geomformer.evaluation.structures import ADWT, ADWT_ALL_ATOMS, ADWT_MAE, DISTANCE, THRESHOLDS
from geomformer.evaluation.vectors import has_labels
from geomformer.inference.averaging import ConformerPredictions
from geomformer.inference.predictor import Predictor
from geomformer.prepared.dataset import PreparedDataset
from geomformer.records import Record
from geomformer_cli.app import app

MEAN = -1.5
OFFSETS = {"val_id": 0.1, "val_ood_ads": 0.2, "val_ood_cat": 0.3, "val_ood_both": 0.6}
"""How far the free atoms of the systems of a split relax along x, in Angstrom."""


def slab(i: int, offset: float = 0.1) -> Record:
    """Five atoms, two of them frozen; the others relax by `offset` along x."""
    rng = np.random.default_rng([5, i])
    initial = rng.uniform(0, 6, (5, 3)).astype(np.float32)
    fixed = np.array([True, True, False, False, False])
    relaxed = initial.copy()
    relaxed[~fixed, 0] += offset
    return Record(
        id=str(i),
        positions=initial[None],
        conformer_source=np.zeros(1, np.uint8),
        atomic_numbers=np.array([29, 29, 29, 8, 1], np.uint8),
        target_positions=relaxed,
        cell=np.diag([7.0, 7.0, 20.0]).astype(np.float32),
        pbc=np.ones(3, bool),
        tags=np.array([0, 0, 1, 2, 2], np.int8),
        fixed=fixed,
        targets={"energy": MEAN + 0.1 * (i % 7 - 3)},
    )


def unlabelled(record: Record) -> Record:
    return replace(record, target_positions=None, targets={"energy": math.nan})


def oc20_splits() -> dict[str, list[Record]]:
    splits = {"train": [slab(i) for i in range(4)], "test_id": [unlabelled(slab(i)) for i in range(90, 93)]}
    for j, (name, offset) in enumerate(OFFSETS.items()):
        splits[name] = [slab(10 * (j + 1) + i, offset) for i in range(4)]
    return splits


def write(out: Path, splits: dict[str, list[Record]]) -> PreparedDataset:
    return write_dataset(out, splits, units={"energy": "ev"}, options={}, level_of_theory=None)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return write(tmp_path_factory.mktemp("data") / "oc20", oc20_splits())


def catalyst_predictor(task: str = "is2re") -> Predictor:
    """Knows what a model says about itself; `predicted` stands in for its network."""
    targets = ("energy",) if task == "is2re" else ()
    manifest = SimpleNamespace(
        reference=f"{task}-toy@1",
        task=task,
        targets=[Target(name="positions", unit="angstrom"), *(Target(name=t, unit="ev", mean=MEAN) for t in targets)],
        inputs=Inputs(hydrogens=True, geometry="conformer", features=False, periodic=True),
    )
    manifest.target = lambda name: {target.name: target for target in manifest.targets}[name]
    parts = {"manifest": manifest, "task": SimpleNamespace(targets=targets, vectors=("positions",))}
    return cast("Predictor", SimpleNamespace(**parts, model=None, settings=None))


def half_way(model: Any, task: Any, records: Iterable[tuple[int, Record]], settings: Any) -> Iterator[Any]:
    """Moves free atoms 0.1 Angstrom along x; energies are 0.03 eV too high, every second one 0.01 eV."""
    for index, record in records:
        positions = record.positions.astype(np.float64)
        positions[:, ~np.asarray(record.fixed), 0] += 0.1
        energy = record.targets["energy"] + (0.01 if index % 2 else 0.03)
        yield ConformerPredictions(index, {t: np.array([energy]) for t in task.targets}, {"positions": positions})


@pytest.fixture(autouse=True)
def predicted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "predict_records", half_way)


def share(distance: float) -> float:
    return 100.0 * float((distance < THRESHOLDS).mean())


def test_metrics_of_every_split_with_what_costs_nothing(dataset: PreparedDataset) -> None:
    found = evaluate_dataset(catalyst_predictor(), dataset)
    assert list(found["splits"]) == list(OFFSETS), "without train and test, in the order of papers"
    assert list(found) == ["model", "dataset", "rows", "splits", "average", "baselines"]
    for name, offset in OFFSETS.items():
        values = found["splits"][name]
        assert values["energy_mae_ev"] == pytest.approx(0.02)
        assert values["energy_mse_ev2"] == pytest.approx((0.03**2 + 0.01**2) / 2)
        assert values["energy_rmse_ev"] == pytest.approx(math.sqrt((0.03**2 + 0.01**2) / 2))
        assert values["energy_ewt_percent"] == 50.0
        assert values[DISTANCE] == pytest.approx(offset - 0.1, abs=1e-6)
        still = found["baselines"]["no_move"]["splits"][name]
        assert set(still) == {ADWT, ADWT_ALL_ATOMS, ADWT_MAE, DISTANCE}
        assert still[DISTANCE] == pytest.approx(offset, abs=1e-6)
        for key, factor in ((ADWT, 1.0), (ADWT_ALL_ATOMS, 3 / 5), (ADWT_MAE, 1 / 3)):
            one = 100.0 / len(THRESHOLDS) + 1e-9  # float32 positions may fall on either side of a threshold
            assert values[key] == pytest.approx(share(factor * (offset - 0.1)), abs=one)
            assert still[key] == pytest.approx(share(factor * offset), abs=one)
        mean = found["baselines"]["mean_energy"]["splits"][name]
        labels = np.array([record.targets["energy"] for record in oc20_splits()[name]])
        assert mean["energy_mae_ev"] == pytest.approx(np.abs(labels - MEAN).mean())
        assert mean["energy_ewt_percent"] == pytest.approx(100 * (np.abs(labels - MEAN) < 0.02).mean())
        assert not any("conformer" in key for key in values)
    for part in (found, *found["baselines"].values()):
        for key, value in part["average"].items():
            assert value == pytest.approx(np.mean([part["splits"][name][key] for name in OFFSETS]))
    json.dumps(found, allow_nan=False)


def test_a_model_of_structures_has_no_energies(dataset: PreparedDataset) -> None:
    found = evaluate_dataset(catalyst_predictor("is2rs"), dataset, limit=2)
    assert list(found["splits"]) == list(OFFSETS)
    assert set(found["average"]) == {ADWT, ADWT_ALL_ATOMS, ADWT_MAE, DISTANCE}
    assert list(found["baselines"]) == ["no_move"]
    assert found["rows"] == dict.fromkeys(OFFSETS, 2)


def test_splits_are_labelled_by_structures_or_energies(tmp_path: Path) -> None:
    records = [slab(i) for i in range(6)]
    splits = {
        "train": records[:1],
        "both": [unlabelled(records[1]), records[2]],
        "energies": [replace(records[3], target_positions=None)],
        "structures": [replace(records[4], targets={"energy": math.nan})],
        "blind": [unlabelled(records[5])],
    }
    data = write(tmp_path / "data", splits)
    found = evaluate_dataset(catalyst_predictor(), data)["splits"]
    assert set(found) == {"both", "energies", "structures"}
    assert DISTANCE not in found["energies"] and "energy_mae_ev" not in found["structures"]
    assert found["both"]["energy_ewt_percent"] == 100.0, "a row without labels is left out"
    assert set(evaluate_dataset(catalyst_predictor("is2rs"), data)["splits"]) == {"both", "structures"}
    assert not has_labels(data.split("both"), "positions", 1) and has_labels(data.split("both"), "positions", 2)
    with pytest.raises(DataError, match="'blind' have no label of energy, positions"):
        evaluate_dataset(catalyst_predictor(), data, splits=["blind"])


def test_files_of_an_evaluation(dataset: PreparedDataset, tmp_path: Path) -> None:
    found = evaluate_dataset(catalyst_predictor(), dataset, out=tmp_path, splits=["val_id", "val_ood_cat"])
    ends = ("energy.csv", "energy_parity.png", "energy_error.png", "positions.csv")
    expected = {f"{split}_{end}" for split in ("val_id", "val_ood_cat") for end in ends}
    assert {path.name for path in tmp_path.iterdir()} == expected | {"metrics.json", "positions_adwt.png"}
    assert json.loads((tmp_path / "metrics.json").read_text()) == found
    with (tmp_path / "val_ood_cat_positions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [record.id for record in oc20_splits()["val_ood_cat"]]
    for prefix, values in (("", found["splits"]), ("no_move_", found["baselines"]["no_move"]["splits"])):
        mean = np.mean([float(row[prefix + ADWT]) for row in rows])
        assert mean == pytest.approx(values["val_ood_cat"][ADWT], rel=1e-12)
    with (tmp_path / "val_id_energy.csv").open(newline="") as file:
        assert next(csv.reader(file)) == ["id", "energy_ev", "pred_energy_ev"]


def test_a_split_of_frozen_systems_can_be_drawn_and_written(tmp_path: Path) -> None:
    frozen = replace(slab(0), fixed=np.ones(5, bool))
    data = write(tmp_path / "data", {"train": [slab(1)], "valid": [frozen], "test": [frozen, slab(2)]})
    found = evaluate_dataset(catalyst_predictor(), data, out=tmp_path / "out")
    assert ADWT not in found["splits"]["valid"] and found["splits"]["test"][DISTANCE] == pytest.approx(0.0, abs=1e-6)
    json.dumps(found, allow_nan=False)


def test_predictions_that_are_no_numbers(dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> Iterator[ConformerPredictions]:
        for found in half_way(*arguments):
            found.vectors["positions"][0, 3] = np.nan
            yield found

    monkeypatch.setattr(evaluation, "predict_records", broken)
    with pytest.raises(ArtifactError, match="positions of system 10 are not finite"):
        evaluate_dataset(catalyst_predictor(), dataset)


def test_molecules_are_no_catalysts(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "toy", {"valid": [random_record(0, targets={"energy": 1.0})]}, options={})
    with pytest.raises(ArtifactError, match=r"the systems of .*toy have no cell and no tags"):
        evaluate_dataset(catalyst_predictor(), data, splits=["valid"])


def test_the_table_is_laid_out_like_the_paper_s(dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SimpleNamespace(data=SimpleNamespace(dataset="oc20"))
    loaded = SimpleNamespace(reference="is2re-toy@1", manifest=SimpleNamespace(task="is2re"), config=config)
    monkeypatch.setattr(geomformer.artifacts.store, "load_artifact", lambda *_: loaded)
    metrics = evaluate_dataset(catalyst_predictor(), dataset)
    monkeypatch.setattr(geomformer.api, "evaluate", lambda *_, **__: metrics)
    result = CliRunner().invoke(app, ["evaluate", "--task", "is2re"])
    assert result.exit_code == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    assert " ".join(lines[0]) == "metric unit method ID OOD Ads OOD Cat OOD Both AVG"
    assert ["systems", "4", "4", "4", "4"] in lines
    assert ["energy", "MAE", "eV", "is2re-toy@1", "0.02", "0.02", "0.02", "0.02", "0.02"] in lines
    assert ["EwT", "%", "is2re-toy@1", "50", "50", "50", "50", "50"] in lines
    methods = {tuple(line[: len(line) - 5]) for line in lines[2:]}
    assert {("ADwT", "%", "is2re-toy@1"), ("ADwT", "%", "no", "move"), ("EwT", "%", "mean", "energy")} <= methods
    assert sum(line[:4] == ["looser", "reading", "of", "ADwT:"] for line in lines) == 4
    assert "rmse" not in result.stdout.lower()
