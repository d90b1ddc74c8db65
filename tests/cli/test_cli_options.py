"""All options of the command line: a new, renamed or dropped one is a decision, made here."""

from __future__ import annotations

from typing import Any

from typer.main import get_command

from geomformer_cli.app import app

HELP = ["--help", "-h"]
OPTIONS = {
    "geomformer": ["--help", "--install-completion", "--quiet", "--show-completion", "--verbose", "--version"],
    "geomformer preprocess": [
        "--all-windows",
        "--conformers",
        "--data-root",
        "--executor",
        "--help",
        "--hydrogens",
        "--id-column",
        "--isotropic-clip",
        "--level-of-theory",
        "--limit",
        "--molecule",
        "--no-hydrogens",
        "--no-use-geometry",
        "--num-particles",
        "--num-systems",
        "--orbitals",
        "--out",
        "--overwrite",
        "--raw",
        "--ray-address",
        "--seed",
        "--shard",
        "--size",
        "--smiles-column",
        "--split-column",
        "--split-scheme",
        "--target",
        "--time-reversed",
        "--use-geometry",
        "--workers",
        "DATASET",
        "FILES",
    ],
    "geomformer train": [
        "--architecture",
        "--config",
        "--data",
        "--data-root",
        "--device",
        "--devices",
        "--help",
        "--init",
        "--name",
        "--num-nodes",
        "--out",
        "--preset",
        "--resume",
        "--sample",
        "--seed",
        "--set",
        "--task",
    ],
    "geomformer ablate": [
        "--budget",
        "--data",
        "--data-root",
        "--device",
        "--executor",
        "--help",
        "--json",
        "--list",
        "--out",
        "--quick",
        "--ray-address",
        "--seeds",
        "--set",
        "--variant",
        "--workers",
        "PLAN",
    ],
    "geomformer evaluate": [
        "--conformers",
        "--data",
        "--data-root",
        "--device",
        "--help",
        "--json",
        "--limit",
        "--model",
        "--out",
        "--split",
        "--split-scheme",
        "--submission",
        "--task",
    ],
    "geomformer predict": [
        "--adsorbate",
        "--conformers",
        "--device",
        "--geometry",
        "--help",
        "--id-column",
        "--json",
        "--limit",
        "--model",
        "--out",
        "--smiles-column",
        "--workers",
        "FILES",
    ],
    "geomformer datasets": ["--data-root", "--help", "--json"],
    "geomformer datasets check": ["--data-root", "--help", "--json", "FOLDER"],
    "geomformer datasets show": ["--data-root", "--help", "--json", "--rows", "--split", "FOLDER"],
    "geomformer models": ["--help"],
    "geomformer models list": ["--help", "--json"],
    "geomformer models show": ["--help", "--json", "MODEL"],
    "geomformer models verify": ["--help", "--json", "MODELS"],
    "geomformer models combine": ["--help", "--name", "MODELS"],
    "geomformer models export": ["--format", "--help", "--out", "MODEL"],
    "geomformer config": ["--help"],
    "geomformer config list": ["--help", "--json"],
    "geomformer config show": ["--help", "--json", "--set", "PRESET"],
    "geomformer benchmark": ["--help"],
    "geomformer benchmark model": [
        "--architecture",
        "--atoms",
        "--device",
        "--dtype",
        "--help",
        "--json",
        "--preset",
        "--repeats",
        "--systems",
    ],
}
SHORT = {"geomformer": ["-h", "-q", "-v"]}


def commands(command: Any, name: str = "geomformer") -> dict[str, Any]:
    found = {name: command}
    for verb, child in getattr(command, "commands", {}).items():
        found |= commands(child, f"{name} {verb}")
    return found


def words(command: Any) -> list[str]:
    own = [word for item in command.params for word in names(item)]
    return [*own, *HELP]


def names(parameter: Any) -> list[str]:
    if parameter.param_type_name == "argument":
        return [parameter.name.upper()]
    return [*parameter.opts, *parameter.secondary_opts]


def test_the_options_are_these() -> None:
    found = {name: words(command) for name, command in commands(get_command(app)).items()}
    long = {name: sorted({word for word in items if not is_short(word)}) for name, items in found.items()}
    assert long == OPTIONS
    short = {name: sorted({word for word in items if is_short(word)}) for name, items in found.items()}
    assert short == {name: SHORT.get(name, ["-h"]) for name in OPTIONS}


def is_short(word: str) -> bool:
    return word.startswith("-") and not word.startswith("--")


def test_options_are_kebab_case_and_explained() -> None:
    for name, command in commands(get_command(app)).items():
        assert command.help, f"{name} has no help"
        for parameter in command.params:
            assert parameter.help, f"{name}: {parameter.name} has no help"
            assert "_" not in "".join(parameter.opts) or parameter.param_type_name == "argument"
