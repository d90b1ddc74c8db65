"""What an artifact says about itself: `manifest.json`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from geomformer.config.network import Orbitals
from geomformer.config.section import Section
from geomformer.elements import ATOMIC_NUMBERS

MIN_MOLECULES_PER_ELEMENT = 20
"""An element counts as supported when the model saw it in at least this many training molecules."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""Names of artifacts and of the files in them: no separators and no leading dot, so that none leaves its folder."""


class Target(Section):
    """One predicted quantity: prediction = mean + scale * network output, in `unit`."""

    name: str
    unit: str
    level_of_theory: str | None = None
    mean: float = 0.0
    scale: float = 1.0


class Inputs(Section):
    """What the model was trained on; `predict` and `evaluate` refuse anything else."""

    hydrogens: bool = Field(description="hydrogens are atoms of their own")
    geometry: Literal["conformer", "reference", "given"] = Field(
        description="generated conformers, the reference geometry, or a structure as it is given"
    )
    features: bool = Field(description="reads the 2D graph")
    orbitals: Orbitals = Field("none", description="theory of the frontier orbitals it reads")
    periodic: bool = Field(description="reads a cell")
    max_atoms: int | None = Field(None, ge=1, description="largest system it takes; null for any")


class Manifest(Section):
    """Everything about a trained model that is not weights or configuration.

    Attributes:
        format_version: of the artifact folder, see `artifacts.upgrade`.
        answer: the target that `predict` reports; None for models without scalar targets.
        elements: number of training molecules per element symbol.
        dataset: name, fingerprint, rows per split, level of theory and the like.
        files: sha256 of every other file of the folder.
    """

    format_version: int
    name: str
    version: int = Field(ge=1)
    task: str
    architecture: str
    targets: tuple[Target, ...]
    answer: str | None = None
    inputs: Inputs
    elements: dict[str, int]
    dataset: dict[str, Any]
    training: dict[str, Any]
    metrics: dict[str, Any]
    software: dict[str, str]
    files: dict[str, str]

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError("a model's name holds letters, digits, '.', '_' and '-' only and starts with no sign")
        return name

    @field_validator("files")
    @classmethod
    def _plain_files(cls, files: dict[str, str]) -> dict[str, str]:
        for name in files:
            if not NAME.fullmatch(name):
                raise ValueError(f"'{name}' is not the plain name of a file")
        return files

    @field_validator("elements")
    @classmethod
    def _known_elements(cls, elements: dict[str, int]) -> dict[str, int]:
        for symbol in elements:
            if symbol not in ATOMIC_NUMBERS:
                raise ValueError(f"'{symbol}' is no element symbol")
        return elements

    @model_validator(mode="after")
    def _answer_is_a_target(self) -> Manifest:
        if self.answer is not None and self.answer not in [target.name for target in self.targets]:
            raise ValueError(f"answer '{self.answer}' is none of the targets")
        return self

    @property
    def reference(self) -> str:
        return f"{self.name}@{self.version}"

    def target(self, name: str) -> Target:
        """Returns the target of that name (KeyError without)."""
        return {target.name: target for target in self.targets}[name]

    def supported_elements(self) -> set[int]:
        """Atomic numbers that at least `MIN_MOLECULES_PER_ELEMENT` training molecules had."""
        return {ATOMIC_NUMBERS[symbol] for symbol, count in self.elements.items() if count >= MIN_MOLECULES_PER_ELEMENT}


def plain(value: Any) -> Any:
    """Turns a summary into what JSON can hold: numpy scalars and 0-d tensors to numbers, paths to text, numbers that
    are not finite to null. A long training must not end in a file that cannot be written.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        return [plain(item) for item in items]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
