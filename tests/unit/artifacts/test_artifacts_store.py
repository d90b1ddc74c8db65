from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from geomformer.artifacts import locate, pinned
from geomformer.artifacts.store import load_artifact, resolve, save_artifact
from geomformer.chem import xtb
from geomformer.errors import ArtifactError
from geomformer.models import build_model
from geomformer.records import Batch

Save = Callable[..., object]


def test_a_saved_model_gives_the_same_numbers_when_loaded(tmp_path: Path, save: Save, batch: Batch) -> None:
    saved = save(tmp_path)
    torch.manual_seed(0)
    model = build_model(saved.config.model).eval()
    loaded = load_artifact("tiny", tmp_path)
    network = loaded.model()
    assert loaded.reference == "tiny@1"
    assert loaded.manifest == saved.manifest
    assert loaded.config == saved.config
    assert loaded.manifest.answer == "gap"
    assert not network.training
    torch.testing.assert_close(network(batch).scalars, model(batch).scalars, rtol=0, atol=0)
    assert {item.name for item in loaded.path.iterdir()} == {
        "model.safetensors",
        "config.yaml",
        "manifest.json",
        "README.md",
        "selftest.safetensors",
    }


def test_loading_leaves_the_random_state_alone_and_takes_a_dtype(tmp_path: Path, save: Save) -> None:
    artifact = save(tmp_path)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    model = artifact.model(dtype=torch.float64)
    assert torch.equal(torch.rand(2), expected)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}


def test_saving_leaves_the_model_alone(tmp_path: Path, save: Save) -> None:
    config = save(tmp_path).config
    model = build_model(config.model).double().train()
    save(tmp_path, model=model)
    assert model.training
    assert next(model.parameters()).dtype == torch.float64


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_on_disk_is_float32_in_memory(tmp_path: Path, save: Save, dtype: str) -> None:
    full, half = save(tmp_path), save(tmp_path, weights_dtype=dtype)
    size = [(item.path / "model.safetensors").stat().st_size for item in (full, half)]
    assert size[1] < 0.7 * size[0]
    for (name, a), b in zip(full.model().state_dict().items(), half.model().state_dict().values(), strict=True):
        assert b.dtype == torch.float32
        torch.testing.assert_close(a.to(getattr(torch, dtype)).float(), b, rtol=0, atol=0, msg=name)


def test_versions_count_up_and_none_is_overwritten(tmp_path: Path, save: Save) -> None:
    first = save(tmp_path)
    before = (first.path / "manifest.json").read_bytes()
    assert save(tmp_path, seed=1).reference == "tiny@2"
    (tmp_path / "tiny" / "notes").mkdir()
    (tmp_path / "tiny" / "3").write_text("not a model")
    assert save(tmp_path).reference == "tiny@4"
    assert (first.path / "manifest.json").read_bytes() == before
    assert resolve("tiny@1", tmp_path) == first.path
    assert resolve("tiny", tmp_path).name == "4"
    assert resolve(str(tmp_path / "tiny"), tmp_path / "other").name == "4", "the folder of its versions"


def test_the_same_model_gives_the_same_bytes(tmp_path: Path, save: Save) -> None:
    a, b = save(tmp_path / "a").path, save(tmp_path / "b").path
    for name in sorted(item.name for item in a.iterdir()):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name


def test_concurrent_savers_get_their_own_versions(tmp_path: Path, save: Save) -> None:
    start, found, failures = threading.Barrier(4), [], []

    def work() -> None:
        try:
            start.wait()
            found.append(save(tmp_path).reference)
        except ArtifactError as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert sorted(found) == ["tiny@1", "tiny@2", "tiny@3", "tiny@4"]
    for reference in found:
        assert load_artifact(reference, tmp_path).reference == reference
    assert [item.name for item in tmp_path.iterdir() if item.name.startswith(".")] == []


