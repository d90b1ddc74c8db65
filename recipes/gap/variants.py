"""What the parts of the gap recipe are worth: small networks, one change each, over seeds.

    python recipes/gap/variants.py --data data/prepared/gap-alone --test data/prepared/gap-pcqm4mv2-valid \
        --out runs/gap-variants
    python recipes/gap/variants.py --data data/prepared/gap-alone-xtb --test data/prepared/gap-pcqm4mv2-valid-xtb \
        --out runs/gap-variants-xtb --only "frontier orbitals"

Every variant trains on the rows at the level of PCQM4Mv2 alone, with the same number of steps, and is tested on 5,107
validation rows of PCQM4Mv2, with one and with four conformers. Runs that are there are not repeated, so that an
interrupted table continues. Printed are mean and standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from geomformer import api
from geomformer.config.load import load_config
from geomformer.files import write_atomic

SIZE = (
    *("model.num_layers=3", "model.embed_dim=64", "model.ffn_dim=64", "model.num_heads=4", "model.num_kernels=48"),
    *('task.levels={gap: "B3LYP/6-31G*"}', "data.batch_size=64", "data.batch_atoms=2048", "data.valid_conformers=2"),
    *("optim.learning_rate=1.5e-3", "train.precision=bf16-mixed", "train.ema_decay=0.995"),
)
NO_GEOMETRY = (
    *("task.position_weight=[0,0]", "task.distance_weight=[0,0]"),
    *("task.reference_probability=0", "task.mixture_probability=0"),
)
ORBITALS = "frontier orbitals"
VARIANTS: dict[str, tuple[str, ...]] = {
    "as it is": (),
    ORBITALS: (),  # by the theory that the data were prepared with
    "no 2D graph": ("model.atom_features=false", "model.bond_encoding=false", "model.path_encoding=false"),
    "mean instead of attention pooling": ("model.pooling=mean",),
    "no average of the weights": ("train.ema_decay=0",),
    "no geometry targets": NO_GEOMETRY,
    "twice the dropout, weight decay": ("model.hidden_dropout=0.2", "optim.weight_decay=0.02"),
}
CONFORMERS = (1, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="prepared dataset with train and valid splits")
    parser.add_argument("--test", required=True, help="prepared dataset with a test split")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=[*VARIANTS], help="one variant alone")
    arguments = parser.parse_args()
    variants = VARIANTS | {ORBITALS: (f"model.orbitals={api.open_dataset(arguments.data).orbitals}",)}
    if arguments.only:
        variants = {arguments.only: variants[arguments.only]}
    errors: dict[str, list[list[float]]] = {name: [] for name in variants}
    for seed in range(1, arguments.seeds + 1):  # all variants with one seed first: a table that is cut off is fair
        for name, changes in variants.items():
            errors[name].append(measured(arguments, name, changes, seed))
    print_table(errors)


def print_table(errors: Mapping[str, Sequence[Sequence[float]]]) -> None:
    """Means and standard deviations of test errors, by variant, seed and number of conformers."""
    print(f"| variant | {' | '.join(f'MAE with {count} conformers, eV' for count in CONFORMERS)} | seeds |")
    print("|---|---|---|---|")
    for name, found in errors.items():
        cells = [
            f"{np.mean(values):.4f}" + (f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else "")
            for values in np.array(found).T
        ]
        print(f"| {name} | {' | '.join(cells)} | {len(found)} |")


def folder_of(out: Path, name: str, seed: int) -> Path:
    return out / f"{name.replace(' ', '-').replace(',', '')}-{seed}"


def measured(
    arguments: argparse.Namespace, name: str, changes: tuple[str, ...], seed: int, init: Path | None = None
) -> list[float]:
    """Test errors by number of conformers, eV; read from the file of an earlier run if there is one.

    The run's folder keeps the model and its predictions. `init`: a model whose weights are the start.
    """
    folder = folder_of(arguments.out, name, seed)
    result = folder / "test.json"
    if result.exists():
        return json.loads(result.read_text())
    model = trained(folder, (f"data.dataset={arguments.data}", *changes), arguments.steps, seed, init)
    errors = []
    for count in CONFORMERS:
        out = folder / f"conformers-{count}"
        found = api.evaluate(arguments.test, model=str(model), splits=["test"], conformers=count, out=out)
        errors.append(found["splits"]["test"]["gap_mae_ev"])
    write_atomic(result, json.dumps(errors))
    print(f"{name}, seed {seed}: {errors}", flush=True)
    return errors


def trained(folder: Path, changes: Sequence[str], steps: int, seed: int, init: Path | None = None) -> Path:
    """A small network trained in a folder, or continued there; returns the folder of the model."""
    budget = (f"train.max_steps={steps}", f"train.validate_every={steps}", f"train.seed={seed}")
    config = load_config("gap-small", [*SIZE, *budget, *changes])
    run = folder / "run"
    resume = (run / "manifest.json").exists()
    start = None if resume or init is None else str(init)
    return api.train(config, out=run, models=folder / "models", name="variant", resume=resume, init=start).path


if __name__ == "__main__":
    main()
