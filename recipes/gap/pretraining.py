"""What pre-training on QM9 is worth to a gap model, by what is predicted: the gap, more properties, the geometry.

    python recipes/gap/pretraining.py RAW --data data/prepared/gap-alone --test data/prepared/gap-pcqm4mv2-valid \
        --molecules 20000 --pre-steps 1200 --steps 800 --seeds 3 --out runs/gap-pretraining

Small networks (`variants.py`). Each learns from the same molecules of QM9's train split, none of them in the test rows,
and then from the rows at the level of PCQM4Mv2, without geometry targets; beside them stands a network that takes the
steps of both stages on those rows alone. The last map of the head starts afresh, as `train --init` does for a target of
another name. RAW is as for `build_data.py`. An interrupted series is continued by the same command.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from build_data import SEED, Sources, flat_key, write
from rdkit import RDLogger
from variants import NO_GEOMETRY, folder_of, measured, print_table, trained

from geomformer.records import RawMolecule

COLUMNS = {"gap_qm9": "gap_ev", "homo": "homo_ev", "lumo": "lumo_ev", "mu": "mu_debye", "zpve": "zpve_ev"}
"""Properties of QM9 whose deviations are of the size of an electronvolt, so that their errors can be summed."""
UNITS = {"mu": "debye"}
NUM_VALID = 300
LONGER = "none, as many steps"
ONE, ALL = ("gap_qm9",), tuple(COLUMNS)
PRETRAINING: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "gap": (ONE, NO_GEOMETRY),
    "gap and geometry": (ONE, ()),
    "five properties": (ALL, NO_GEOMETRY),
    "five properties and geometry": (ALL, ()),
}
"""Targets, and changes to the configuration, by name."""


def molecules(sources: Sources, count: int) -> list[RawMolecule]:
    """Random molecules of QM9 with their DFT geometry and properties, without those of the PCQM4Mv2 test rows."""
    rng = np.random.default_rng(SEED)
    labels = pq.read_table(sources.qm9, columns=list(COLUMNS.values())).to_pydict()
    forbidden = {flat_key(row.text) for row in sources.pcqm_valid}
    rows: list[RawMolecule] = []
    for split, wanted in (("train", count), ("valid", NUM_VALID)):
        end = len(rows) + wanted
        for gdb_id in rng.permutation(sources.qm9_ids[split]):
            if len(rows) == end:
                break
            molecule = sources.qm9_molecule(int(gdb_id), split)
            if flat_key(molecule.text) not in forbidden:
                row = sources.row_of_id[int(gdb_id)]
                molecule.targets = {name: labels[column][row] for name, column in COLUMNS.items()}
                rows.append(molecule)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("raw", type=Path)
    parser.add_argument("--data", required=True, help="prepared dataset with train and valid splits")
    parser.add_argument("--test", required=True, help="prepared dataset with a test split")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--molecules", type=int, default=20_000)
    parser.add_argument("--pre-steps", type=int, default=1200)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    RDLogger.DisableLog("rdApp.*")
    data = arguments.out / "data" / "qm9-properties"
    if not (data / "manifest.json").exists():
        sources = Sources(arguments.raw)
        rows = molecules(sources, arguments.molecules)
        write(rows, data.parent, data.name, [sources.qm9], 1, "huckel", arguments.workers, units=UNITS)
    errors: dict[str, list[list[float]]] = {"none": [], LONGER: [], **{name: [] for name in PRETRAINING}}
    longer = argparse.Namespace(**{**vars(arguments), "steps": arguments.pre_steps + arguments.steps})
    for seed in range(1, arguments.seeds + 1):
        errors["none"].append(measured(arguments, "none", NO_GEOMETRY, seed))
        errors[LONGER].append(measured(longer, LONGER, NO_GEOMETRY, seed))
        for name, (targets, changes) in PRETRAINING.items():
            levels = ", ".join(f'{target}: "B3LYP/6-31G(2df,p)"' for target in targets)
            task = (f"task.targets=[{','.join(targets)}]", f"task.levels={{{levels}}}")
            folder = folder_of(arguments.out, f"pre {name}", seed)
            model = trained(folder, (f"data.dataset={data}", *task, *changes), arguments.pre_steps, seed)
            errors[name].append(measured(arguments, name, NO_GEOMETRY, seed, init=model))
    print_table(errors)


if __name__ == "__main__":
    main()
