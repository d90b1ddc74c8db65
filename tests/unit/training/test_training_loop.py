from __future__ import annotations

import json
import math
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checks.molecules import random_record, toy_config, toy_splits, two_target_splits, write_dataset
from lightning_fabric import Fabric

from geomformer.artifacts.store import load_artifact
from geomformer.config.run import RunConfig
from geomformer.errors import ArtifactError, ConfigError, DataError, GeomformerError, Interrupted
from geomformer.models import build_model
from geomformer.models.geomformer import GeoMFormer
from geomformer.prepared.collate import Sample, collate
from geomformer.prepared.dataset import PreparedDataset
from geomformer.records import Batch
from geomformer.tasks import build_task
from geomformer.tasks.base import Scaling
from geomformer.training import run
from geomformer.training.batches import EpochBatches
from geomformer.training.loop import Trainer
from geomformer.training.run import TrainResult
from geomformer.training.run_folder import RunFolder, load_checkpoint

Train = Callable[..., TrainResult]


def lines(result: TrainResult | Path) -> list[dict[str, Any]]:
    folder = result if isinstance(result, Path) else result.run
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(result: TrainResult) -> bytes:
    return (result.path / "model.safetensors").read_bytes()


def plain_trainer(dataset: PreparedDataset, folder: Path, config: RunConfig) -> Trainer:
    fabric = Fabric(accelerator="cpu", devices=1)
    split = dataset.split("train")
    task = build_task(config.task, {"gap": Scaling(6.0, 1.0)})
    run_folder = RunFolder(folder, resume=False)
    run_folder.create(config, {})
    model = build_model(config.model)
    return Trainer(config, task, model, split, split, {"gap": "ev"}, run_folder, fabric, lambda line: None)


