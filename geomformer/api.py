"""The library's front door: what notebooks use and the command line calls."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geomformer.errors import ConfigError, DataError

if TYPE_CHECKING:
    from geomformer.config.run import RunConfig
    from geomformer.datasets.options import PrepareOptions
    from geomformer.inference.predictor import Predictor, PredictSummary
    from geomformer.prepared.dataset import PreparedDataset
    from geomformer.training.run import TrainResult

log = logging.getLogger(__name__)

Progress = Callable[[int, "int | None"], None]


def data_root(given: Path | None = None) -> Path:
    """Root of raw and prepared data: the argument, else $GEOMFORMER_DATA, else ./data."""
    return given or Path(os.environ.get("GEOMFORMER_DATA") or "data")


def models_root(given: Path | None = None) -> Path:
    """Store of trained models: the argument, else $GEOMFORMER_MODELS, else ./models."""
    from geomformer.artifacts.locate import default_root

    return given or default_root()


def prepare(
    dataset: str,
    *,
    raw: Sequence[Path] = (),
    out: Path | None = None,
    root: Path | None = None,
    options: PrepareOptions,
    progress: Progress | None = None,
) -> Path:
    """Turns the raw files of a dataset into a prepared dataset.

    Args:
        dataset: a name of `geomformer.datasets.DATASETS`.
        raw: raw files; where the dataset has a default place and an official download, it may be empty.
        out: folder of the prepared dataset; ROOT/prepared/DATASET by default, and ROOT/prepared/nbody-isotropic and
            the like for variants of it.
        root: root of all data.
        options: see `PrepareOptions`.
        progress: called with the rows done and their number, where known.

    Raises:
        ConfigError: unknown dataset or option.
        DataError: the files are missing or not what they should be.
    """
    from geomformer.datasets import check_options, load_dataset

    check_options(dataset, options)
    root = data_root(root)
    target = out or root / "prepared" / f"{dataset}{options.variant}"
    return load_dataset(dataset)(raw=raw, out=target, data_root=root, options=options, progress=progress)


def unfinished(prepared: Path) -> bool:
    """Whether shards of a dataset, or of one of the datasets in a folder, are still to be made."""
    from geomformer.prepared.storage import BUILDING

    return any(prepared.glob(f"**/{BUILDING}"))


def open_dataset(dataset: str | Path, root: Path | None = None, scheme: str | None = None) -> PreparedDataset:
    """Opens a prepared dataset by the path of its folder or by name (ROOT/prepared/NAME).

    Args:
        dataset: path or name; the samples that come with geomformer are put in place when they are named.
        root: root of all data.
        scheme: how its rows are divided, where it has several split schemes; None takes its default one.

    Raises:
        DataError: there is none; the message names the command that makes it. Or it has no such scheme.
    """
    from geomformer.prepared.dataset import PreparedDataset
    from geomformer.samples import FOLDERS, install_sample

    path, named = Path(dataset), data_root(root) / "prepared" / dataset
    if str(dataset) in FOLDERS and not path.exists():
        install_sample(str(dataset), named.parent)
    # A folder of the same name that is no dataset must not hide the one that is meant.
    chosen = named if (named / "manifest.json").exists() and not (path / "manifest.json").exists() else path
    return PreparedDataset(chosen if chosen.exists() else named, scheme)


def dataset_to_train_on(config: RunConfig, root: Path | None = None) -> PreparedDataset:
    """Opens the dataset of a run (DataError: see `open_dataset`; it names the sample where the task has one)."""
    from geomformer.samples import SAMPLES

    try:
        return open_dataset(config.data.dataset, root, config.data.split_scheme)
    except DataError as error:
        if config.data.dataset not in SAMPLES.values() and config.task.name in SAMPLES:
            error.hint = f"{error.hint or ''} For a first run without data: --sample.".strip()
        raise


def train(
    config: RunConfig,
    *,
    out: Path | None = None,
    root: Path | None = None,
    models: Path | None = None,
    name: str | None = None,
    resume: bool = False,
    init: str | None = None,
    device: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    report: Callable[[dict[str, Any]], None] = lambda line: None,
) -> TrainResult:
    """Trains a model and saves it as an artifact. See `geomformer.training.run.train`.

    Args:
        out: run folder; runs/TASK-TIME by default. `resume` needs it.
        root: root of the prepared datasets.
        models: store that the model is saved to.
    """
    from geomformer.training import run

    if resume and out is None:
        raise ConfigError("--resume needs the folder of the run.", "Name it with --out.")
    folder = out or Path("runs") / f"{config.task.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    return run.train(
        config,
        dataset_to_train_on(config, root),
        out=folder,
        models=models_root(models),
        name=name,
        resume=resume,
        init=init,
        device=device,
        devices=devices,
        num_nodes=num_nodes,
        report=report,
    )


def load_model(
    reference: str | Path | None = None,
    *,
    models: Path | None = None,
    conformers: int = 8,
    geometry: str = "generate",
    device: str = "auto",
) -> Predictor:
    """Loads a trained model, ready to run.

    Args:
        reference: NAME, NAME@VERSION or a folder; the bundled `gap-geomformer` by default.
        models: store of trained models.
        conformers: conformers averaged per molecule; models of catalysts take the structure that is given.
        geometry: "generate" conformers, or take the "input" file's own 3D coordinates; likewise.
        device: "auto", "cpu", "cuda".

    Raises:
        ArtifactError: no such model, it is damaged, or it does not read such geometries.
    """
    from geomformer.artifacts.store import load_artifact
    from geomformer.devices import resolve_device
    from geomformer.inference.averaging import InferenceSettings
    from geomformer.inference.domain import read_domain
    from geomformer.inference.predictor import Predictor, chemistry_for
    from geomformer.prepared.images import ImageOptions
    from geomformer.tasks import build_task
    from geomformer.tasks.base import Scaling

    device = resolve_device(device)
    artifact = load_artifact(reference, models_root(models))
    manifest = artifact.manifest
    scaling = {target.name: Scaling(target.mean, target.scale) for target in manifest.targets}
    return Predictor(
        manifest,
        artifact.model(device),
        build_task(artifact.config.task, scaling),
        InferenceSettings(
            conformers,
            features=manifest.inputs.features,
            images=ImageOptions.of(artifact.config.model),
            device=device,
            derivatives=artifact.config.task.differentiates,
        ),
        chemistry_for(manifest, conformers, geometry),
        domain=read_domain(artifact.path, manifest),
    )


def evaluate(
    dataset: str | Path,
    *,
    model: str | None = None,
    split_scheme: str | None = None,
    splits: Sequence[str] = (),
    out: Path | None = None,
    root: Path | None = None,
    models: Path | None = None,
    conformers: int | None = None,
    device: str = "auto",
    limit: int | None = None,
    baselines: bool = True,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluates a model on the labelled splits of a prepared dataset. See `evaluation.evaluate.evaluate_dataset`.

    A dataset with several split schemes is divided as in the training of the model, if `split_scheme` names no other.
    """
    from geomformer.artifacts.store import load_artifact
    from geomformer.evaluation.evaluate import evaluate_dataset

    predictor = load_model(model, models=models, conformers=conformers or 8, geometry="input", device=device)
    known = open_dataset(dataset, root)
    trained = load_artifact(model, models_root(models)).config.data.split_scheme
    usual = trained if trained in known.schemes else known.scheme
    prepared = open_dataset(dataset, root, split_scheme or usual)
    if prepared.scheme != usual and predictor.manifest.dataset.get("fingerprint") == known.fingerprint:
        log.warning(
            "%s was trained on %s splits: it may have seen these rows in training.", predictor.manifest.reference, usual
        )
    return evaluate_dataset(
        predictor, prepared, splits=splits, out=out, limit=limit, baselines=baselines, progress=progress
    )


