"""Whether a model can be judged on a prepared dataset."""

from __future__ import annotations

from geomformer.artifacts.manifest import Manifest
from geomformer.errors import ArtifactError
from geomformer.prepared.dataset import PreparedDataset
from geomformer.prepared.split import PreparedSplit
from geomformer.tasks import CATALYST, MD17, NBODY
from geomformer.tasks.base import has_reference


def check_inputs(manifest: Manifest, dataset: PreparedDataset) -> None:
    """Refuses a dataset that the model cannot be judged on."""
    options = dataset.manifest.get("options", {})
    hydrogens = options.get("chemistry", {}).get("hydrogens")
    molecules = manifest.inputs.geometry != "given"  # other models refuse molecules by what these lack, see below
    if molecules and hydrogens is not None and hydrogens != manifest.inputs.hydrogens:
        kinds = {True: "explicit hydrogens", False: "heavy atoms only"}
        raise ArtifactError(
            f"{manifest.reference} reads {kinds[manifest.inputs.hydrogens]}, {dataset.path} has {kinds[hydrogens]}.",
            f"Prepare the dataset with {'--hydrogens' if manifest.inputs.hydrogens else '--no-hydrogens'}.",
        )
    level = dataset.manifest.get("level_of_theory")
    labelled = dataset.manifest["targets"]
    for target in manifest.targets:
        unit = dataset.manifest["targets"].get(target.name, {}).get("unit", target.unit)
        if manifest.task == MD17 and unit != target.unit:
            raise ArtifactError(
                f"{manifest.reference} predicts {target.name} in {target.unit}, {dataset.path} has it in {unit}.",
                "Prepare the dataset in the unit of the model.",
            )
        if level and target.name in labelled and target.level_of_theory not in (None, level):
            raise ArtifactError(
                f"{manifest.reference} predicts {target.name} at {target.level_of_theory}, "
                f"the labels of {dataset.path} are {level}.",
                "Errors between two levels of theory are not errors of the model.",
            )


def check_records(manifest: Manifest, dataset: PreparedDataset, split: PreparedSplit) -> None:
    """Refuses records that lack what the model reads."""
    if not len(split):
        return
    first = split[0]
    if manifest.task in CATALYST and (first.cell is None or first.tags is None):
        lacking = " and no ".join(name for name in ("cell", "tags") if getattr(first, name) is None)
        raise ArtifactError(
            f"{manifest.reference} reads catalysts, the systems of {dataset.path} have no {lacking}.",
            "Name a prepared dataset of catalysts with --data.",
        )
    if manifest.task == NBODY and (first.velocities is None or first.particle_charges is None):
        raise ArtifactError(
            f"{manifest.reference} reads charged particles and their velocities, {dataset.path} has none.",
            "Make a dataset with `geomformer preprocess nbody`, and name it with --data.",
        )
    if problem := dataset.orbitals_lacking(manifest.inputs.orbitals, first):
        raise ArtifactError(
            f"{manifest.reference} {problem}",
            f"Prepare it again with --orbitals {manifest.inputs.orbitals} and --overwrite or another --out (only "
            "molecules have orbitals), or name another --model.",
        )
    if manifest.inputs.features and first.atom_features is None:
        raise ArtifactError(
            f"{manifest.reference} reads the 2D graph, {dataset.path} has none.",
            "Name a prepared dataset of molecules.",
        )
    if manifest.inputs.geometry == "reference" and not has_reference(first):
        raise ArtifactError(
            f"{manifest.reference} reads reference (DFT) geometries, {dataset.path} has generated conformers only.",
            "Prepare the dataset with its reference geometries.",
        )