def test_a_run_writes_what_the_contract_names(fit: Train, tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    result = fit(report=seen.append)
    assert (result.reference, result.path) == ("toy@1", tmp_path / "models" / "toy" / "1")
    names = {path.name for path in result.run.iterdir()}
    assert names == {
        "manifest.json",
        "config.yaml",
        "log.txt",
        "metrics.jsonl",
        "timing.jsonl",
        "result.json",
        "checkpoints",
    }
    kept = sorted(path.name for path in (result.run / "checkpoints").iterdir())
    assert kept[0] == "best.pt" and len(kept) == 3 and kept[-1] == "step-00000017.pt"
    found = lines(result)
    assert [line["step"] for line in found if "learning_rate" in line] == [2, 4, 6, 8, 10, 12, 14, 16, 17]
    assert [line["step"] for line in found if "valid/gap_mae_ev" in line] == [5, 10, 15, 17]
    assert not any("second" in key or "time" in key for line in found for key in line)
    best = min(line["valid/gap_mae_ev"] for line in found if "valid/gap_mae_ev" in line)
    assert result.metrics["gap_mae_ev"] == pytest.approx(best, rel=1e-6)
    start = seen[0]
    assert (start["event"], start["max_steps"], start["rows"]) == ("start", 17, 21)
    assert 0.0 < start["padding"] < 0.5
    assert start["seconds"] > 0 and start["parameters"] == build_model(toy_config().model).num_parameters
    assert [line["step"] for line in seen[1:] if len(line) == 2] == list(range(1, 18))


def test_the_same_seed_gives_the_same_run_and_another_does_not(fit: Train) -> None:
    first, again = fit(), fit(out="again")
    assert (first.run / "metrics.jsonl").read_bytes() == (again.run / "metrics.jsonl").read_bytes()
    assert weights(first) == weights(again)
    other = fit(toy_config(train={"seed": 2}), out="other")
    assert lines(other)[0] != lines(first)[0]
    assert weights(other) != weights(first)


def test_workers_change_nothing(fit: Train) -> None:
    config = {"max_steps": 8, "validate_every": 5}
    alone = fit(toy_config(train=config))
    shared = fit(toy_config(train=config, data={"workers": 2}), out="shared")
    assert (alone.run / "metrics.jsonl").read_bytes() == (shared.run / "metrics.jsonl").read_bytes()
    assert weights(alone) == weights(shared)


def test_gradients_are_sums_over_molecules_divided_by_their_number(dataset: PreparedDataset, tmp_path: Path) -> None:
    """Two ranks with batches of different size give the gradient of one batch: each divides by the mean number of
    molecules per rank, and gradients are averaged over ranks."""
    config = toy_config(
        model={"attention_dropout": 0.0, "hidden_dropout": 0.0, "embedding_dropout": 0.0},
        optim={"clip_norm": None},
    )
    split = dataset.split("train")
    task = build_task(config.task, {"gap": Scaling(6.0, 1.0)})
    parts = [np.arange(7), np.arange(5), np.arange(5, 7)]
    batches = EpochBatches(split, task, parts, 0, 0, True)

    def gradient(number: int, mean_count: float | None) -> torch.Tensor:
        torch.manual_seed(0)
        trainer = plain_trainer(dataset, tmp_path / str(number), config)
        if mean_count is not None:
            trainer.molecules = lambda batch: mean_count  # type: ignore[method-assign]
        trainer.step(batches[number])
        return torch.cat([p.grad.flatten() for p in trainer.raw_model.parameters() if p.grad is not None])

    whole, first, second = gradient(0, None), gradient(1, 3.5), gradient(2, 3.5)
    torch.testing.assert_close((first + second) / 2, whole, rtol=1e-4, atol=1e-6)
    assert whole.norm() > 0.01


def test_ranks_divide_by_the_mean_number_of_molecules(dataset: PreparedDataset, tmp_path: Path) -> None:
    trainer = plain_trainer(dataset, tmp_path / "run", toy_config())
    batch = collate([Sample(random_record(i), i, random_record(i).positions[0]) for i in range(5)])
    assert trainer.molecules(batch) == 5.0

    class TwoRanks:
        world_size, device = 2, torch.device("cpu")

        def all_reduce(self, value: torch.Tensor, reduce_op: str) -> torch.Tensor:
            return {"mean": (value + 2.0) / 2, "sum": value + 1.0}[reduce_op]

    trainer.fabric = TwoRanks()  # type: ignore[assignment]
    assert float(trainer.molecules(batch)) == 3.5
    assert trainer.stopping(), "another rank was asked to stop"


def test_losses_in_the_log_are_means_over_molecules(fit: Train, dataset: PreparedDataset) -> None:
    """One epoch in batches of unequal size, of a model that stays as it is."""
    config = toy_config(
        data={"batch_size": 5, "batch_atoms": 1000},
        optim={"learning_rate": 1e-12},
        train={"max_steps": 5, "log_every": 5, "validate_every": 5},
        task={"position_weight": [0.0, 0.0], "distance_weight": [0.0, 0.0], "reference_probability": 0.0},
        model={"attention_dropout": 0.0, "hidden_dropout": 0.0, "embedding_dropout": 0.0},
    )
    result = fit(config)
    logged = lines(result)[0]
    split, statistics = dataset.split("train"), dataset.manifest["targets"]["gap"]
    task = build_task(config.task, {"gap": Scaling(statistics["mean"], statistics["std"])})
    model = load_artifact(result.path).model()
    errors = []
    for row in range(len(split)):
        batch = EpochBatches(split, task, [np.array([row])], config.train.seed, 0, True)[0]
        with torch.no_grad():
            errors.append(abs(task.predictions(model(batch))["gap"].item() - split[row].targets["gap"]))
    assert logged["train/gap"] == pytest.approx(np.mean(errors), rel=1e-4)
    assert logged["train/total"] == pytest.approx(logged["train/gap"])
    assert "train/position" not in logged


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_an_epoch_saves_and_the_resumed_run_is_the_unbroken_one(fit: Train, number: int) -> None:
    whole = fit()

    def stop(line: dict[str, Any]) -> None:
        if line.get("step") == 7 and len(line) == 2:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="step 7 of 17") as stopped:
        fit(out="stopped", report=stop)
    assert stopped.value.exit_code == 130 and signal.getsignal(number) is before
    with pytest.raises(ConfigError, match="already holds a run"):
        fit(out="stopped")
    resumed = fit(out="stopped", resume=True)
    assert (resumed.run / "metrics.jsonl").read_bytes() == (whole.run / "metrics.jsonl").read_bytes()
    assert weights(resumed) == weights(whole)
    states = [load_checkpoint(result.run / "checkpoints" / "step-00000017.pt") for result in (whole, resumed)]
    for name, tensor in states[0]["model"].items():
        assert torch.equal(tensor, states[1]["model"][name]), name
    assert states[0]["position"] | {"sums": None} == states[1]["position"] | {"sums": None}
    assert "Interrupted" in (resumed.run / "log.txt").read_text()


