"""Help is fast, imports nothing heavy, and shows examples; mistakes are answered with the nearest name."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from geomformer import __version__
from geomformer_cli.app import app

HEAVY = {
    *("torch", "rdkit", "numpy", "pyarrow", "lightning_fabric", "matplotlib", "ase", "ray", "yaml"),
    *("lmdb", "requests", "torchmetrics", "safetensors", "scipy", "pandas"),
}
COMMANDS = (
    "preprocess",
    "train",
    "evaluate",
    "ablate",
    "predict",
    "datasets",
    "datasets check",
    "datasets show",
    "models list",
    "models show",
    "models verify",
    "models combine",
    "models export",
    "config list",
    "config show",
    "benchmark model",
)
CPU_SECONDS = 0.5


def python(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, timeout=60)


def test_help_imports_nothing_heavy(environment: dict[str, str]) -> None:
    trace = python(environment, "-X", "importtime", "-m", "geomformer_cli", "--help").stderr
    imported = {line.split("|")[-1].strip() for line in trace.splitlines() if line.startswith("import time:")}
    assert "typer" in imported
    assert not imported & HEAVY


def test_help_of_every_command_imports_nothing_heavy(environment: dict[str, str]) -> None:
    program = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from geomformer_cli.app import app\n"
        f"for command in {COMMANDS!r}:\n"
        "    assert CliRunner().invoke(app, [*command.split(), '--help']).exit_code == 0, command\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)))\n"
    )
    found = python(environment, "-c", program)
    assert found.stdout.strip() == "[]", found.stderr


def test_help_is_fast(environment: dict[str, str]) -> None:
    best = float("inf")
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert python(environment, "-m", "geomformer_cli", "--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert best < CPU_SECONDS


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_for(command: str) -> None:
    found = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "120"})
    assert found.exit_code == 0
    if not command.endswith("list"):
        assert f"geomformer {command}" in found.stdout
    assert found.stdout.count("--help") == 1


def test_version() -> None:
    found = CliRunner().invoke(app, ["--version"])
    assert (found.exit_code, found.stdout) == (0, f"geomformer {__version__}\n")


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (["predict", "a.sdf", "--out", "b.csv", "--conformer", "2"], "--conformers"),
        (["train", "--tasks", "gap"], "--task"),
        (["preproces", "qm9"], "preprocess"),
        (["models", "lst"], "list"),
        (["--verbos"], "--verbose"),
    ],
)
def test_mistakes_name_the_nearest(words: list[str], nearest: str) -> None:
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 2
    assert nearest in found.stderr
    assert found.stdout == ""


def test_quiet_and_verbose_exclude_each_other() -> None:
    assert CliRunner().invoke(app, ["-q", "-v", "config", "list"]).exit_code == 2
