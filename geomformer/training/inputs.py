"""What a run reads: its splits and their labels, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping

from geomformer.config.run import RunConfig
from geomformer.errors import ConfigError, DataError, nearest
from geomformer.prepared.dataset import PreparedDataset
from geomformer.prepared.split import PreparedSplit
from geomformer.records import Record
from geomformer.tasks import CATALYST, MD17, NBODY
from geomformer.tasks.base import has_reference
from geomformer.training.validation import check_labels


def target_statistics(
    dataset: PreparedDataset, targets: tuple[str, ...]
) -> tuple[dict[str, Mapping[str, float]], dict[str, str]]:
    """Train statistics and unit of each target.

    Raises:
        ConfigError: the dataset has no such target, or no label of it in the train split.
    """
    known = dataset.manifest["targets"]
    for target in targets:
        if target not in known:
            raise ConfigError(
                f"{dataset.path} has no target '{target}', only {', '.join(known) or 'none'}.{nearest(target, known)}",
                "Choose with --set task.targets=[NAME].",
            )
        if not known[target].get("count"):
            raise DataError(f"{dataset.path}: no row of the train split has a label of '{target}'.")
    return {target: known[target] for target in targets}, {t: known[t]["unit"] or "unknown" for t in targets}


def usable_split(dataset: PreparedDataset, config: RunConfig, key: str) -> PreparedSplit:
    """The split that `data.KEY` names.

    Raises:
        DataError: it is missing or empty, or has no label of any target.
        ConfigError: its records lack what the model reads.
    """
    split = dataset.split(getattr(config.data, key))
    if len(split) == 0:
        raise DataError(f"Split '{split.name}' of {dataset.path} has no rows.", f"Choose with --set data.{key}=NAME.")
    check_labels(split, config.task.targets)
    check_fields(dataset, config, split[0])
    if config.task.name == MD17:
        check_force_unit(split, config.task.targets[0])
    return split


def check_fields(dataset: PreparedDataset, config: RunConfig, first: Record) -> None:
    """Refuses a dataset whose records lack what the model reads (ConfigError) or the task trains on (DataError)."""
    if problem := dataset.orbitals_lacking(config.model.orbitals, first):
        raise ConfigError(
            f"The model {problem}",
            f"Prepare it again with --orbitals {config.model.orbitals} and --overwrite or another --out (only "
            "molecules have orbitals), or set model.orbitals=none.",
        )
    if config.model.reads_graph and first.atom_features is None:
        raise ConfigError(
            f"The model reads the 2D graph, {dataset.path} has none.",
            "Name a dataset of molecules, or set model.atom_features, bond_encoding and path_encoding to false.",
        )
    if config.task.input_geometry == "reference" and not has_reference(first):
        raise ConfigError(
            f"task.input_geometry is 'reference', {dataset.path} has generated conformers only.",
            "Prepare it with its reference geometries, or set task.input_geometry=conformer.",
        )
    if config.task.name in CATALYST and (first.tags is None or first.target_positions is None):
        lacks = "tags" if first.tags is None else "relaxed structures"
        raise DataError(
            f"Task {config.task.name} needs systems with tags and relaxed structures, {dataset.path} has no {lacks}.",
            "Name an OC20 dataset with --data.",
        )
    if config.task.name == MD17 and first.forces is None:
        raise DataError(
            f"Task {MD17} needs systems with forces, {dataset.path} has none.",
            "Name a molecule of MD17 or rMD17 with --data, such as rmd17/aspirin.",
        )
    if config.task.name == NBODY:
        fields = {"charges": first.particle_charges, "velocities": first.velocities, "targets": first.target_positions}
        if lacking := [name for name, values in fields.items() if values is None]:
            raise DataError(
                f"Task {NBODY} needs particles with charges, velocities and target positions, {dataset.path} has no "
                f"{' and no '.join(lacking)}.",
                "Make a dataset with `geomformer preprocess nbody`, and name it with --data.",
            )


def check_force_unit(split: PreparedSplit, energy: str) -> None:
    """Refuses forces in another unit than the slopes of the energy (DataError)."""
    wanted, found = f"{split.units[energy]}/angstrom", split.list_units.get("forces", "no unit")
    if found != wanted:
        raise DataError(
            f"Expected forces in {wanted}, as the energies of {split.path} are in {split.units[energy] or 'no unit'}; "
            f"found {found}.",
            "Prepare the dataset with energies in the unit of its forces, in a column such as energy_ev.",
        )
