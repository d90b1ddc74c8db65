"""Error of the gap against training rows and against parameters: what more data, or a larger model, would buy.

    python recipes/gap/learning_curve.py --data data/prepared/gap-alone --test data/prepared/gap-pcqm4mv2-valid \
        --minutes 32 --out runs/learning-curve --plot docs/learning_curve.png

The networks read the frontier orbitals that the data were prepared with and have no geometry targets, as those of the
shipped models. All runs take the same number of optimiser steps, so that they differ in data or in width and in
nothing else, and each is tested with its best weights on the valid split: with fixed epochs the small sets would stop
before they have learnt, without a choice of weights they would be tested after they have overfitted. Whatever the
largest sets would still gain from more steps is left out, so what the fit says of more data is too little rather than
too much.

The steps follow from --minutes and the measured time of a step. Every finished run is a row of OUT/learning_curve.csv;
the same command continues an interrupted series with the steps it was begun with, and draws the plot at the end.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import shutil
import tempfile
import time
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import torch
from learning_curve_plot import Finished, plot, read_table
from variants import NO_GEOMETRY

from geomformer import api
from geomformer.config.load import load_config
from geomformer.config.run import RunConfig
from geomformer.files import write_atomic
from geomformer.prepared.dataset import PreparedDataset
from geomformer.prepared.split import PreparedSplit
from geomformer.training import run

TARGET = "gap"
BATCH, RATE = 32, 2e-3
VALIDATIONS = 4
TIMED_STEPS, WARM_STEPS = 30, 10
FORWARD_SHARE = 1 / 3
"""Time of a forward pass over that of a step, per conformer."""


class FirstRows(PreparedDataset):
    """A prepared dataset whose splits are cut to their first rows with a label, and whose statistics are theirs.

    Attributes:
        limits: rows by split; all labelled ones of a split that is not named.
        folder: where the row numbers are kept.
    """

    def __init__(self, path: Path, limits: dict[str, int], folder: Path) -> None:
        super().__init__(path)
        self.limits, self.folder = limits, folder
        labels = self.split("train").target(TARGET)
        known = self.manifest["targets"][TARGET] | {"mean": float(labels.mean()), "std": float(labels.std())}
        self.manifest = {**self.manifest, "targets": {**self.manifest["targets"], TARGET: known}}

    def split(self, name: str) -> PreparedSplit:
        whole = super().split(name)
        rows = np.flatnonzero(np.isfinite(whole.target(TARGET)))[: self.limits.get(name)]
        if whole.rows_path is not None:
            rows = np.load(whole.rows_path)[rows]
        file = self.folder / f"{name}-{len(rows)}.npy"
        if not file.exists():
            np.save(file, rows)
        return PreparedSplit(whole.path, name, file)


def configuration(orbitals: str, layers: int, width: int, seed: int, steps: int, conformers: int) -> RunConfig:
    changes = {
        "task.targets": f"[{TARGET}]",
        "model.orbitals": orbitals,
        "model.num_layers": layers,
        "model.embed_dim": width,
        "model.ffn_dim": width,
        "model.num_heads": max(1, width // 16),
        "data.batch_size": BATCH,
        "data.valid_conformers": conformers,
        "optim.learning_rate": RATE,
        "train.max_steps": steps,
        "train.validate_every": max(1, steps // VALIDATIONS),
        "train.log_every": WARM_STEPS,
        "train.seed": seed,
    }
    return load_config("gap-small", [*(f"{key}={value}" for key, value in changes.items()), *NO_GEOMETRY])


class Series:
    """All runs of one learning curve, and the table of those that are finished."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.data, self.test, self.out = arguments.data, arguments.test, arguments.out
        self.limit, self.conformers, self.layers = arguments.limit, arguments.conformers, arguments.layers
        names = ("data", "test", "layers", "limit", "conformers")
        self.settings = {name: str(getattr(arguments, name)) for name in names}
        self.table = self.out / "learning_curve.csv"
        self.out.mkdir(parents=True, exist_ok=True)
        whole = FirstRows(self.data, {}, self.out)
        self.orbitals, labelled = whole.orbitals, len(whole.split("train"))
        sizes = sorted({min(size, labelled) for size in arguments.rows})
        largest, middle = sizes[-1], sorted(arguments.widths)[len(arguments.widths) // 2]
        shapes = [(size, middle) for size in sizes]
        shapes += [(largest, width) for width in sorted(arguments.widths) if width != middle]
        self.runs = [(*shape, seed) for seed, shape in itertools.product(range(1, arguments.seeds + 1), shapes)]

    def steps_for(self, minutes: float) -> int:
        """Steps per run, so that all runs take so long; those that the series was begun with, if it was."""
        file = self.out / "settings.json"
        if file.exists():
            known = json.loads(file.read_text(encoding="utf8"))
            if {**self.settings, "steps": known["steps"]} != known:
                raise SystemExit(f"{self.out} holds a series with other settings, {known}: choose another --out")
            return int(known["steps"])
        seconds = {width: self.step_seconds(width) for width in {width for _, width, _ in self.runs}}
        valid = len(FirstRows(self.data, {}, self.out).split("valid"))
        # The last step is validated once more with the best weights.
        conformers = (self.limit + (VALIDATIONS + 1) * valid) * self.conformers
        evaluation = FORWARD_SHARE * conformers / BATCH
        steps = round(60 * minutes / sum(seconds[width] for _, width, _ in self.runs) - evaluation)
        if steps < VALIDATIONS:
            raise SystemExit(f"{len(self.runs)} runs do not fit into {minutes:g} minutes: allow more, or fewer seeds")
        write_atomic(file, json.dumps({**self.settings, "steps": steps}, indent=2) + "\n")
        return steps

    def step_seconds(self, width: int) -> float:
        """Seconds of a training step, loading included."""
        with tempfile.TemporaryDirectory() as name:
            dataset = FirstRows(self.data, {"train": 1000, "valid": 8}, Path(name))
            run.train(
                configuration(self.orbitals, self.layers, width, 1, TIMED_STEPS, 1),
                dataset,
                out=Path(name) / "run",
                models=Path(name) / "models",
                device="cpu",
            )
            lines = (Path(name) / "run" / "timing.jsonl").read_text(encoding="utf8").splitlines()
        return float(np.mean([json.loads(line)["step_seconds"] for line in lines[1:]]))

    def run(self, rows: int, width: int, seed: int, steps: int) -> Finished:
        name = f"rows{rows}-width{width}-seed{seed}"
        folder, models = self.out / "runs" / name, self.out / "models"
        shutil.rmtree(folder, ignore_errors=True)
        begun = time.monotonic()
        config = configuration(self.orbitals, self.layers, width, seed, steps, self.conformers)
        dataset = FirstRows(self.data, {"train": rows}, self.out)
        result = run.train(config, dataset, out=folder, models=models, name=name, device="cpu")
        summary = api.evaluate(
            self.test,
            model=str(result.path),
            splits=("test",),
            limit=self.limit,
            conformers=self.conformers,
            device="cpu",
        )
        key = f"{TARGET}_mae_ev"
        manifest = json.loads((result.path / "manifest.json").read_text(encoding="utf8"))
        return Finished(
            rows=rows,
            width=width,
            seed=seed,
            parameters=manifest["training"]["parameters"],
            steps=steps,
            valid_mae_ev=round(result.metrics[key], 5),
            test_mae_ev=round(summary["splits"]["test"][key], 5),
            seconds=round(time.monotonic() - begun, 1),
        )

    def append(self, finished: Finished) -> None:
        new = not self.table.exists()
        with self.table.open("a", newline="", encoding="utf8") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Finished)], lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(asdict(finished))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="prepared dataset with train and valid splits")
    parser.add_argument("--test", type=Path, required=True, help="prepared dataset with a test split")
    parser.add_argument("--out", type=Path, default=Path("runs/learning-curve"), help="folder of runs and table")
    parser.add_argument("--plot", type=Path, default=Path("docs/learning_curve.png"))
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 4000, 16000])
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128], help="the middle one meets all rows")
    parser.add_argument("--layers", type=int, default=2, help="few, so that the time goes into passes over the data")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=20.0, help="for all runs together")
    parser.add_argument("--limit", type=int, default=2000, help="test molecules")
    parser.add_argument("--conformers", type=int, default=2, help="averaged in validation and test")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    series = Series(arguments)
    steps = series.steps_for(arguments.minutes)
    done = {(row.rows, row.width, row.seed) for row in read_table(series.table)}
    for number, (rows, width, seed) in enumerate(series.runs, 1):
        if (rows, width, seed) in done:
            continue
        finished = series.run(rows, width, seed, steps)
        series.append(finished)
        print(f"{number} of {len(series.runs)}: {finished}", flush=True)
    plot(arguments.plot, read_table(series.table))
    print(arguments.plot)


if __name__ == "__main__":
    main()
