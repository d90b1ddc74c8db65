"""Builds the training and test data of the gap models.

These are three growing mixtures for the stages of the shipped one, the rows at the level of PCQM4Mv2 alone and with the
second level of PubChemQC, and two test sets; and with orbitals of GFN1-xTB (`-xtb`, takes tblite) a mixture, the rows
alone and the test sets.

    python recipes/gap/build_data.py RAW --out data/prepared --workers 2

`--only NAME` (may be repeated) makes some of them: one without rows of QM9 takes 15 minutes on two cores, 20 with
orbitals of GFN1-xTB, all of them hours.

RAW holds `pubchem_gap/iqspr_pubchem_gap.csv`, `pubchem_gap/pubchemqc_b3lyp_pm6_sample.csv`,
`pcqm4mv2/pcqm4mv2_rows.csv`, `pcqm4mv2/pcqm4mv2_train_first1800.sdf` and `qm9/qm9.parquet` (sources and licences:
data/cards/README.md).

Levels of theory are kept apart as targets: `gap` (B3LYP/6-31G*, PubChemQC and PCQM4Mv2), `gap_qm9`
(B3LYP/6-31G(2df,p), QM9) and `gap_pm6` (B3LYP/6-31G* at PM6 geometries: few molecules, but larger and more varied). No
molecule of the two test sets, compared without stereo, is trained or selected on.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from rdkit import Chem, RDLogger
from tqdm import tqdm

from geomformer.chem.build import ChemistryOptions, build
from geomformer.chem.radicals import paired
from geomformer.datasets.options import PrepareOptions, chemistry_fields
from geomformer.datasets.pipeline import prepare_molecules
from geomformer.datasets.qm9 import split_ids
from geomformer.errors import MoleculeError
from geomformer.files import describe_file
from geomformer.io.readers import read_molecules
from geomformer.prepared.storage import DatasetDescription
from geomformer.records import OrbitalMethod, RawMolecule, Record

SEED = 20240721
NUM_VALID, NUM_VALID_PM6 = 600, 75
MAX_PM6_ATOMS = 50
"""Heavy atoms: a batch of larger molecules costs more than the few there are can teach."""
CONFORMERS, TEST_CONFORMERS = 2, 4


@dataclasses.dataclass(frozen=True)
class Mixture:
    """What stands beside the molecules at the level of PCQM4Mv2: how many of QM9 at most, and whether `gap_pm6`; the
    theory of the frontier orbitals.
    """

    num_qm9: int = 0
    pm6: bool = False
    orbitals: OrbitalMethod = "huckel"

    @property
    def targets(self) -> tuple[str, ...]:
        return ("gap", *(["gap_qm9"] if self.num_qm9 else []), *(["gap_pm6"] if self.pm6 else []))


MIXTURES = {
    "gap-alone": Mixture(),
    "gap-pubchemqc": Mixture(pm6=True),
    "gap-mixture-first": Mixture(num_qm9=30_000),
    "gap-mixture": Mixture(num_qm9=110_000),
    "gap-mixture-third": Mixture(num_qm9=110_000, pm6=True),
    "gap-alone-xtb": Mixture(orbitals="xtb"),
    "gap-mixture-xtb": Mixture(num_qm9=30_000, orbitals="xtb"),
}
SHIPPED = "gap-mixture-third"
"""What the shipped models have seen: the other mixtures hold a part of it."""
ALL_CONFORMERS = 30_000
"""Molecules of QM9 up to which every molecule of a mixture gets all conformers."""
PCQM_TEST, QM9_TEST = "gap-pcqm4mv2-valid", "gap-qm9-test"
TESTS: dict[str, OrbitalMethod] = {
    f"{test}{suffix}": method for test in (PCQM_TEST, QM9_TEST) for suffix, method in (("", "huckel"), ("-xtb", "xtb"))
}
"""Test sets, and the theory of their frontier orbitals."""


def flat_key(smiles: str) -> int:
    """A 64-bit hash of the canonical SMILES without stereo, electrons paired: what counts as the same molecule."""
    mol = Chem.MolFromSmiles(smiles)
    text = smiles if mol is None else Chem.MolToSmiles(paired(mol), isomericSmiles=False)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


class Sources:
    """The raw files and what was read from them."""

    def __init__(self, raw: Path) -> None:
        self.iqspr = raw / "pubchem_gap" / "iqspr_pubchem_gap.csv"
        self.pm6 = raw / "pubchem_gap" / "pubchemqc_b3lyp_pm6_sample.csv"
        self.rows = raw / "pcqm4mv2" / "pcqm4mv2_rows.csv"
        self.sdf = raw / "pcqm4mv2" / "pcqm4mv2_train_first1800.sdf"
        self.qm9 = raw / "qm9" / "qm9.parquet"
        self.pubchem = list(read_molecules(self.iqspr, targets=["gap_ev"]))
        pcqm = list(read_molecules(self.rows, targets=["homolumogap"], id_column="idx", split_column="split"))
        self.pcqm_train = [row for row in pcqm if row.split == "train"]
        self.pcqm_valid = [row for row in pcqm if row.split == "valid"]
        table = pq.read_table(self.qm9, columns=["gdb_id", "smiles", "atomic_numbers", "positions", "gap_ev"])
        self.table = table
        self.row_of_id = {int(name): row for row, name in enumerate(table.column("gdb_id").to_pylist())}
        self.qm9_ids = split_ids(np.array(sorted(self.row_of_id)))
        self.qm9_smiles = table.column("smiles").to_pylist()

    def files(self, parts: Mixture) -> list[Path]:
        """Molecules of QM9's test split are kept out of every mixture, so that QM9 counts as a source of each."""
        return [self.iqspr, self.rows, self.sdf, self.qm9, *([self.pm6] if parts.pm6 else [])]

    def qm9_molecule(self, gdb_id: int, split: str) -> RawMolecule:
        row = self.table.slice(self.row_of_id[gdb_id], 1).to_pylist()[0]
        return RawMolecule(
            index=0,
            id=f"qm9-{gdb_id}",
            text=row["smiles"],
            targets={"gap_qm9": row["gap_ev"]},
            reference_numbers=np.array(row["atomic_numbers"], dtype=np.uint8),
            reference_positions=np.array(row["positions"], dtype=np.float32).reshape(-1, 3),
            split=split,
        )

    def qm9_keys(self, ids: np.ndarray) -> np.ndarray:
        smiles = (self.qm9_smiles[self.row_of_id[int(name)]] for name in ids)
        return np.array(
            [flat_key(text) for text in tqdm(smiles, total=len(ids), desc="comparing QM9")], dtype=np.uint64
        )


