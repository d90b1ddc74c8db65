"""Builds a catalyst dataset with the meaning and the splits of OC20 in minutes: adsorbates on metal slabs, relaxed with
ASE's EMT potential.

    python recipes/emt/build_data.py --out data/prepared/emt --systems 12000 --workers 2

Nothing is downloaded. Each system is drawn by its own seeded generator and its effort is bounded by step counts, so
that the data do not depend on the number of workers; an interrupted run is continued by the same command. Written are a
prepared dataset and `systems.csv` (id, split, adsorbate, facet, elements, fraction).

A system is a slab of one or two metals (three layers; random substitution, `fraction` is the share of the second
element; lattice constant by Vegard's rule, strained by up to 2 %) with an adsorbate placed at random above it. Atoms of
the lowest layer are fixed. The free atoms of the slab are rattled: surfaces hardly relax with EMT, so that predicting
"nothing moves" would be nearly right otherwise. The label `energy` is E(relaxed system) - E(relaxed clean slab, from
its ideal sites in the same cell), in eV: as in OC20 an adsorbate's reference is a sum over its elements, and those of
EMT are zero, because it counts an atom's energy from the best surroundings of its element.

EMT knows no directed bonds: on metals the bonds of molecules stretch to about 1.6 times their length or break. Systems
whose adsorbate falls apart, desorbs, or pulls an atom out of the slab are drawn again, a bounded number of times.

Splits by what a model never sees in training:
- adsorbates: every fifth of all, sorted by number of atoms, then name (CH, NO and H2O);
- compositions (sets of elements): with the seven metals in a ring by atomic number, the seven pairs of next-but-one
  neighbours, so that every element is missing from two pairs and seen in four; and pure palladium, the middle one;
- val_id: neither, val_ood_ads: such an adsorbate, val_ood_cat: such a composition, val_ood_both: both.
"""

from __future__ import annotations

import argparse
import csv
import functools
import io
from pathlib import Path

import ase
import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.data import covalent_radii
from ase.optimize import FIRE
from calculator import PairwiseEMT
from systems import ADSORBATES, RATTLE, SEED, System, draw_systems, ideal_slab, with_adsorbate
from tqdm import tqdm

from geomformer.datasets.oc20.records import nearest_image
from geomformer.datasets.options import PrepareOptions
from geomformer.datasets.pipeline import prepare_rows
from geomformer.errors import MoleculeError
from geomformer.files import write_atomic
from geomformer.prepared.dataset import PreparedDataset
from geomformer.prepared.storage import DatasetDescription
from geomformer.records import CONFORMER_SOURCES, Record

LEVEL_OF_THEORY = "EMT (ASE), adsorption energies"

FMAX, MAX_STEPS, MAX_STEP = 0.05, 200, 0.1
BONDED, ADSORBED = 1.3, 1.6
"""Up to these distances, by the sum of the covalent radii, two atoms of the adsorbate alone count as bonded, and an
adsorbate as adsorbed (hydrogen, which EMT holds at 1.3 to 1.5, included)."""
BROKEN = 2.0
"""A bond of the adsorbate is broken when it is longer than this many times its length in the adsorbate alone."""
MAX_SLAB_SHIFT = 2.0
"""A slab atom that ends further from its ideal site than this (Angstrom) has left it."""
MAX_ENERGY = 10.0
ATTEMPTS = 5


def relax(atoms: Atoms) -> float:
    """Relaxes in place and returns the energy in eV.

    Raises:
        MoleculeError: the forces do not become small enough.
    """
    atoms.calc = PairwiseEMT(atoms)
    if not FIRE(atoms, logfile=None, maxstep=MAX_STEP).run(fmax=FMAX, steps=MAX_STEPS):
        raise MoleculeError("failed", f"no convergence within {MAX_STEPS} steps")
    return float(atoms.get_potential_energy())


@functools.cache
def relaxed_adsorbate(name: str) -> Atoms:
    """Returns the relaxed adsorbate alone, its first atom at the origin."""
    atoms = molecule(ADSORBATES[name])
    relax(atoms)
    return Atoms(atoms.numbers, atoms.positions - atoms.positions[0])


