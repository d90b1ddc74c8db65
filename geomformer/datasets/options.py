"""What a caller may choose about the preparation of a dataset."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from geomformer.chem import xtb
from geomformer.chem.build import ChemistryOptions
from geomformer.errors import ConfigError
from geomformer.executors import Executor, LocalExecutor
from geomformer.prepared.dataset import NBODY_SWITCHES
from geomformer.prepared.storage import DEFAULT_SHARD_ROWS, installed_version

MAX_CONFORMERS = 255
"""What the column `num_conformers` can hold."""


@dataclass(frozen=True)
class PrepareOptions:
    """Options of `prepare`. Every dataset uses those of the first group; `DatasetInfo.uses` names its others.

    Attributes:
        workers: processes; no influence on the result. None: one, or all cores of a Ray cluster.
        executor: "local" processes of this machine, or a "ray" cluster; no influence on the result.
        ray_address: of a running Ray cluster; None starts one on this machine.
        timeout: seconds after which one row is given up.
        limit: take only the first so many rows of each split, for trials.
        shard_rows: input rows per shard, hence the most work that an interruption can lose; None: by the number of
            rows.
        part: (i, n): do the i-th of n equal parts, from 1, for job arrays; the last job to end completes the dataset.
        overwrite: replace what lies in the output folder.

        chemistry: changes to how the dataset turns molecules into records, by field of `ChemistryOptions`.
        use_geometry: take the 3D geometry of the input as the reference geometry; None: the dataset's own default.
        level_of_theory: of the labels; None takes what the dataset says.
        targets: label columns; () takes what the dataset has.
        seed: of what is drawn; None takes the dataset's own.
        smiles_column, id_column, split_column: columns of tables; None finds them by name (split: none).
        fractions: shares of train, valid and test where the input has no split.
        split_scheme: how rows are divided, e.g. "random" or "scaffold"; None takes the dataset's own.
        size: of the train split, where there are several.
        molecules: names of the molecules to prepare, () for all.
        num_particles: particles per system.
        num_systems: systems in train, valid and test.
        isotropic_clip: clip forces by their length instead of per component.
        all_windows: train on all windows of the training trajectories, not only on the benchmark's.
        time_reversed: train on every window a second time, backwards in time.

    Raises:
        ConfigError: a value is out of range, or the package for the orbitals is not installed.
    """

    workers: int | None = None
    executor: Literal["local", "ray"] = "local"
    ray_address: str | None = None
    timeout: float = 300.0
    limit: int | None = None
    shard_rows: int | None = None
    part: tuple[int, int] | None = None
    overwrite: bool = False

    chemistry: Mapping[str, Any] = field(default_factory=dict)
    use_geometry: bool | None = None
    level_of_theory: str | None = None
    targets: tuple[str, ...] = ()
    seed: int | None = None
    smiles_column: str | None = None
    id_column: str | None = None
    split_column: str | None = None
    fractions: Mapping[str, float] = field(default_factory=lambda: {"train": 0.8, "valid": 0.1, "test": 0.1})
    split_scheme: str | None = None
    size: str | None = None
    molecules: tuple[str, ...] = ()
    num_particles: int | None = None
    num_systems: tuple[int, int, int] | None = None
    isotropic_clip: bool = False
    all_windows: bool = False
    time_reversed: bool = False

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit must be at least 1, found {self.limit}.")
        if self.part is not None and not 1 <= self.part[0] <= self.part[1]:
            raise ConfigError(f"Expected a part i/n with i from 1 to n, found {self.part[0]}/{self.part[1]}.")
        if self.executor not in ("local", "ray"):
            raise ConfigError(f"Expected the executor local or ray, found '{self.executor}'.")
        if self.ray_address is not None and self.executor != "ray":
            raise ConfigError(
                "The address of a Ray cluster has no meaning for local processes.", "Ask for it: --executor ray."
            )
        conformers = self.chemistry.get("num_conformers", 1)
        if not 1 <= conformers <= MAX_CONFORMERS:
            raise ConfigError(f"Expected 1 to {MAX_CONFORMERS} conformers per molecule, found {conformers}.")
        if self.chemistry.get("orbitals") == "xtb":
            xtb.check_installed()
        if self.part is not None and self.overwrite:
            raise ConfigError(
                "A part of a dataset cannot overwrite it: it would delete what the other parts have done.",
                "Delete the folder first.",
            )

    @property
    def variant(self) -> str:
        """What is added to the dataset's name, so that variants of a benchmark are not mistaken for it."""
        return "".join(f"-{name}" for name, switch in NBODY_SWITCHES.items() if getattr(self, switch))

    def rows_per_shard(self, total: int | None) -> int:
        """Returns `shard_rows`, or a hundredth of `total` rows within 50 and 2,000."""
        if self.shard_rows is not None:
            return self.shard_rows
        return DEFAULT_SHARD_ROWS if total is None else min(2000, max(50, total // 100))

    def in_this_process(self) -> PrepareOptions:
        """Returns the options for rows that take no time: no workers, and shards that are worth a file."""
        shard_rows = self.shard_rows or DEFAULT_SHARD_ROWS
        return dataclasses.replace(self, workers=0, executor="local", shard_rows=shard_rows)

    def chemistry_options(self, **defaults: Any) -> ChemistryOptions:
        """Returns the dataset's own chemistry with the caller's changes."""
        return ChemistryOptions(**{**defaults, **self.chemistry})


def chemistry_fields(chemistry: ChemistryOptions, options: PrepareOptions, use_geometry: bool) -> dict[str, Any]:
    """Returns the options that every dataset of molecules records in its manifest."""
    fields = {"chemistry": asdict(chemistry), "limit": options.limit, "use_geometry": use_geometry}
    return fields | ({"tblite_version": installed_version("tblite")} if chemistry.orbitals == "xtb" else {})


def open_executor(options: PrepareOptions) -> Executor:
    """Returns the processes that the options ask for.

    Raises:
        ConfigError: Ray is asked for and not installed.
    """
    if options.executor == "ray":
        from geomformer.executors.ray import RayExecutor

        return RayExecutor(options.ray_address, timeout=options.timeout, workers=options.workers)
    return LocalExecutor(1 if options.workers is None else options.workers, timeout=options.timeout)
