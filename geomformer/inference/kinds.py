"""What a model reads, molecules or structures, and the refusal of the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from geomformer.artifacts.manifest import Manifest
from geomformer.errors import ConfigError
from geomformer.inference.forces import predicts_forces
from geomformer.io.atoms import STRUCTURE_FILES, structure_format
from geomformer.tasks import CATALYST, NBODY

MOLECULE_FILES = "sdf, sdf.gz, mol, smi, csv, parquet"


def reads_structures(manifest: Manifest) -> bool:
    """Whether a model reads structures, slabs with an adsorbate or the molecules of force fields; others read molecules
    with their bonds.
    """
    return manifest.task in CATALYST or predicts_forces(manifest)


def check_kind(manifest: Manifest, sources: Sequence[Path]) -> None:
    """Refuses molecules for a model of structures, and structures for a model of molecules.

    Raises:
        ConfigError: says what the model reads.
    """
    if manifest.task == NBODY:
        raise ConfigError(
            f"{manifest.reference} (task {manifest.task}) reads the particles of a prepared dataset, no files.",
            f"Use `geomformer evaluate --model {manifest.reference}`.",
        )
    structures = reads_structures(manifest)
    wrong = next((path for path in sources if (structure_format(path) is not None) is not structures), None)
    if wrong is None:
        return
    if structures:
        raise ConfigError(
            f"{manifest.reference} (task {manifest.task}) reads structures, "
            f"{'slabs with an adsorbate' if manifest.task in CATALYST else 'each with all of its atoms'} "
            f"({STRUCTURE_FILES}), found {wrong}.",
            "For molecules name a model of the task gap.",
        )
    raise ConfigError(
        f"{manifest.reference} (task {manifest.task}) reads molecules with their bonds ({MOLECULE_FILES}), "
        f"found the structure {wrong}.",
        "For slabs with an adsorbate name a model of the task is2re or is2rs with --model, for forces one of md17.",
    )


def check_unused(manifest: Manifest, options: Mapping[str, Any]) -> None:
    """Refuses options that mean nothing for what the model reads (ConfigError).

    Args:
        manifest: of the model.
        options: values by the name of the option; None where it is not given.
    """
    for name, value in options.items():
        if value is not None:
            kind = "structures" if reads_structures(manifest) else "molecules"
            raise ConfigError(f"{name} has no meaning for {manifest.reference}, which reads {kind}.")
