from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checks.molecules import save_model, toy_config, toy_splits, write_dataset

from geomformer import api
from geomformer.datasets.options import PrepareOptions
from geomformer.errors import ArtifactError, ConfigError, DataError


def test_default_places_follow_argument_environment_and_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEOMFORMER_DATA", raising=False)
    monkeypatch.delenv("GEOMFORMER_MODELS", raising=False)
    assert (api.data_root(), api.models_root()) == (Path("data"), Path("models"))
    monkeypatch.setenv("GEOMFORMER_DATA", "/somewhere/data")
    monkeypatch.setenv("GEOMFORMER_MODELS", "/somewhere/models")
    assert (api.data_root(), api.models_root()) == (Path("/somewhere/data"), Path("/somewhere/models"))
    assert (api.data_root(Path("a")), api.models_root(Path("b"))) == (Path("a"), Path("b"))


def test_datasets_open_by_name_and_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = write_dataset(tmp_path / "prepared" / "toy", toy_splits(3, 3))
    assert api.open_dataset("toy", tmp_path).fingerprint == made.fingerprint
    assert api.open_dataset(tmp_path / "prepared" / "toy").fingerprint == made.fingerprint
    monkeypatch.setenv("GEOMFORMER_DATA", str(tmp_path))
    assert api.open_dataset("toy").splits == {"train": 3, "valid": 3}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy").mkdir()
    assert api.open_dataset("toy").fingerprint == made.fingerprint, "a folder that is no dataset hides none"
    other = write_dataset(tmp_path / "near" / "toy", toy_splits(2, 2))
    monkeypatch.chdir(tmp_path / "near")
    assert api.open_dataset("toy").fingerprint == other.fingerprint, "a dataset in place comes first"
    with pytest.raises(DataError, match="geomformer preprocess qm9") as missing:
        api.open_dataset("qm9")
    assert missing.value.exit_code == 3
    with pytest.raises(DataError, match="geomformer preprocess rmd17 --molecule aspirin"):
        api.open_dataset("rmd17/aspirin")
    with pytest.raises(DataError, match="geomformer preprocess nbody --isotropic-clip --all-windows` first"):
        api.open_dataset("nbody-isotropic-windows")
    with pytest.raises(DataError, match="geomformer preprocess my-windows-set` first"):
        api.open_dataset("my-windows-set")


def test_unknown_datasets_name_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'qm9'"):
        api.prepare("qm8", root=tmp_path, options=PrepareOptions())


def test_training_by_name_writes_where_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("GEOMFORMER_DATA", "GEOMFORMER_MODELS"):
        monkeypatch.delenv(name, raising=False)
    write_dataset(tmp_path / "data" / "prepared" / "toy", toy_splits())
    result = api.train(toy_config(train={"max_steps": 2}), device="cpu", name="mine")
    assert result.run.parent == Path("runs") and result.run.name.startswith("gap-")
    assert (result.reference, result.path) == ("mine@1", Path("models/mine/1"))
    again = api.train(toy_config(train={"max_steps": 2}), device="cpu", name="mine", out=Path("again"))
    assert again.reference == "mine@2"
    assert api.load_model("mine@1", device="cpu").manifest.reference == "mine@1"
    found = api.evaluate("toy", model="mine", device="cpu")
    assert found["splits"]["valid"]["gap_mae_ev"] == pytest.approx(again.metrics["gap_mae_ev"], rel=1e-4)


def test_resuming_needs_a_folder() -> None:
    with pytest.raises(ConfigError, match="--out"):
        api.train(toy_config(), resume=True)


def test_models_load_ready_to_run(tmp_path: Path) -> None:
    save_model(tmp_path)
    predictor = api.load_model("toy", models=tmp_path, conformers=3, device="cpu")
    assert not predictor.model.training
    assert (predictor.settings.max_conformers, predictor.chemistry.num_conformers) == (3, 3)
    assert (predictor.chemistry.hydrogens, predictor.chemistry.geometry) == (False, "generate")
    assert predictor.task.predictions is not None and predictor.task.scalars.scale.tolist() == [1.5]  # type: ignore[attr-defined]
    given = api.load_model(tmp_path / "toy" / "1", geometry="input", device="cpu")
    assert given.chemistry.geometry == "input"


def test_models_that_cannot_be_loaded(tmp_path: Path) -> None:
    save_model(tmp_path)
    with pytest.raises(ArtifactError, match="Did you mean 'toy'"):
        api.load_model("tyo", models=tmp_path, device="cpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="--device cuda"):
            api.load_model("toy", models=tmp_path, device="cuda")
    weights = tmp_path / "toy" / "1" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match=r"model\.safetensors"):
        api.load_model("toy", models=tmp_path, device="cpu")


def test_importing_the_api_loads_no_heavy_package() -> None:
    code = "import sys, geomformer.api; print([n for n in ('torch', 'rdkit', 'pyarrow') if n in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert found.stdout == "[]\n", found.stderr


def test_everything_public_is_documented() -> None:
    functions = [f for name, f in inspect.getmembers(api, inspect.isfunction) if f.__module__ == api.__name__]
    assert {f.__name__ for f in functions} >= {"load_model", "predict", "evaluate", "train", "prepare"}
    for function in functions:
        assert function.__doc__ and "return" in function.__annotations__, function.__name__