def test_a_stop_between_log_lines_with_workers_resumes_exactly(fit: Train) -> None:
    config = toy_config(data={"workers": 1}, train={"max_steps": 9, "log_every": 4})
    whole = fit(config)

    def stop(line: dict[str, Any]) -> None:
        if line.get("step") == 3 and len(line) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        fit(config, out="stopped", report=stop)
    resumed = fit(config, out="stopped", resume=True)
    assert (resumed.run / "metrics.jsonl").read_bytes() == (whole.run / "metrics.jsonl").read_bytes()
    assert weights(resumed) == weights(whole)


def test_resuming_a_finished_run_under_another_name_saves_its_model_again(fit: Train) -> None:
    first = fit()
    before = (first.run / "metrics.jsonl").read_bytes()
    again = fit(resume=True, name="again")
    assert again.reference == "again@1" and weights(again) == weights(first)
    assert (first.run / "metrics.jsonl").read_bytes() == before


def test_resuming_something_else_is_refused(fit: Train, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run"):
        fit(out="nothing", resume=True)
    fit(toy_config(train={"max_steps": 2}))
    with pytest.raises(ConfigError, match="configuration differs"):
        fit(toy_config(train={"max_steps": 3}), resume=True)
    other = write_dataset(tmp_path / "other", toy_splits(train=20))
    with pytest.raises(DataError, match="not the one"):
        fit(toy_config(train={"max_steps": 2}), data=other, resume=True)


def test_two_targets_with_missing_labels_train_and_are_saved(fit: Train, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "two", two_target_splits(), units={"gap": "ev", "gap_dft": "ev"})
    levels = {"gap": "PM6", "gap_dft": "B3LYP"}
    config = toy_config(task={"targets": ["gap", "gap_dft"], "answer": "gap_dft", "levels": levels})
    result = fit(config, data=data)
    logged = lines(result)
    assert all(math.isfinite(value) for line in logged for value in line.values())
    assert {"train/gap", "train/gap_dft"} < set(logged[0])
    assert {"gap_mae_ev", "gap_dft_mae_ev"} < set(result.metrics)
    best = min(line["valid/gap_dft_mae_ev"] for line in logged if "valid/gap_dft_mae_ev" in line)
    assert result.metrics["gap_dft_mae_ev"] == pytest.approx(best, rel=1e-6), "the answer decides which is best"
    manifest = json.loads((result.path / "manifest.json").read_text())
    assert [target["level_of_theory"] for target in manifest["targets"]] == ["PM6", "B3LYP"]
    assert manifest["answer"] == "gap_dft"
    known = [record.targets["gap"] for record in two_target_splits()["train"] if not math.isnan(record.targets["gap"])]
    assert manifest["targets"][0]["mean"] == pytest.approx(np.mean(known))


def without(field: str) -> dict[str, list[Any]]:
    return {name: [replace(record, **{field: None}) for record in rows] for name, rows in toy_splits(6, 3).items()}


def unlabelled_valid() -> dict[str, list[Any]]:
    splits = toy_splits(6, 3)
    return {"train": splits["train"], "valid": [replace(r, targets={"gap": math.nan}) for r in splits["valid"]]}


@pytest.mark.parametrize(
    ("splits", "sections", "error", "message"),
    [
        (
            toy_splits(6, 3),
            {"task": {"targets": ["gpa"]}},
            ConfigError,
            r"no target 'gpa', only gap.*mean 'gap'",
        ),
        (toy_splits(6, 0), {}, DataError, "Expected a split 'valid'"),
        (toy_splits(6, 3), {"data": {"valid_split": "vaild"}}, DataError, "Did you mean 'valid'"),
        (unlabelled_valid(), {}, DataError, "Expected labels of gap in split 'valid'"),
        (toy_splits(6, 3), {"data": {"batch_atoms": 4}}, DataError, "more atoms than a batch may hold"),
        (without("atom_features"), {}, ConfigError, "reads the 2D graph"),
        (
            without("orbital_energies"),
            {"model": {"orbitals": "huckel"}},
            ConfigError,
            "reads frontier orbitals of extended Hückel theory, .* has none",
        ),
        (
            toy_splits(6, 3),
            {"model": {"orbitals": "xtb"}},
            ConfigError,
            "orbitals of GFN1-xTB, .* has those of extended Hückel theory",
        ),
        (
            without("target_positions"),
            {"task": {"input_geometry": "reference"}},
            ConfigError,
            "generated conformers",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    splits: Any, sections: Any, error: type[GeomformerError], message: str, fit: Train, tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "data", {name: rows for name, rows in splits.items() if rows})
    with pytest.raises(error, match=message) as refused:
        fit(toy_config(**sections), data=data)
    assert refused.value.exit_code == (2 if error is ConfigError else 3)
    assert not (tmp_path / "run").exists()


def test_a_bad_name_or_device_is_refused_at_once(fit: Train, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no name for a model"):
        fit(name="../elsewhere")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="--device cuda"):
            fit(device="cuda")
    with pytest.raises(ConfigError, match="--device abacus"):
        fit(device="abacus")
    assert not (tmp_path / "run").exists()


def test_divergence_is_told(fit: Train) -> None:
    config = toy_config(optim={"learning_rate": 1e30, "clip_norm": None, "warmup_fraction": 0.0})
    with pytest.raises(GeomformerError, match="diverged") as told:
        fit(config)
    assert told.value.exit_code == 1 and "learning_rate" in str(told.value)


def test_double_precision_trains(fit: Train) -> None:
    result = fit(toy_config(train={"precision": "64-true", "max_steps": 6}))
    assert math.isfinite(result.metrics["gap_mae_ev"])


def test_bf16_maps_read_an_exact_geometry(fit: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, autocast = set(), set()
    one_pass = GeoMFormer.one_pass

    def watched(model: GeoMFormer, batch: Batch, *others: Any) -> Any:
        output = one_pass(model, batch, *others)
        seen.add((batch.positions.dtype, output.z_equ[0].dtype, output.scalars.dtype))
        autocast.add(torch.is_autocast_enabled("cpu"))
        return output

    monkeypatch.setattr(GeoMFormer, "one_pass", watched)
    result = fit(toy_config(train={"precision": "bf16-mixed", "max_steps": 6}))
    assert all(torch.bfloat16 not in dtypes for dtypes in seen)
    assert autocast == {True, False}  # training, validation
    assert math.isfinite(result.metrics["gap_mae_ev"])


def test_bf16_without_instructions_for_it_is_told(
    fit: Train, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for able in (True, False):
        monkeypatch.setattr(run, "cpu_computes_bf16", lambda able=able: able)
        fit(toy_config(train={"precision": "bf16-mixed", "max_steps": 1}), out=f"run-{able}")
        assert ("no bf16 instructions" in caplog.text) is not able


def test_training_in_a_thread_leaves_signals_alone(fit: Train) -> None:
    found: list[TrainResult] = []
    thread = threading.Thread(target=lambda: found.append(fit(toy_config(train={"max_steps": 2}))))
    thread.start()
    thread.join(60)
    assert found


def test_tensorboard_gets_the_same_numbers(fit: Train) -> None:
    pytest.importorskip("tensorboard")
    result = fit(toy_config(train={"max_steps": 4, "trackers": ["tensorboard"]}))
    assert list((result.run / "tensorboard").glob("events.*"))
    assert lines(result) == lines(fit(toy_config(train={"max_steps": 4}), out="plain"))


def test_a_finished_run_is_not_saved_twice(fit: Train, tmp_path: Path) -> None:
    first = fit()
    again = fit(resume=True)
    assert (again.reference, again.path, again.metrics) == (first.reference, first.path, first.metrics)
    assert len(list((tmp_path / "models" / "toy").iterdir())) == 1


def test_an_unwritable_store_is_found_before_the_first_step(fit: Train, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("not a folder")
    with pytest.raises(DataError, match="Cannot write to"):
        fit()
    assert not (tmp_path / "run").exists()
