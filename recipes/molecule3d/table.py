"""Prints evaluations of the random and the scaffold split as one table, laid out like Table 5 of the paper.

    python recipes/molecule3d/table.py runs/molecule3d.json --data data/prepared/molecule3d

The file is what `geomformer evaluate --model OF_RANDOM --model OF_SCAFFOLD --split valid --split test --json` prints.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from geomformer.prepared.dataset import PreparedDataset

TARGET = "gap"
SCHEMES, SPLITS = ("random", "scaffold"), {"valid": "validation", "test": "test"}
CELLS = tuple(itertools.product(SCHEMES, SPLITS))

Errors = Mapping[tuple[str, str], float]
"""Mean absolute error (eV) by scheme and split."""


def evaluated(path: Path) -> Errors:
    errors = {}
    for summary in json.loads(path.read_text(encoding="utf8")):
        for split, values in summary["splits"].items():
            errors[summary["split_scheme"], split] = values[f"{TARGET}_mae_ev"]
    if missing := [" ".join(cell) for cell in CELLS if cell not in errors]:
        raise SystemExit(f"no evaluation of {', '.join(missing)} in {path}")
    return errors


def constant(data: Path) -> Errors:
    """The errors of the mean of the train labels."""
    errors = {}
    for scheme in SCHEMES:
        dataset = PreparedDataset(data, scheme)
        mean = np.nanmean(dataset.split("train").target(TARGET))
        for split in SPLITS:
            errors[scheme, split] = float(np.nanmean(np.abs(dataset.split(split).target(TARGET) - mean)))
    return errors


def line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("evaluations", type=Path)
    parser.add_argument("--data", type=Path, default=None, help="prepared dataset, to add the mean of its train labels")
    parser.add_argument("--method", default="GeoMFormer")
    arguments = parser.parse_args()
    rows = {} if arguments.data is None else {"mean of the train labels": constant(arguments.data)}
    rows[arguments.method] = evaluated(arguments.evaluations)
    print(line(["MAE, eV", *(f"{scheme}, {SPLITS[split]}" for scheme, split in CELLS)]))
    print("|---" * (1 + len(CELLS)) + "|")
    for method, errors in rows.items():
        print(line([method, *(f"{errors[cell]:.4f}" for cell in CELLS)]))


if __name__ == "__main__":
    main()