def gap_of(row: RawMolecule) -> dict[str, float]:
    """The label of a row of PCQM4Mv2, by the name of our target."""
    return {"gap": row.targets["homolumogap"]}


def gap_molecules(sources: Sources) -> Iterator[RawMolecule]:
    """The molecules at the level of PCQM4Mv2, those of its train split with their DFT geometry."""
    for row in sources.pubchem:
        yield RawMolecule(0, f"pubchem-{row.index}", row.text, targets={"gap": row.targets["gap"]})
    blocks = list(read_molecules(sources.sdf))
    for row in sources.pcqm_train:
        block = blocks[int(row.id)].text
        yield RawMolecule(0, f"pcqm-{row.id}", row.text, targets=gap_of(row), reference_block=block)


def pm6_molecules(sources: Sources) -> list[RawMolecule]:
    """The molecules at PM6 geometries that are not too large, and can be read."""
    rows = []
    for row in read_molecules(sources.pm6, targets=["gap_ev"], id_column="cid"):
        mol = Chem.MolFromSmiles(row.text)
        if mol is not None and mol.GetNumHeavyAtoms() <= MAX_PM6_ATOMS:
            rows.append(RawMolecule(0, f"pm6-{row.id}", row.text, targets={"gap_pm6": row.targets["gap"]}))
    return rows


