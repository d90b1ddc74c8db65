"""What other labels are worth to a gap model: a second level of theory, and the predictions of an ensemble.

    python recipes/gap/labels.py --data data/prepared/gap-pubchemqc --test data/prepared/gap-pcqm4mv2-valid \
        --steps 800 --seeds 3 --out runs/gap-labels

Small networks, all trained alike (`variants.py`). Those of "one level" teach: "distilled" learns from the mean of their
predictions on its own training rows instead of from the labels, "half distilled" from the mean of both. An interrupted
series is continued by the same command.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from variants import CONFORMERS, folder_of, measured, print_table
from yardstick import read_column

from geomformer import api
from geomformer.prepared.dataset import PreparedDataset
from geomformer.prepared.storage import DatasetDescription, PreparedWriter, Row
from geomformer.records import Record

TARGET, OTHER = "gap", "gap_pm6"
TEACHER = "one level"
LEVELS = f'task.levels={{{TARGET}: "B3LYP/6-31G*", {OTHER}: "B3LYP/6-31G*//PM6"}}'
TWO_HEADS = (f"task.targets=[{TARGET},{OTHER}]", f"task.answer={TARGET}", LEVELS)

Label = Callable[[Record], float]
"""The gap that a row is to have; NaN leaves it out."""


def first_level(record: Record) -> float:
    return record.targets[TARGET]


def either_level(record: Record) -> float:
    gap = record.targets[TARGET]
    return record.targets[OTHER] if np.isnan(gap) else gap


def relabelled(data: PreparedDataset, out: Path, train: Label, others: Label = first_level) -> Path:
    """A copy of a dataset with other gaps in the train split and in the others."""
    rows: list[Row] = []
    for split in data.splits:
        records = data.split(split)
        label = train if split == "train" else others
        for record in (records[row] for row in range(len(records))):
            gap = label(record)
            if np.isfinite(gap):
                changed = dataclasses.replace(record, targets={TARGET: gap})
                rows.append(Row(len(rows), record.id, split, changed))
    labels = np.array([row.record.targets[TARGET] for row in rows if row.record])
    options = {"of": data.fingerprint, "labels": hashlib.sha256(labels.tobytes()).hexdigest()}
    writer = PreparedWriter(out, DatasetDescription(out.name, {TARGET: "ev"}, options=options))
    if writer.complete:
        return out
    for number, start in enumerate(range(0, len(rows), writer.shard_rows)):
        if writer.wants(number):
            writer.write_shard(number, rows[start : start + writer.shard_rows])
    return writer.finish(len(rows))


def mean_prediction(tables: Sequence[Path]) -> dict[str, float]:
    """By id, over evaluations of several models."""
    found = [read_column(table, "id", f"pred_{TARGET}_ev") for table in tables]
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


def ensemble_errors(out: Path, seeds: Sequence[int]) -> list[float]:
    """Test errors by number of conformers of the mean prediction of the teachers."""
    errors = []
    for count in CONFORMERS:
        tables = [folder_of(out, TEACHER, seed) / f"conformers-{count}" / f"test_{TARGET}.csv" for seed in seeds]
        labels = read_column(tables[0], "id", f"{TARGET}_ev")
        errors.append(float(np.mean([abs(value - labels[name]) for name, value in mean_prediction(tables).items()])))
    return errors


def taught(data: Path, out: Path, seeds: Sequence[int]) -> dict[str, float]:
    """What the teachers say of their training rows, by id."""
    tables = []
    for seed in seeds:
        folder = folder_of(out, TEACHER, seed)
        tables.append(folder / "train" / f"train_{TARGET}.csv")
        if not tables[-1].exists():
            model = str(folder / "models" / "variant")
            api.evaluate(data, model=model, splits=["train"], conformers=1, out=tables[-1].parent)
    return mean_prediction(tables)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="prepared dataset with both levels of theory")
    parser.add_argument("--test", type=Path, required=True, help="prepared dataset with a test split")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    seeds = range(1, arguments.seeds + 1)
    data, copies = PreparedDataset(arguments.data), arguments.out / "data"
    errors: dict[str, list[list[float]]] = {}

    def compare(name: str, changes: tuple[str, ...]) -> None:
        errors[name] = [measured(arguments, name, changes, seed) for seed in seeds]

    one = relabelled(data, copies / "one-level", first_level)
    compare(TEACHER, (f"data.dataset={one}",))
    both = relabelled(data, copies / "either-level", either_level, either_level)
    compare("two levels, one head", (f"data.dataset={both}",))
    compare("two levels, a head each", TWO_HEADS)
    errors["mean prediction of the one-level models"] = [ensemble_errors(arguments.out, seeds)]
    answers = taught(one, arguments.out, seeds)
    for name, share in (("distilled", 1.0), ("half distilled", 0.5)):
        soft = relabelled(
            PreparedDataset(one),
            copies / name.replace(" ", "-"),
            lambda record, share=share: share * answers[record.id] + (1 - share) * record.targets[TARGET],
        )
        compare(name, (f"data.dataset={soft}",))
    print_table(errors)


if __name__ == "__main__":
    main()
