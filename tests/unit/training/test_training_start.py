"""What a run takes over from a trained model."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checks.molecules import CHEMISTRY, save_model, toy_batch, toy_config, toy_splits, two_target_splits, write_dataset

from geomformer.artifacts.manifest import Target
from geomformer.artifacts.store import load_artifact
from geomformer.errors import ArtifactError, ConfigError
from geomformer.models import build_model
from geomformer.tasks.base import Scaling
from geomformer.training.run import TrainResult
from geomformer.training.start import start_from

Train = Callable[..., TrainResult]
TWO = {"gap": "ev", "gap_dft": "ev"}


def weights(result: TrainResult) -> bytes:
    return (result.path / "model.safetensors").read_bytes()


def test_init_starts_from_the_weights_of_a_model(fit: Train) -> None:
    slow = {"learning_rate": 1e-12}
    first = fit(toy_config(train={"max_steps": 60, "validate_every": 30}))
    config = toy_config(train={"max_steps": 1, "seed": 5}, optim=slow)
    fresh, tuned = fit(config, out="fresh"), fit(config, out="tuned", init=first.reference)
    assert tuned.metrics["gap_mae_ev"] == pytest.approx(first.metrics["gap_mae_ev"], rel=1e-4)
    assert tuned.metrics["gap_mae_ev"] < 0.8 * fresh.metrics["gap_mae_ev"]
    assert f"weights from {first.path}" in (tuned.run / "log.txt").read_text()


def test_init_takes_what_fits_and_refuses_what_hardly_does(
    fit: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = fit(toy_config(train={"max_steps": 2}))
    data = write_dataset(tmp_path / "two", two_target_splits(), units={"gap": "ev", "gap_dft": "ev"})
    config = toy_config(task={"targets": ["gap", "gap_dft"]}, train={"max_steps": 1})
    assert fit(config, data=data, out="tuned", init=first.reference).reference == "toy@2"
    assert "toy@1 does not predict gap_dft (ev) with model.pooling=attention: the last map starts fresh." in caplog.text
    assert "differ" not in caplog.text
    other = toy_config(model={"embed_dim": 24, "num_heads": 3, "ffn_dim": 8, "num_kernels": 5})
    with pytest.raises(ArtifactError, match=r"Only \d+% of this model's weights exist in toy@2"):
        fit(other, out="other", init="toy")
    with pytest.raises(ArtifactError, match="there is no model 'nothing'"):
        fit(out="none", init="nothing")
    assert not (tmp_path / "none").exists()
    fit(toy_config(model={"equ_ffn": False}, train={"max_steps": 1}), out="less", init="toy@1")
    assert re.search(
        r"toy@1 and this model differ: no place for \S*equ_ffn.* It was trained with model.equ_ffn=True\.",
        caplog.text,
    )


def test_the_folder_of_a_run_is_told_from_a_model(fit: Train) -> None:
    first = fit(toy_config(train={"max_steps": 2}), out="first")
    with pytest.raises(ArtifactError, match=r"first is the folder of a training run, no model\. Its model: \S+toy/1\."):
        fit(out="second", init=str(first.run))
    interrupted(fit, "broken", None)
    broken = first.run.with_name("broken")
    with pytest.raises(ArtifactError, match=r"It has saved no model yet; finish it: geomformer train .*--resume"):
        load_artifact(broken, first.path.parents[1])


def test_orbitals_of_another_theory_are_told(fit: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = fit(toy_config(model={"orbitals": "huckel"}, train={"max_steps": 2}))
    data = write_dataset(tmp_path / "xtb", toy_splits(), options={"chemistry": {**CHEMISTRY, "orbitals": "xtb"}})
    config = toy_config(model={"orbitals": "xtb"}, train={"max_steps": 1})
    fit(config, data=data, out="tuned", init=first.reference)
    assert "toy@1 reads orbitals of huckel, this model those of xtb." in caplog.text


def test_a_run_stopped_before_its_first_checkpoint_still_starts_from_init(fit: Train, tmp_path: Path) -> None:
    first = fit(toy_config(train={"max_steps": 10}))
    config = toy_config(train={"max_steps": 4, "checkpoint_every": 50, "validate_every": 50})

    def fail(line: dict[str, Any]) -> None:
        if line.get("step") == 2:
            raise KeyError("a crash")

    with pytest.raises(KeyError):
        fit(config, out="broken", init=first.reference, report=fail)
    assert not list((tmp_path / "broken" / "checkpoints").iterdir())
    fit(toy_config(train={"max_steps": 2}), out="newer")  # another version of the same name
    resumed, whole = fit(config, out="broken", resume=True), fit(config, out="whole", init=first.reference)
    assert (resumed.run / "metrics.jsonl").read_bytes() == (whole.run / "metrics.jsonl").read_bytes()
    assert weights(resumed) == weights(whole)


@pytest.mark.parametrize("pooling", ["mean", "sum"])
def test_shared_targets_are_predicted_as_before(fit: Train, tmp_path: Path, pooling: str) -> None:
    """Targets change their order and their scale, and their mean where the pooling can take that up."""
    data = write_dataset(tmp_path / "two", two_target_splits(), units=TWO)
    model = {"pooling": pooling}
    config = toy_config(task={"targets": ["gap", "gap_dft"]}, model=model, train={"max_steps": 3})
    artifact = load_artifact(fit(config, data=data).reference, tmp_path / "models")
    theirs = {t.name: t for t in artifact.manifest.targets}
    swapped = toy_config(task={"targets": ["gap_dft", "gap"]}, model=model)
    scaling = {
        name: Scaling(theirs[name].mean + (2.0 if pooling == "mean" else 0.0), 3.0 * theirs[name].scale) for name in TWO
    }
    network, batch = build_model(swapped.model), toy_batch()
    start_from(network, artifact, swapped, scaling, TWO)
    with torch.no_grad():
        before, after = artifact.model()(batch).scalars, network.eval()(batch).scalars
    for column, name in enumerate(["gap", "gap_dft"]):
        expected = theirs[name].mean + theirs[name].scale * before[:, column]
        found = scaling[name].mean + scaling[name].scale * after[:, 1 - column]
        assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("unit", ["angstrom", "bohr"])
def test_vectors_of_another_scale_are_predicted_as_before(tmp_path: Path, unit: str) -> None:
    config = toy_config(task={"name": "is2rs", "targets": []}, model={"num_scalars": 0})
    given = build_model(config.model)
    torch.nn.init.normal_(given.vector_head.out.weight)
    target = Target(name="positions", unit="angstrom", scale=0.5)
    artifact = save_model(tmp_path, config=config, model=given, targets=[target])
    network = build_model(config.model)
    start_from(network, artifact, config, {"positions": Scaling(scale=2.0)}, {"positions": unit})
    with torch.no_grad():
        before, after = artifact.model()(toy_batch()).vectors, network.eval()(toy_batch()).vectors
    assert before.abs().max() > 1e-2
    if unit == "angstrom":
        torch.testing.assert_close(2.0 * after, 0.5 * before, rtol=1e-5, atol=1e-5)
    else:
        assert not after.any(), "a head of another unit starts fresh, at zero"


def test_a_target_in_another_unit_is_another_target(fit: Train, tmp_path: Path) -> None:
    artifact = load_artifact(fit(toy_config(train={"max_steps": 3})).reference, tmp_path / "models")
    for unit, kept in (("ev", True), ("hartree", False)):
        config = toy_config(task={"targets": ["gap", "other"]})
        network = build_model(config.model)
        before = network.state_dict()["scalar_head.out.weight"].clone()
        start_from(network, artifact, config, dict.fromkeys(("gap", "other"), Scaling()), {"gap": unit, "other": "ev"})
        after = network.state_dict()["scalar_head.out.weight"]
        assert torch.equal(before[1], after[1])
        assert torch.equal(before[0], after[0]) is not kept


@pytest.mark.parametrize("changes", [{"task": {"targets": ["homo"]}}, {"model": {"pooling": "sum"}}])
def test_the_last_map_starts_fresh_for_another_target_or_pooling(
    fit: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any]
) -> None:
    artifact = load_artifact(fit(toy_config(train={"max_steps": 3})).reference, tmp_path / "models")
    config = toy_config(**changes)
    network = build_model(config.model)
    before = network.state_dict()["scalar_head.out.weight"].clone()
    start_from(network, artifact, config, dict.fromkeys(config.task.targets, Scaling()), {"gap": "ev", "homo": "ev"})
    assert torch.equal(before, network.state_dict()["scalar_head.out.weight"])
    assert re.search(r"does not predict \w+ \(ev\) with model.pooling=\w+: the last map starts fresh", caplog.text)


def interrupted(fit: Train, out: str, init: str | None) -> None:
    def fail(line: dict[str, Any]) -> None:
        if line.get("step") == 5:
            raise KeyError("a crash")

    with pytest.raises(KeyError):
        fit(toy_config(train={"max_steps": 8}), out=out, init=init, report=fail)


def test_a_checkpoint_needs_the_first_model_no_more(
    fit: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = fit(toy_config(model={"equ_ffn": False}, train={"max_steps": 2}))
    whole = fit(toy_config(train={"max_steps": 8}), out="whole", init=first.reference)
    interrupted(fit, "broken", first.reference)
    shutil.rmtree(first.path)
    caplog.clear()
    resumed = fit(toy_config(train={"max_steps": 8}), out="broken", resume=True)
    assert weights(resumed) == weights(whole)
    assert "start fresh" not in caplog.text
    assert json.loads((resumed.run / "manifest.json").read_text())["init"] == str(first.path.resolve())


def test_a_run_is_not_resumed_from_another_model(fit: Train) -> None:
    first, second = fit(toy_config(train={"max_steps": 2})), fit(toy_config(train={"max_steps": 3}), out="second")
    interrupted(fit, "broken", first.reference)
    again = toy_config(train={"max_steps": 8})
    with pytest.raises(ConfigError, match=r"was begun with .*toy.1, not with --init toy@2"):
        fit(again, out="broken", resume=True, init=second.reference)
    assert fit(again, out="broken", resume=True, init=first.reference).reference == "toy@3"
    interrupted(fit, "fresh", None)
    with pytest.raises(ConfigError, match="begun with random weights"):
        fit(again, out="fresh", resume=True, init=first.reference)