def check_relaxed(relaxed: Atoms, ideal: Atoms, adsorbate: Atoms) -> None:
    """Checks that the adsorbate is whole and on the slab, and the slab still one.

    Raises:
        MoleculeError: it is not.
    """
    size = len(ideal)
    radii = covalent_radii[relaxed.numbers]
    sums = radii[:, None] + radii
    distances = relaxed.get_all_distances(mic=True)
    alone = adsorbate.get_all_distances()
    bonds = (alone > 0) & (alone < BONDED * sums[size:, size:])
    if (distances[size:, size:] > BROKEN * alone)[bonds].any():
        raise MoleculeError("failed", "the adsorbate dissociated")
    if not (distances[size:, :size] < ADSORBED * sums[size:, :size]).any():
        raise MoleculeError("failed", "the adsorbate desorbed")
    # Fixed atoms stand where they were, so that they tell by how much the system was centred anew.
    shift = (relaxed.positions[:size] - ideal.positions)[ideal.get_tags() == 0].mean(0)
    moved = np.linalg.norm(relaxed.positions[:size] - ideal.positions - shift, axis=1)
    if moved.max() > MAX_SLAB_SHIFT:
        raise MoleculeError("failed", "an atom of the slab left its place")


def place_and_relax(system: System, rng: np.random.Generator) -> Record:
    """Makes one attempt at a system.

    Raises:
        MoleculeError: what became of it is not wanted.
    """
    slab = ideal_slab(system, rng)
    rattled = slab.copy()
    free = slab.get_tags() > 0
    rattled.positions[free] += rng.normal(0.0, RATTLE, (int(free.sum()), 3))
    adsorbate = relaxed_adsorbate(system.adsorbate)
    initial = with_adsorbate(rattled, adsorbate, rng)
    relaxed = initial.copy()
    energy = relax(relaxed)
    check_relaxed(relaxed, slab, adsorbate)
    energy -= relax(slab)
    if not abs(energy) <= MAX_ENERGY:
        raise MoleculeError("failed", f"the adsorption energy is {energy:.1f} eV")
    return to_record(system, initial, relaxed, energy)


def build(system: System) -> Record | MoleculeError:
    """Returns the first attempt that gives a usable system, or why the last did not. Runs in worker processes."""
    problem = MoleculeError("failed", "no attempt was made")
    for attempt in range(ATTEMPTS):
        try:
            return place_and_relax(system, np.random.default_rng([SEED, system.index, 1 + attempt]))
        except MoleculeError as error:
            problem = error
    return problem


def to_record(system: System, initial: Atoms, relaxed: Atoms, energy: float) -> Record:
    cell, tags = initial.cell.array, initial.get_tags()
    return Record(
        id=system.id,
        atomic_numbers=initial.numbers.astype(np.uint8),
        positions=initial.positions[None].astype(np.float32),
        conformer_source=np.array([CONFORMER_SOURCES.index("given")], np.uint8),
        target_positions=nearest_image(relaxed.positions, initial.positions, cell).astype(np.float32),
        cell=cell.astype(np.float32),
        pbc=np.ones(3, bool),
        tags=tags.astype(np.int8),
        fixed=tags == 0,
        targets={"energy": energy},
    )


def systems_table(out: Path, systems: dict[str, System]) -> str:
    """Returns CSV with what was drawn for every system of a prepared dataset."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "split", "adsorbate", "facet", "elements", "fraction"])
    dataset = PreparedDataset(out)
    for name in dataset.splits:
        split = dataset.split(name)
        for found in (systems[split[row].id] for row in range(len(split))):
            elements = "-".join(found.elements)
            writer.writerow([found.id, found.split, found.adsorbate, found.facet, elements, f"{found.fraction:.4f}"])
    return text.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("data/prepared/emt"))
    parser.add_argument("--systems", type=int, default=12000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    description = DatasetDescription(
        dataset="emt",
        targets={"energy": "ev"},
        options={"systems": arguments.systems, "ase": ase.__version__, "fmax": FMAX, "rattle": RATTLE},
        level_of_theory=LEVEL_OF_THEORY,
        seed=SEED,
    )
    systems = list(draw_systems(arguments.systems))
    with tqdm(total=len(systems), unit="system") as bar:
        prepare_rows(
            systems,
            arguments.out,
            description,
            PrepareOptions(workers=arguments.workers),
            build=build,
            total=len(systems),
            progress=lambda done, total: bar.update(done - bar.n),
        )
    write_atomic(arguments.out / "systems.csv", systems_table(arguments.out, {item.id: item for item in systems}))


if __name__ == "__main__":
    main()
