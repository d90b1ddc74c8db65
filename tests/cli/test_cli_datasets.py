"""`geomformer datasets` on a real prepared dataset."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from geomformer_cli.app import app


def run(*words: str) -> Result:
    return CliRunner().invoke(app, words)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    (root / "in.csv").write_text("smiles,gap_ev\n" + "\n".join(f"{'C' * i},{i}" for i in range(1, 13)) + "\nxx,1\n")
    words = ("preprocess", "custom", str(root / "in.csv"), "--target", "gap_ev", "--conformers", "1", "--workers", "0")
    found = run(*words, "--data-root", str(root))
    assert found.exit_code == 0, found.stderr
    return root


def test_list(root: Path) -> None:
    found = run("datasets", "--data-root", str(root))
    assert found.exit_code == 0, found.stderr
    for text in ("pcqm4mv2", "OGB-LSC", "CC BY 4.0", "nbody", "1.6 GB"):
        assert text in found.stdout
    assert f"{root / 'prepared' / 'custom'}: train 10, valid 1, test 1" in found.stderr
    entries = {entry["dataset"]: entry for entry in json.loads(run("datasets", "--json").stdout)}
    assert entries["oc20"]["licence"] == "CC BY 4.0" and entries["nbody"]["download_bytes"] == 0


def test_show(root: Path) -> None:
    found = run("datasets", "show", "custom", "--data-root", str(root), "--rows", "2")
    assert found.exit_code == 0, found.stderr
    for text in ("train 10, valid 1, test 1", "1 of 13 input rows", "in.csv", "mean_abs_dev", "First rows of train"):
        assert text in found.stdout
    assert re.search(r"orbitals +extended Hückel theory", found.stdout)
    answer = json.loads(run("datasets", "show", str(root / "prepared" / "custom"), "--json", "--split", "test").stdout)
    assert len(answer["rows"]["test"]) == 1 and answer["targets"]["gap"]["unit"] == "ev"
    assert run("datasets", "show", "custom", "--data-root", str(root), "--split", "tets").exit_code == 3


def test_check(root: Path) -> None:
    folder = root / "prepared" / "custom"
    found = run("datasets", "check", str(folder))
    assert (found.exit_code, found.stdout) == (0, f"{folder}: ok\n")
    shard = folder / "train-00000.parquet"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    try:
        found = run("datasets", "check", str(folder))
    finally:
        shard.write_bytes(content)
    assert found.exit_code == 3
    assert "train-00000.parquet is not the file that the manifest lists" in found.stdout
    assert "Traceback" not in found.stderr


def test_options_go_behind_the_command(root: Path) -> None:
    for option in (["--json"], ["--data-root", str(root)]):
        found = run("datasets", *option, "check", "custom")
        assert found.exit_code == 2 and "behind the command" in found.stderr and option[0] in found.stderr


def test_a_manifest_without_statistics_is_shown(root: Path) -> None:
    folder = root / "prepared" / "custom"
    text = (folder / "manifest.json").read_text()
    kept = ("format_version", "dataset", "targets", "splits", "schemes")
    manifest = {key: value for key, value in json.loads(text).items() if key in kept}
    try:
        (folder / "manifest.json").write_text(json.dumps(manifest))
        found = run("datasets", "show", str(folder))
        assert found.exit_code == 0 and "atoms            not given" in found.stdout
        (folder / "manifest.json").write_text(json.dumps({**manifest, "splits": {}}))
        found = run("datasets", "show", str(folder))
        assert found.exit_code == 3 and "it has no split" in found.stderr
    finally:
        (folder / "manifest.json").write_text(text)


def test_preprocess_says_what_became_of_the_rows(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("smiles,gap_ev\nC,1\nCC,2\nCO,3\nxx,1\n")
    words = ("preprocess", "custom", str(tmp_path / "in.csv"), "--target", "gap_ev", "--conformers", "1")
    found = run(*words, "--workers", "0", "--out", str(tmp_path / "out"))
    assert found.exit_code == 0 and found.stdout == f"{tmp_path / 'out'}\n"
    assert "rejected: 1, see rejected.parquet" in found.stderr
    found = run("--quiet", *words, "--workers", "0", "--out", str(tmp_path / "quiet"))
    assert found.exit_code == 0 and not found.stderr
