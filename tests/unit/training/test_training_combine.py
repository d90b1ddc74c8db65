"""The mean of trained models."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checks.molecules import save_model, toy_batch, toy_config, two_target_splits, write_dataset
from torch import Tensor

from geomformer.artifacts.manifest import Target
from geomformer.artifacts.selftest import verify
from geomformer.artifacts.store import Artifact, load_artifact
from geomformer.errors import ArtifactError, ConfigError
from geomformer.models import build_model
from geomformer.prepared.dataset import PreparedDataset
from geomformer.training.combine import combine, fewest
from geomformer.training.run import TrainResult

Train = Callable[..., TrainResult]
TWO = {"gap": "ev", "gap_dft": "ev"}


@torch.no_grad()
def answers(artifact: Artifact) -> dict[str, Tensor]:
    """Predictions of the toy batch in the unit of each target."""
    scalars = artifact.model()(toy_batch()).scalars
    targets = artifact.manifest.targets
    return {target.name: target.mean + target.scale * scalars[:, i] for i, target in enumerate(targets)}


def other_data(tmp_path: Path, splits: dict[str, Any]) -> PreparedDataset:
    """Targets with another mean and scale."""
    for record in (record for split in splits.values() for record in split):
        record.targets = {name: 1.0 + 2.0 * value for name, value in record.targets.items()}
    return write_dataset(tmp_path / "other", splits, units=TWO if "gap_dft" in splits["train"][0].targets else None)


def test_the_mean_answers_with_the_mean(fit: Train, tmp_path: Path) -> None:
    root = tmp_path / "models"
    for seed in (1, 2, 3):
        dropout = {"hidden_dropout": 0.1 * seed}
        config = toy_config(model=dropout, train={"max_steps": 5, "seed": seed})
        fit(config, out=f"run-{seed}", name=f"toy-{seed}")
    members = [load_artifact(f"toy-{seed}", root) for seed in (1, 2, 3)]
    saved = combine(["toy-1", "toy-2@1", members[2].path], root, "mean")
    found, each = answers(saved)["gap"], [answers(member)["gap"] for member in members]
    torch.testing.assert_close(found, torch.stack(each).mean(0), rtol=1e-5, atol=1e-5)
    assert (each[0] - each[1]).abs().max() > 1e-3
    assert verify(saved) == []
    assert saved.config.model.members == 3
    assert saved.manifest.metrics == {}
    assert saved.manifest.elements == members[0].manifest.elements
    training = saved.manifest.training
    assert training["parameters"] == 3 * members[0].manifest.training["parameters"]
    assert [item["model"] for item in training["mean_of"].values()] == ["toy-1@1", "toy-2@1", "toy-3@1"]
    assert [item["seed"] for item in training["mean_of"].values()] == [1, 2, 3]
    assert "The mean of 3 `geomformer` networks" in (saved.path / "README.md").read_text()


@pytest.mark.parametrize("pooling", ["mean", "sum"])
def test_targets_that_all_have_are_kept_whatever_their_place_and_scale(
    fit: Train, tmp_path: Path, pooling: str, caplog: pytest.LogCaptureFixture
) -> None:
    root, model = tmp_path / "models", {"pooling": pooling}
    two = other_data(tmp_path, two_target_splits())
    both = {"targets": ["gap_dft", "gap"], "answer": "gap_dft", "levels": {"gap_dft": "B3LYP"}}
    fit(toy_config(task=both, model=model, train={"max_steps": 3}), data=two, out="two", name="two")
    fit(toy_config(model=model, train={"max_steps": 3}), out="one", name="one")
    members = [load_artifact(name, root) for name in ("two", "one")]
    expected = (answers(members[0])["gap"] + answers(members[1])["gap"]) / 2
    for first, second in (("two", "one"), ("one", "two")):
        saved = combine([first, second], root, "mean")
        assert [target.name for target in saved.manifest.targets] == ["gap"] == list(saved.config.task.targets)
        torch.testing.assert_close(answers(saved)["gap"], expected, rtol=1e-5, atol=1e-5)
        assert saved.manifest.answer == "gap"
        assert saved.manifest.dataset == load_artifact(first, root).manifest.dataset
        assert saved.manifest.training["mean_of"]["2"]["data"]["train_split"] == "train"
    assert not load_artifact("mean@1", root).config.task.levels
    assert "gap_dft: not predicted by all; `predict` reports gap." in caplog.text
    assert "one@1 was trained on other rows than two@1" in caplog.text


def test_other_rows_of_the_same_data_are_told(fit: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit(toy_config(train={"max_steps": 1}), out="a", name="a")
    fit(toy_config(train={"max_steps": 1, "seed": 7}), out="b", name="b")
    combine(["a", "b"], tmp_path / "models", "mean")
    assert "other rows" not in caplog.text
    fit(toy_config(data={"train_split": "valid"}, train={"max_steps": 1}), out="c", name="c")
    combine(["a", "c"], tmp_path / "models", "mean")
    assert "c@1 was trained on other rows than a@1" in caplog.text


def test_vectors_are_brought_to_one_scale(tmp_path: Path) -> None:
    """Seeds of one catalyst model differ in the scale that they measure."""
    config = toy_config(task={"name": "is2rs", "targets": []}, model={"num_scalars": 0})
    scales = (0.5, 2.0)
    for number, scale in enumerate(scales):
        torch.manual_seed(number)
        targets = [Target(name="positions", unit="angstrom", scale=scale)]
        model = build_model(config.model)
        torch.nn.init.normal_(model.vector_head.out.weight)
        save_model(tmp_path, f"m{number}", config=config, model=model, targets=targets)
    members = [load_artifact(f"m{number}", tmp_path) for number in range(2)]
    save_model(tmp_path, "other", config=config, targets=[Target(name="positions", unit="bohr")])
    with pytest.raises(ArtifactError, match="unit of positions is angstrom in one and bohr in the other"):
        combine(["m0", "other"], tmp_path, "mean")
    saved = combine(["m0", "m1"], tmp_path, "mean")
    with torch.no_grad():
        each = [scale * item.model()(toy_batch()).vectors for scale, item in zip(scales, members, strict=True)]
        found = scales[0] * saved.model()(toy_batch()).vectors
    torch.testing.assert_close(found, (each[0] + each[1]) / 2, rtol=1e-5, atol=1e-5)
    assert (each[0] - each[1]).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"embed_dim": 24, "num_heads": 3}, r"model\.embed_dim is \d+ in one and 24 in the other"),
        ({"orbitals": "huckel"}, r"inputs\.orbitals is none in one and huckel in the other"),
    ],
)
def test_other_networks_have_no_mean(fit: Train, tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    fit(toy_config(train={"max_steps": 1}), out="a", name="a")
    fit(toy_config(model=changes, train={"max_steps": 1}), out="b", name="b")
    with pytest.raises(ArtifactError, match=f"a@1 and b@1 cannot be averaged: {reason}"):
        combine(["a", "b"], tmp_path / "models", "mean")
    assert not (tmp_path / "models" / "mean").exists()


def test_what_is_no_two_models_is_refused(fit: Train, tmp_path: Path) -> None:
    root = tmp_path / "models"
    for name in ("a", "b"):
        fit(toy_config(train={"max_steps": 1, "seed": ord(name)}), out=name, name=name)
    shutil.copytree(root / "a", tmp_path / "copy")
    for given in ([], ["a"], ["a", "a@1"], ["a", tmp_path / "copy"]):
        with pytest.raises(ConfigError, match="Expected two models or more, with different weights, found"):
            combine(given, root, "mean")
    combine(["a", "b"], root, "mean")
    for given in (["a", "mean"], ["mean", "a"]):
        with pytest.raises(ArtifactError, match=r"mean@1 is a mean of models\."):
            combine(given, root, "more")
    with pytest.raises(ArtifactError, match=r"'\.\./x' is no name for a model"):
        combine(["a", "b"], root, "../x")
    with pytest.raises(ArtifactError, match="mean@1 is a mean of models, and no start"):
        fit(toy_config(train={"max_steps": 1}), out="c", init="mean")


def test_no_target_in_common_is_refused(fit: Train, tmp_path: Path) -> None:
    two = write_dataset(tmp_path / "two", two_target_splits(), units=TWO)
    for name in TWO:
        fit(toy_config(task={"targets": [name]}, train={"max_steps": 1}), data=two, out=name, name=name)
    with pytest.raises(ArtifactError, match=r"no target in common.*gap@1: gap; gap_dft@1: gap_dft"):
        combine(list(TWO), tmp_path / "models", "mean")


def test_an_element_counts_as_often_as_the_model_that_knows_it_least() -> None:
    assert fewest([{"C": 30, "N": 5}, {"C": 20, "O": 9}]) == {"C": 20, "N": 0}


def test_a_committee_is_not_trained(fit: Train, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Expected model\.members=1 in training, found 2"):
        fit(toy_config(model={"members": 2}))
    assert not (tmp_path / "run").exists()
