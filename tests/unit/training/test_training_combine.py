"""The mean of trained models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checks.molecules import toy_config, toy_splits, two_target_splits, write_dataset
from torch import Tensor

from geomformer.artifacts.selftest import verify
from geomformer.artifacts.store import Artifact, load_artifact
from geomformer.errors import ArtifactError, ConfigError
from geomformer.prepared.collate import collate
from geomformer.records import Batch
from geomformer.tasks import build_task
from geomformer.tasks.base import Scaling
from geomformer.training.combine import combine
from geomformer.training.run import TrainResult

Train = Callable[..., TrainResult]
TWO = {"gap": "ev", "gap_dft": "ev"}


def toy_batch() -> Batch:
    task = build_task(toy_config().task, {"gap": Scaling()})
    samples = [task.inference_samples(record, i, 1)[0] for i, record in enumerate(toy_splits()["valid"])]
    return collate(samples, features=True)


@torch.no_grad()
def answers(artifact: Artifact) -> dict[str, Tensor]:
    """Predictions of the toy batch in the unit of each target."""
    scalars = artifact.model()(toy_batch()).scalars
    targets = artifact.manifest.targets
    return {target.name: target.mean + target.scale * scalars[:, i] for i, target in enumerate(targets)}


def other_data(tmp_path: Path, splits: dict[str, Any], factor: float) -> Any:
    """Targets with another mean and scale."""
    for record in (record for split in splits.values() for record in split):
        record.targets = {name: 1.0 + factor * value for name, value in record.targets.items()}
    return write_dataset(tmp_path / f"times-{factor}", splits, units=TWO if factor == 2.0 else None)


def test_the_mean_answers_with_the_mean(fit: Train, tmp_path: Path) -> None:
    root = tmp_path / "models"
    for seed in (1, 2, 3):
        fit(toy_config(train={"max_steps": 5, "seed": seed}), out=f"run-{seed}", name=f"toy-{seed}")
    members = [load_artifact(f"toy-{seed}", root) for seed in (1, 2, 3)]
    saved = combine(["toy-1", "toy-2@1", members[2].path], root, "mean")
    found, each = answers(saved)["gap"], [answers(member)["gap"] for member in members]
    torch.testing.assert_close(found, torch.stack(each).mean(0), rtol=1e-5, atol=1e-5)
    assert (each[0] - each[1]).abs().max() > 1e-3
    assert verify(saved) == []
    assert saved.config.model.members == 3
    assert saved.manifest.metrics == {}
    assert saved.manifest.training["parameters"] == 3 * members[0].manifest.training["parameters"]
    assert saved.manifest.training["mean_of"]["toy-2@1"]["seed"] == 2
    assert "The mean of 3 `geomformer` networks" in (saved.path / "README.md").read_text()


def test_targets_that_all_have_are_kept_whatever_their_place_and_scale(fit: Train, tmp_path: Path) -> None:
    root = tmp_path / "models"
    two = other_data(tmp_path, two_target_splits(), 2.0)
    both = {"targets": ["gap_dft", "gap"], "answer": "gap", "levels": {"gap_dft": "B3LYP"}}
    fit(toy_config(task=both, train={"max_steps": 3}), data=two, out="two", name="two")
    fit(toy_config(train={"max_steps": 3}), out="one", name="one")
    members = [load_artifact(name, root) for name in ("two", "one")]
    expected = (answers(members[0])["gap"] + answers(members[1])["gap"]) / 2
    for first, second in (("two", "one"), ("one", "two")):
        saved = combine([first, second], root, "mean")
        assert [target.name for target in saved.manifest.targets] == ["gap"] == list(saved.config.task.targets)
        torch.testing.assert_close(answers(saved)["gap"], expected, rtol=1e-5, atol=1e-5)
        assert saved.manifest.dataset == load_artifact(first, root).manifest.dataset
        assert saved.manifest.training["mean_of"][f"{second}@1"]["dataset"]["name"]
    assert not load_artifact("mean@1", root).config.task.levels


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": {"embed_dim": 24, "num_heads": 3}}, r"model.embed_dim is \d+ in one and 24 in the other"),
        ({"task": {"noise_scale": 0.5}}, r"task.noise_scale is 0.2 in one and 0.5 in the other"),
    ],
)
def test_other_networks_have_no_mean(fit: Train, tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    fit(toy_config(train={"max_steps": 1}), out="a", name="a")
    fit(toy_config(**changes, train={"max_steps": 1}), out="b", name="b")
    with pytest.raises(ArtifactError, match=f"a@1 and b@1 cannot be averaged: {reason}"):
        combine(["a", "b"], tmp_path / "models", "mean")
    assert not (tmp_path / "models" / "mean").exists()


def test_sums_of_another_mean_are_refused(fit: Train, tmp_path: Path) -> None:
    config = toy_config(model={"pooling": "sum"}, train={"max_steps": 1})
    fit(config, out="a", name="a")
    fit(config, out="b", name="b", data=other_data(tmp_path, toy_splits(), 3.0))
    with pytest.raises(ArtifactError, match=r"cannot be averaged: targets is name='gap'"):
        combine(["a", "b"], tmp_path / "models", "mean")


def test_what_is_no_two_models_is_refused(fit: Train, tmp_path: Path) -> None:
    root = tmp_path / "models"
    for name in ("a", "b"):
        fit(toy_config(train={"max_steps": 1, "seed": ord(name)}), out=name, name=name)
    for given in ([], ["a"], ["a", "a@1"]):
        with pytest.raises(ConfigError, match="Expected two different models or more, found"):
            combine(given, root, "mean")
    combine(["a", "b"], root, "mean")
    combine(["b", "a"], root, "mean")
    with pytest.raises(ArtifactError, match=r"mean@1 is a mean of models itself"):
        combine(["mean@1", "mean@2"], root, "more")
    with pytest.raises(ArtifactError, match=r"model\.members is 1 in one and 2 in the other"):
        combine(["a", "mean"], root, "more")


def test_no_target_in_common_is_refused(fit: Train, tmp_path: Path) -> None:
    two = write_dataset(tmp_path / "two", two_target_splits(), units=TWO)
    for name in TWO:
        fit(toy_config(task={"targets": [name]}, train={"max_steps": 1}), data=two, out=name, name=name)
    with pytest.raises(ArtifactError, match=r"no target in common.*gap@1: gap; gap_dft@1: gap_dft"):
        combine(list(TWO), tmp_path / "models", "mean")


def test_a_committee_is_not_trained(fit: Train, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Expected model\.members=1 in training, found 2"):
        fit(toy_config(model={"members": 2}))
    assert not (tmp_path / "run").exists()
