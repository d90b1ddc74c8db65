from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from geomformer.artifacts.card import model_card
from geomformer.artifacts.export import export_artifact
from geomformer.artifacts.selftest import verify
from geomformer.artifacts.store import load_artifact
from geomformer.errors import ConfigError

Save = Callable[..., object]


def test_the_card_holds_what_a_user_must_know(tmp_path: Path, save: Save) -> None:
    artifact = save(tmp_path, card="Not for salts.")
    text = (artifact.path / "README.md").read_text()
    for part in (
        "# tiny@1\n",
        "| **gap** (what `predict` reports) | ev | B3LYP/6-31G* |",
        "- Hydrogens: not atoms of their own",
        "- Atoms per system: at most 64",
        "| test | gap_mae_ev | 0.25 |",
        "each: C 1,000, O 400, N 20.",
        "hence refused: Br 19.",
        "- splits / train: 1000",
        "## Where not to trust it\n\nNot for salts.\n",
        "geomformer predict FILE --model tiny@1 --out OUT",
    ):
        assert part in text


def test_the_card_invents_nothing(tmp_path: Path, save: Save) -> None:
    artifact = save(tmp_path, elements={}, metrics={}, training={}, dataset={})
    text = model_card(artifact.manifest, artifact.config)
    for heading in ("Errors", "Supported elements", "Data", "Training", "Where not"):
        assert heading not in text
    assert "## Licence\n\nMIT\n" in model_card(artifact.manifest, artifact.config, {"Licence": "MIT"})


def test_a_zip_unpacked_in_a_store_is_the_model(tmp_path: Path, save: Save) -> None:
    artifact = save(tmp_path / "a", domain=b"what it was trained on")
    path = export_artifact(artifact, tmp_path, "zip")
    assert path == tmp_path / "tiny-1.zip"
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "b")
    assert load_artifact("tiny@1", tmp_path / "b").manifest == artifact.manifest
    assert verify(tmp_path / "b" / "tiny" / "1") == []
    assert (tmp_path / "b" / "tiny" / "1" / "domain.safetensors").read_bytes() == b"what it was trained on"
    again = export_artifact(load_artifact("tiny", tmp_path / "b"), tmp_path / "sub" / "again.zip", "zip")
    assert again.read_bytes() == path.read_bytes()


def test_a_folder_export_holds_the_named_files_only(tmp_path: Path, save: Save) -> None:
    artifact = save(tmp_path / "a")
    (artifact.path / "notes.txt").write_text("mine")
    path = export_artifact(artifact, tmp_path / "out", "folder")
    assert verify(path) == []
    assert not (path / "notes.txt").exists()


def test_exports_overwrite_nothing_and_leave_nothing_behind(tmp_path: Path, save: Save) -> None:
    artifact = save(tmp_path / "a")
    taken = tmp_path / "taken.zip"
    taken.write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        export_artifact(artifact, taken, "zip")
    assert taken.read_text() == "mine"
    with pytest.raises(ConfigError, match="folder or zip, not as 'onnx'"):
        export_artifact(artifact, tmp_path / "x", "onnx")
    (artifact.path / "README.md").unlink()
    (tmp_path / "out").mkdir()
    for kind in ("zip", "folder"):
        with pytest.raises(ConfigError, match="cannot be written"):
            export_artifact(artifact, tmp_path / "out" / "new", kind)
    assert list((tmp_path / "out").iterdir()) == []
