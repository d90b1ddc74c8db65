"""What a run of an ablation left behind, one JSON file each."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from geomformer.config.load import to_yaml
from geomformer.config.run import RunConfig
from geomformer.errors import DataError
from geomformer.files import write_atomic

FORMAT_VERSION = 1
RESULTS = "results"


@dataclass(frozen=True)
class Result:
    """A finished run, or one that failed.

    Attributes:
        variant, seed: which run.
        status: "done", or "failed" with its `reason`.
        metrics: by split, keys as `evaluate --json` gives them.
        parameters, steps: of the network and of its training.
        seconds: in training steps, validation not counted; a run that was interrupted counts as one that was not.
        model: NAME@VERSION in the folder of models.
        config, data: sha256 of the configuration and of the manifest of the dataset.
        threads, device: that it ran on.
        software: versions.
        exit_code: that a command would have ended with which failed for this reason.
    """

    variant: str
    seed: int
    status: Literal["done", "failed"]
    reason: str = ""
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    parameters: int | None = None
    steps: int | None = None
    seconds: float | None = None
    model: str = ""
    config: str = ""
    data: str = ""
    threads: int = 1
    device: str = ""
    software: dict[str, str] = field(default_factory=dict)
    exit_code: int = 0

    @property
    def name(self) -> str:
        return run_name(self.variant, self.seed)

    @property
    def done(self) -> bool:
        return self.status == "done"

    def value(self, metric: str) -> float | None:
        """A metric by SPLIT/KEY; None where the run has not measured it."""
        split, _, key = metric.partition("/")
        return self.metrics.get(split, {}).get(key)

    def covers(self, splits: Iterable[str]) -> bool:
        """Whether the run is finished and was evaluated on all these splits."""
        return self.done and set(splits) <= self.metrics.keys()

    def write(self, out: Path) -> None:
        """Writes OUT/results/VARIANT-sSEED.json."""
        values = {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}
        text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
        write_atomic(result_path(out, self.variant, self.seed), text, shared=True)


def run_name(variant: str, seed: int) -> str:
    """Name of a run: that of its folder, of its result and of its model."""
    return f"{variant}-s{seed}"


def result_path(out: Path, variant: str, seed: int) -> Path:
    return out / RESULTS / f"{run_name(variant, seed)}.json"


def read_result(path: Path) -> Result | None:
    """Reads a result; None if there is none.

    Raises:
        DataError: the file is damaged, or of a newer version.
    """
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf8"))
        found = values.pop("format_version")
        if found > FORMAT_VERSION:
            raise DataError(f"{path} is of format {found}, newer than {FORMAT_VERSION}.", "Update geomformer.")
        return Result(**values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{path} is no result of a run: {error}.", "Delete it; the run is then evaluated again."
        ) from error


def read_results(out: Path, variants: Iterable[str]) -> dict[str, list[Result]]:
    """All results of the variants that a folder holds, by variant, seeds rising."""
    found = {}
    for variant in variants:
        paths = (out / RESULTS).glob(f"{variant}-s*.json")
        results = [result for path in paths if (result := read_result(path)) and result.variant == variant]
        found[variant] = sorted(results, key=lambda result: result.seed)
    return found


def fingerprint(config: RunConfig) -> str:
    """sha256 of a resolved configuration, seed included."""
    return hashlib.sha256(to_yaml(config).encode()).hexdigest()


def training_seconds(run: Path) -> float:
    """Time that the training steps of a run took, from its timing.jsonl."""
    seconds, last = 0.0, 0
    for line in (run / "timing.jsonl").read_text(encoding="utf8").splitlines():
        entry: Mapping[str, Any] = json.loads(line)
        seconds += (entry["step"] - last) * entry["step_seconds"]
        last = entry["step"]
    return seconds
