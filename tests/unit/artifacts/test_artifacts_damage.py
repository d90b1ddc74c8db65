from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from geomformer.artifacts import pinned, upgrade
from geomformer.artifacts.store import list_artifacts, load_artifact
from geomformer.errors import ArtifactError

Save = Callable[..., object]


def edit_manifest(path: Path, **changes: object) -> None:
    file = path / "manifest.json"
    raw = json.loads(file.read_text())
    for key, value in changes.items():
        if value is None:
            del raw[key]
        else:
            raw[key] = value
    file.write_text(json.dumps(raw))


@pytest.mark.parametrize(
    "file", ["model.safetensors", "config.yaml", "README.md", "selftest.safetensors", "domain.safetensors"]
)
def test_missing_and_changed_files_are_named(tmp_path: Path, save: Save, file: str) -> None:
    path = save(tmp_path, domain=b"what it was trained on").path
    data = bytearray((path / file).read_bytes())
    data[-1] ^= 1
    (path / file).write_bytes(data)
    with pytest.raises(ArtifactError, match=f"{file} is damaged or was changed") as caught:
        load_artifact("tiny", tmp_path)
    assert caught.value.exit_code == 4
    (path / file).unlink()
    with pytest.raises(ArtifactError, match=f"{file} is missing"):
        load_artifact("tiny", tmp_path)


def test_truncated_weights_are_an_artifact_error(tmp_path: Path, save: Save) -> None:
    artifact = save(tmp_path)
    file = artifact.path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=r"model\.safetensors is damaged"):
        load_artifact("tiny", tmp_path)
    with pytest.raises(ArtifactError, match=r"model\.safetensors cannot be read"):
        artifact.model()


def test_wrong_keys_in_the_weights_are_named(tmp_path: Path, save: Save) -> None:
    from safetensors.torch import load_file, save_file

    artifact = save(tmp_path)
    file = artifact.path / "model.safetensors"
    tensors = load_file(file)
    name = next(iter(tensors))
    tensors["stranger"] = tensors.pop(name)
    save_file(tensors, file)
    with pytest.raises(ArtifactError, match="stranger is not expected") as caught:
        artifact.model()
    assert f"{name} is missing" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": None}, "targets: Field required"),
        ({"surprise": 1}, "surprise: Extra inputs"),
        ({"name": "../x"}, "name: a model's name"),
        ({"files": {"../../secret": "0"}}, "not the plain name of a file"),
        ({"files": {"model.safetensors": "0"}}, r"lacks the checksum of config\.yaml"),
        ({"answer": "energy"}, "none of the targets"),
        ({"format_version": None}, "expected an integer 'format_version', found None"),
        ({"format_version": 0}, "format 0 is unknown"),
        ({"format_version": 2}, r"newer geomformer \(format 2, this one reads up to 1\): update geomformer"),
    ],
)
def test_a_wrong_manifest_says_which_key(tmp_path: Path, save: Save, changes: dict[str, object], message: str) -> None:
    edit_manifest(save(tmp_path).path, **changes)
    with pytest.raises(ArtifactError, match=message):
        load_artifact("tiny", tmp_path)


def test_a_manifest_that_is_no_json_is_an_artifact_error(tmp_path: Path, save: Save) -> None:
    file = save(tmp_path).path / "manifest.json"
    file.write_bytes(b"\xff{")
    with pytest.raises(ArtifactError, match=r"manifest\.json cannot be read"):
        load_artifact("tiny", tmp_path)
    file.write_text("[]")
    with pytest.raises(ArtifactError, match="expected a JSON object, found list"):
        load_artifact("tiny", tmp_path)


def test_older_formats_climb_the_ladder(tmp_path: Path, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(raw: dict) -> dict:
        raw["targets"] = [{"name": raw.pop("target"), "unit": "ev"}]
        return raw

    monkeypatch.setitem(upgrade.UPGRADES, 0, step)
    path = save(tmp_path).path
    edit_manifest(path, format_version=0, targets=None, target="gap")
    manifest = load_artifact("tiny", tmp_path).manifest
    assert manifest.format_version == upgrade.FORMAT_VERSION
    assert [target.name for target in manifest.targets] == ["gap"]


def test_bundled_models_must_match_their_pin(
    tmp_path: Path, save: Save, bundled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(bundled, "gap-geomformer").path
    with pytest.raises(ArtifactError, match="has no checksum in this version"):
        load_artifact("gap-geomformer", tmp_path)
    monkeypatch.setitem(pinned.PINNED, "gap-geomformer@1", pinned.pin_of(path))
    load_artifact("gap-geomformer", tmp_path)
    edit_manifest(path, training={"steps": 11})
    with pytest.raises(ArtifactError, match="not the one this version was released with"):
        load_artifact(path, tmp_path)


def test_listing_shows_broken_models_with_their_problem(tmp_path: Path, save: Save, bundled: Path) -> None:
    root = tmp_path / "models"
    assert list_artifacts(root) == []
    for _ in range(3):
        save(root)
    (root / "tiny" / "2" / "model.safetensors").unlink()
    (root / "tiny" / "3" / "manifest.json").write_text("{")
    save(bundled, "gap-geomformer")
    found = list_artifacts(root)
    assert [(item.reference, item.source) for item in found] == [
        ("tiny@1", "local"),
        ("tiny@2", "local"),
        ("tiny@3", "local"),
        ("gap-geomformer@1", "bundled"),
    ]
    assert found[0].problem is None
    assert found[0].manifest is not None
    assert found[0].manifest.supported_elements() == {6, 7, 8}
    assert found[1].problem == "model.safetensors missing"
    assert found[2].manifest is None
    assert "manifest.json cannot be read" in (found[2].problem or "")
    assert "no checksum" in (found[3].problem or "")
