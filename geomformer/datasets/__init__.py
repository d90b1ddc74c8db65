"""Datasets by name. Each package turns raw files into a prepared dataset with one function, `prepare`:

prepare(*, raw, out, data_root, options, progress=None) -> Path
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from geomformer.errors import ConfigError, nearest

if TYPE_CHECKING:
    from geomformer.datasets.options import PrepareOptions

COMMON = frozenset({"workers", "executor", "ray_address", "timeout", "limit", "shard_rows", "part", "overwrite"})
"""Options of every dataset."""

MOLECULES = frozenset({"chemistry", "use_geometry", "level_of_theory", "targets"})
"""Options of every dataset of molecules."""


SPELLINGS = {"num_conformers": "conformers", "targets": "target", "molecules": "molecule", "part": "shard"}
"""Options that the command line calls otherwise."""


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a dataset before its module is loaded.

    Attributes:
        module: where its `prepare` is, loaded when it is used.
        title: what it holds, in a line.
        rows: number of rows, as text.
        download: bytes that are fetched; 0 where nothing is, None where the user has to fetch them.
        licence: of the data.
        citation: whom to cite.
        uses: options of `PrepareOptions` beyond `COMMON`.
    """

    module: str
    title: str
    rows: str
    download: int | None
    licence: str
    citation: str
    uses: frozenset[str] = MOLECULES


DATASETS: dict[str, DatasetInfo] = {
    "pcqm4mv2": DatasetInfo(
        "geomformer.datasets.pcqm4mv2",
        "PCQM4Mv2: HOMO-LUMO gaps at B3LYP/6-31G*, DFT geometries for the train split",
        "3,746,620",
        1_560_000_000,
        "CC BY 4.0",
        "Hu et al., OGB-LSC, arXiv:2103.09430; Nakata and Shimazaki, J. Chem. Inf. Model. 57, 1300 (2017)",
    ),
    "molecule3d": DatasetInfo(
        "geomformer.datasets.molecule3d",
        "Molecule3D: properties at B3LYP/6-31G* with DFT geometries and all hydrogens",
        "3,899,647",
        None,
        "CC BY 4.0 (PubChemQC)",
        "Xu et al., Molecule3D, arXiv:2110.01717; Nakata and Shimazaki, J. Chem. Inf. Model. 57, 1300 (2017)",
        MOLECULES | {"split_scheme"},
    ),
    "oc20": DatasetInfo(
        "geomformer.datasets.oc20",
        "OC20 IS2RE and IS2RS: adsorbates on catalyst surfaces, initial and relaxed structures",
        "460,328 train, 99,854 validation, 99,828 test",
        8_100_000_000,
        "CC BY 4.0",
        "Chanussot et al., ACS Catal. 11, 6059 (2021)",
        frozenset({"size"}),
    ),
    "qm9": DatasetInfo(
        "geomformer.datasets.qm9",
        "QM9: small organic molecules with B3LYP/6-31G(2df,p) geometries and properties",
        "133,885",
        86_000_000,
        "CC0",
        "Ramakrishnan et al., Sci. Data 1, 140022 (2014); Ruddigkeit et al., J. Chem. Inf. Model. 52, 2864 (2012)",
    ),
    "md17": DatasetInfo(
        "geomformer.datasets.md17",
        "MD17: energies and forces along trajectories of eight molecules (PBE+vdW-TS)",
        "133,770 to 993,237 per molecule",
        2_200_000_000,
        "no licence stated; cite the papers",
        "Chmiela et al., Sci. Adv. 3, e1603015 (2017)",
        frozenset({"molecules", "seed"}),
    ),
    "rmd17": DatasetInfo(
        "geomformer.datasets.md17.rmd17",
        "rMD17: MD17 recomputed at PBE/def2-SVP, ten molecules",
        "100,000 per molecule",
        1_000_000_000,
        "CC0",
        "Christensen and von Lilienfeld, Mach. Learn.: Sci. Technol. 1, 045018 (2020)",
        frozenset({"molecules", "seed"}),
    ),
    "nbody": DatasetInfo(
        "geomformer.datasets.nbody",
        "N-body: five charged particles, simulated here as in the public benchmark",
        "3,000 train, 2,000 validation, 2,000 test",
        0,
        "made by geomformer (MIT)",
        "Kipf et al., ICML 2018; Satorras et al., ICML 2021",
        frozenset({"seed", "num_particles", "num_systems", "isotropic_clip", "all_windows", "time_reversed"}),
    ),
    "custom": DatasetInfo(
        "geomformer.datasets.custom",
        "your own molecules: csv, smi, sdf, xyz, extxyz or Parquet with any number of target columns",
        "yours",
        0,
        "yours",
        "",
        MOLECULES | {"seed", "smiles_column", "id_column", "split_column", "fractions", "split_scheme"},
    ),
}
"""Every dataset by name; its module is loaded when it is used."""


def dataset_info(name: str) -> DatasetInfo:
    """Returns what is known of a dataset.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in DATASETS:
        raise ConfigError(f"Expected one of {', '.join(sorted(DATASETS))}, found '{name}'.{nearest(name, DATASETS)}")
    return DATASETS[name]


def load_dataset(name: str) -> Callable[..., Path]:
    """Returns the `prepare` function of a dataset.

    Raises:
        ConfigError: there is no dataset of that name.
    """
    prepare: Callable[..., Path] = importlib.import_module(dataset_info(name).module).prepare
    return prepare


def check_options(name: str, options: PrepareOptions) -> None:
    """Checks that a dataset uses every option that is set.

    Raises:
        ConfigError: there is no dataset of that name, or an option has no meaning for it.
    """
    used = COMMON | dataset_info(name).uses
    defaults = type(options)()
    for field in dataclasses.fields(options):
        if field.name not in used and getattr(options, field.name) != getattr(defaults, field.name):
            having = [other for other, info in DATASETS.items() if field.name in info.uses]
            asked = ", ".join(option_names(field.name, getattr(options, field.name)))
            raise ConfigError(
                f"The dataset '{name}' does not use {asked}; only {', '.join(having)} can.", "Leave it out."
            )


def option_names(field: str, value: object) -> list[str]:
    """Returns how the command line spells an option of `PrepareOptions`."""
    fields = list(value) if field == "chemistry" and isinstance(value, Mapping) else [field]
    return [f"--{SPELLINGS.get(name, name).replace('_', '-')}" for name in fields]