def test_a_version_taken_between_counting_and_renaming_is_stepped_over(
    tmp_path: Path, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    from geomformer.artifacts import store

    first, stale = save(tmp_path), iter([1, 2])
    monkeypatch.setattr(store, "_next_version", lambda root, name: next(stale))
    second = save(tmp_path, seed=5)
    assert second.reference == "tiny@2"
    assert "tiny@2" in (second.path / "README.md").read_text()
    assert load_artifact("tiny@1", tmp_path).manifest == first.manifest
    assert load_artifact("tiny@2", tmp_path).manifest == second.manifest


def test_a_failed_save_leaves_nothing(tmp_path: Path, save: Save) -> None:
    root = tmp_path / "models"
    config = save(tmp_path / "other").config
    model = build_model(config.model)
    with torch.no_grad():
        next(model.parameters())[0] = float("nan")
    with pytest.raises(ArtifactError, match=r"weight 'pairs\.0.*not finite"):
        save(root, model=model)
    with pytest.raises(ArtifactError, match="as 'int8'"):
        save(root, weights_dtype="int8")
    with pytest.raises(ArtifactError, match="'Xx' is no element"):
        save(root, elements={"Xx": 3})
    assert list(root.iterdir()) == []


def test_a_store_that_cannot_be_written_is_an_artifact_error(tmp_path: Path, save: Save) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot be saved in"):
        save(tmp_path / "file")


def test_weights_of_another_configuration_are_refused(tmp_path: Path, save: Save) -> None:
    config = save(tmp_path).config
    wider = build_model(config.model.model_copy(update={"ffn_dim": 8}))
    with pytest.raises(ArtifactError, match=r"has shape .* instead of"):
        save(tmp_path, model=wider)


def test_summaries_may_hold_numpy_numbers_and_nan(tmp_path: Path, save: Save) -> None:
    metrics = {"test": {"gap_mae_ev": np.float32(0.5), "n": np.int64(3), "bad": float("nan")}, "list": (1, Path("a"))}
    save(tmp_path, metrics=metrics)
    found = load_artifact("tiny", tmp_path).manifest.metrics
    assert found == {"test": {"gap_mae_ev": 0.5, "n": 3, "bad": None}, "list": [1, "a"]}


@pytest.mark.parametrize("name", ["../evil", "a/b", ".hidden", "..", "", "a b", "a@1", "a\n", "/abs"])
def test_names_cannot_leave_the_store(tmp_path: Path, save: Save, name: str) -> None:
    with pytest.raises(ArtifactError, match="is no name"):
        save(tmp_path / "models", name)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    "reference", ["../outside", "../outside@1", "tiny@../../outside", "tiny@0", "tiny@01", "tiny@"]
)
def test_references_cannot_leave_the_store(tmp_path: Path, save: Save, reference: str) -> None:
    save(tmp_path / "models")
    with pytest.raises(ArtifactError):
        resolve(reference, tmp_path / "models")


def test_unknown_names_list_what_exists_and_the_nearest(tmp_path: Path, save: Save) -> None:
    with pytest.raises(ArtifactError, match="no models yet"):
        resolve("tiny", tmp_path / "nowhere")
    save(tmp_path, "gap-small")
    with pytest.raises(ArtifactError, match=r"no model 'gap-smal' .*Did you mean 'gap-small'\? Models: gap-small@1"):
        resolve("gap-smal", tmp_path)
    with pytest.raises(ArtifactError, match=r"no model 'gap-small@7'.*Models: gap-small@1"):
        resolve("gap-small@7", tmp_path)
    with pytest.raises(ArtifactError, match="neither a model folder"):
        resolve(tmp_path / "missing", tmp_path)


def test_paths_win_over_names(tmp_path: Path, save: Save) -> None:
    path = save(tmp_path).path
    assert resolve(str(path), tmp_path / "other") == path
    assert load_artifact(path, tmp_path / "other").reference == "tiny@1"


def test_bundled_models_are_the_last_resort_and_the_default(
    tmp_path: Path, save: Save, bundled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "models"
    with pytest.raises(ArtifactError, match="no model 'gap-geomformer'"):
        resolve(None, store)
    shipped = save(bundled, locate.DEFAULT_MODEL)
    monkeypatch.setitem(pinned.PINNED, shipped.reference, pinned.pin_of(shipped.path))
    assert load_artifact(None, store).path == shipped.path
    assert load_artifact("gap-geomformer", store).path == shipped.path
    own = save(store, locate.DEFAULT_MODEL)
    assert own.reference == "gap-geomformer@2"
    assert load_artifact("gap-geomformer", store).path == own.path
    assert load_artifact("gap-geomformer@1", store).path == shipped.path
    assert load_artifact(None, store).path == shipped.path


def test_the_better_model_predicts_where_its_package_is_installed(
    tmp_path: Path, save: Save, bundled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, installed in ((locate.XTB_MODEL, True), (locate.DEFAULT_MODEL, False)):
        shipped = save(bundled, name)
        monkeypatch.setattr(xtb, "is_installed", lambda found=installed: found)
        assert locate.best_bundled() == shipped.path


def test_the_default_store_follows_the_environment(tmp_path: Path, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOMFORMER_MODELS", str(tmp_path / "there"))
    save(tmp_path / "there")
    assert load_artifact("tiny").reference == "tiny@1"
    monkeypatch.delenv("GEOMFORMER_MODELS")
    assert locate.default_root() == Path("models")


def test_a_moved_store_still_works(tmp_path: Path, save: Save) -> None:
    save(tmp_path / "a")
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert load_artifact("tiny", tmp_path / "b").model() is not None


def test_listing_models_needs_no_torch() -> None:
    code = "import sys, geomformer.artifacts.store as s; s.list_artifacts(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_save_refuses_targets_without_the_answer(tmp_path: Path, save: Save) -> None:
    artifact = save(tmp_path)
    config = artifact.config.model_copy(update={"task": artifact.config.task.model_copy(update={"answer": "energy"})})
    with pytest.raises(ArtifactError, match=r"'tiny' cannot be described: .*'energy' is none of the targets"):
        save_artifact(
            tmp_path,
            "tiny",
            artifact.model(),
            config,
            targets=artifact.manifest.targets,
            inputs=artifact.manifest.inputs,
            elements={},
            dataset={},
            training={},
            metrics={},
            selftest_batch=Batch(**load_batch(artifact.path)),
        )


def load_batch(path: Path) -> dict:
    from geomformer.artifacts.selftest import tensors_to_batch
    from geomformer.artifacts.weights import read_tensors

    return vars(tensors_to_batch(read_tensors(path / "selftest.safetensors"), path))