def predict(
    source: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    model: str | None = None,
    models: Path | None = None,
    conformers: int = 8,
    geometry: str = "generate",
    workers: int | None = None,
    smiles_column: str | None = None,
    id_column: str | None = None,
    adsorbate: str | Sequence[int] | None = None,
    device: str = "auto",
    limit: int | None = None,
    progress: Progress | None = None,
) -> PredictSummary:
    """Predicts every molecule or structure of one or several files: one row or frame per input record, in order.

    What the model was made for decides what it reads: molecules, see `inference.predictor.predict_file`, or slabs with
    an adsorbate (tasks is2re and is2rs) and molecules as structures (md17), see
    `inference.structures.predict_structures`.

    Args:
        source: one or several files.
        out: output, its kind by suffix.
        model: NAME, NAME@VERSION or a folder; by default the bundled gap model that errs least with what is installed.
        models: store of trained models.
        conformers, geometry, workers, smiles_column, id_column: for molecules.
        adsorbate: for structures, numbers of the adsorbate's atoms counted from 0, also as text ("36-38").
        device: "auto", "cpu", "cuda".
        limit: read only so many records.
        progress: called with the number of finished records.

    Raises:
        ConfigError: the files or options are not of the model's kind.
        ArtifactError: see `load_model`.
        DataError: a file is missing, empty or unreadable; the output cannot be written.
    """
    from geomformer.artifacts.locate import best_bundled
    from geomformer.inference.forces import predicts_forces
    from geomformer.inference.kinds import check_kind, check_unused, reads_structures
    from geomformer.inference.predictor import predict_file
    from geomformer.inference.structures import predict_structures
    from geomformer.io.tags import parse_atoms

    sources = [Path(source)] if isinstance(source, str | Path) else [Path(item) for item in source]
    atoms = parse_atoms(adsorbate) if isinstance(adsorbate, str) else adsorbate
    chosen = model or best_bundled()
    predictor = load_model(chosen, models=models, conformers=conformers, geometry=geometry, device=device)
    check_kind(predictor.manifest, sources)
    if reads_structures(predictor.manifest):
        check_unused(predictor.manifest, {"--smiles-column": smiles_column, "--id-column": id_column})
        if predicts_forces(predictor.manifest):
            check_unused(predictor.manifest, {"--adsorbate": adsorbate})
        return predict_structures(predictor, sources, Path(out), adsorbate=atoms, limit=limit, progress=progress)
    check_unused(predictor.manifest, {"--adsorbate": adsorbate})
    predictor = dataclasses.replace(predictor, blocks=Path(out).name.endswith((".sdf", ".sdf.gz")))
    return predict_file(
        predictor,
        sources,
        Path(out),
        workers=workers,
        smiles_column=smiles_column,
        id_column=id_column,
        limit=limit,
        progress=progress,
    )