def mixture(sources: Sources, parts: Mixture) -> tuple[list[RawMolecule], np.ndarray]:
    """Training and validation rows of all levels in random order, and the keys of their molecules."""
    rng = np.random.default_rng(SEED)
    forbidden = np.array([flat_key(row.text) for row in sources.pcqm_valid], dtype=np.uint64)
    forbidden = np.union1d(forbidden, sources.qm9_keys(sources.qm9_ids["test"]))
    rows = list(gap_molecules(sources))
    keys = np.array([flat_key(row.text) for row in rows], dtype=np.uint64)
    allowed = ~np.isin(keys, forbidden)
    rows, keys = [row for row, keep in zip(rows, allowed, strict=True) if keep], keys[allowed]
    valid = np.isin(keys, rng.choice(np.unique(keys), NUM_VALID, replace=False))
    for row, is_valid in zip(rows, valid, strict=True):
        row.split = "valid" if is_valid else "train"
    forbidden = np.union1d(forbidden, keys[valid])
    for split, count in (("train", parts.num_qm9), ("valid", NUM_VALID)) if parts.num_qm9 else ():
        ids = rng.permutation(sources.qm9_ids[split])[: count + count // 2]
        found = sources.qm9_keys(ids)
        keep = np.flatnonzero(~np.isin(found, forbidden))[:count]
        rows += [sources.qm9_molecule(int(name), split) for name in ids[keep]]
        keys = np.concatenate([keys, found[keep]])
    if parts.pm6:
        others = pm6_molecules(sources)
        found = np.array([flat_key(row.text) for row in others], dtype=np.uint64)
        valid = np.isin(found, rng.choice(np.unique(found), NUM_VALID_PM6, replace=False))
        for row, is_valid in zip(others, valid, strict=True):
            row.split = "valid" if is_valid else "train"
        keep = np.flatnonzero(~np.isin(found, forbidden) & ~(valid & np.isin(found, keys)))
        rows += [others[i] for i in keep]
        keys = np.concatenate([keys, found[keep]])
    for row in rows:
        row.targets = {target: row.targets.get(target, float("nan")) for target in parts.targets}
    order = rng.permutation(len(rows))
    return [rows[i] for i in order], np.unique(keys)


def numbered(rows: list[RawMolecule]) -> list[RawMolecule]:
    for index, row in enumerate(rows):
        row.index = index
    return rows


def build_row(raw: RawMolecule, options: ChemistryOptions) -> Record | MoleculeError:
    """Builds a row of the larger mixtures: one conformer where there is a reference geometry, which is what is mostly
    trained on then.
    """
    if raw.reference_numbers is None and raw.reference_block is None:
        return build(raw, options)
    return build(raw, dataclasses.replace(options, num_conformers=1))


def write(
    rows: list[RawMolecule],
    out: Path,
    name: str,
    files: list[Path],
    conformers: int,
    orbitals: OrbitalMethod,
    workers: int,
    row_builder: Callable[[RawMolecule, ChemistryOptions], Record | MoleculeError] = build,
    units: Mapping[str, str] | None = None,
) -> None:
    """Makes one dataset; targets are in eV where `units` does not say otherwise."""
    chemistry = ChemistryOptions(num_conformers=conformers, orbitals=orbitals)
    options = PrepareOptions(workers=workers, seed=SEED)
    targets = {target: (units or {}).get(target, "ev") for target in rows[0].targets}
    description = DatasetDescription(
        dataset=name,
        targets=targets,
        sources=[describe_file(file) for file in files],
        options={**chemistry_fields(chemistry, options, use_geometry=True), "build": row_builder.__name__},
        seed=SEED,
    )
    with tqdm(total=len(rows), desc=name, unit="molecule") as bar:
        prepare_molecules(
            numbered(rows),
            out / name,
            description,
            options,
            chemistry=chemistry,
            build=functools.partial(row_builder, options=chemistry),
            total=len(rows),
            progress=lambda done, total: bar.update(done - bar.n),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("raw", type=Path)
    parser.add_argument("--out", type=Path, default=Path("data/prepared"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", action="append", choices=[*MIXTURES, *TESTS])
    arguments = parser.parse_args()
    wanted = arguments.only or [*MIXTURES, *TESTS]
    RDLogger.DisableLog("rdApp.*")
    sources = Sources(arguments.raw)
    for name, parts in MIXTURES.items():
        if name in wanted:
            rows, keys = mixture(sources, parts)
            builder = build_row if parts.num_qm9 > ALL_CONFORMERS else build
            files = sources.files(parts)
            write(rows, arguments.out, name, files, CONFORMERS, parts.orbitals, arguments.workers, builder)
            if name == SHIPPED:
                np.save(Path(__file__).parent / "training_molecules.npy", keys)
    for name, orbitals in TESTS.items():
        if name in wanted and name.startswith(PCQM_TEST):
            rows = [dataclasses.replace(row, split="test", targets=gap_of(row)) for row in sources.pcqm_valid]
            write(rows, arguments.out, name, [sources.rows], TEST_CONFORMERS, orbitals, arguments.workers)
        elif name in wanted:
            rows = [sources.qm9_molecule(int(gdb_id), "test") for gdb_id in sources.qm9_ids["test"]]
            write(rows, arguments.out, name, [sources.qm9], CONFORMERS, orbitals, arguments.workers)


if __name__ == "__main__":
    main()
