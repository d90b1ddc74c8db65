"""`geomformer evaluate`: model + prepared dataset -> errors per split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geomformer.units import unit_label
from geomformer_cli import console
from geomformer_cli.options import INPUT, MODEL, OUTPUT, DataRoot, Device, Json, Limit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from geomformer.artifacts.store import Artifact
    from geomformer.inference.predictor import Predictor
    from geomformer.prepared.dataset import PreparedDataset

EXAMPLES = (
    "Examples:\n\n"
    "geomformer evaluate --task gap --model gap-geomformer --data pcqm4mv2 --split valid\n\n"
    "geomformer evaluate --model models/mine/2 --data data/prepared/mine --json\n\n"
    "geomformer evaluate --data molecule3d --model of-random --model of-scaffold --split valid --split test\n\n"
    "geomformer evaluate --task is2re --model is2re-geomformer --data oc20\n\n"
    "geomformer evaluate --data pcqm4mv2 --split test-dev --submission submission\n\n"
    "geomformer evaluate --model is2re-geomformer --data oc20 --submission submission"
)
_METRICS = {"mae": "MAE", "rmse": "RMSE", "mse": "MSE", "ewt": "EwT", "adwt": "ADwT", "r2": "R2"}
_SINGLE = "single_conformer"
_ROWS = {
    "energy_mae_ev": ("energy MAE", "ev"),
    "energy_ewt_percent": ("EwT", "percent"),
    "positions_adwt_percent": ("ADwT", "percent"),
    "positions_distance_angstrom": ("mean distance of free atoms", "angstrom"),
    "positions_adwt_all_atoms_percent": ("looser reading of ADwT: all atoms", "percent"),
    "positions_adwt_mae_percent": ("looser reading of ADwT: coordinate MAE", "percent"),
    "positions_mse": ("MSE of positions", ""),
}
"""Rows of a table with baselines that come first, in their order: name and unit by key."""


Task = Annotated[
    str | None,
    typer.Option(help="What the model must predict; checked.", show_default="the model's", rich_help_panel=MODEL),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="Trained model: NAME, NAME@VERSION or a folder. May be repeated: one table shows them side by side.",
        show_default="one that comes with geomformer",
        rich_help_panel=MODEL,
    ),
]
Data = Annotated[
    str | None,
    typer.Option(help="Prepared dataset: its name or folder.", show_default="the model's own", rich_help_panel=INPUT),
]
Split = Annotated[
    list[str] | None,
    typer.Option(help="Split to evaluate; may be repeated.", show_default="all but train", rich_help_panel=INPUT),
]
SplitScheme = Annotated[
    str | None,
    typer.Option(
        help="How the dataset is divided, where it has several split schemes.",
        show_default="the model's own",
        rich_help_panel=INPUT,
    ),
]
Conformers = Annotated[
    int | None,
    typer.Option(min=1, help="Conformers to average over.", show_default="8", rich_help_panel=MODEL),
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Folder for metrics.json and plots; of several models, for one folder each.",
        show_default="evaluations/MODEL-DATASET",
        rich_help_panel=OUTPUT,
    ),
]
Submission = Annotated[
    Path | None,
    typer.Option(
        help="Folder or .npz file for the predictions of test splits, in the form that leaderboards take: test-dev and "
        "test-challenge of PCQM4Mv2 (OGB-LSC), or the four test splits of OC20; nothing is evaluated.",
        show_default="none",
        rich_help_panel=OUTPUT,
    ),
]


def evaluate(
    task: Task = None,
    model: Models = None,
    data: Data = None,
    split: Split = None,
    split_scheme: SplitScheme = None,
    data_root: DataRoot = None,
    limit: Limit = None,
    conformers: Conformers = None,
    out: Out = None,
    submission: Submission = None,
    json: Json = False,
    device: Device = "auto",
) -> None:
    """Measure how well a trained model predicts a prepared dataset.

    Prints the errors of every split with their units, and writes metrics.json and plots.

    For catalysts (is2re, is2rs) the mean train energy and unmoved atoms are judged beside the model; for particles
    (nbody) no and straight motion, and the least error that a model with rotation symmetry can have (a minute of
    simulation at first). Several models are shown beside each other, without those.
    """
    from geomformer import api
    from geomformer.artifacts.store import load_artifact

    references: list[str | None] = [*model] if model else [None]
    artifacts = [load_artifact(reference) for reference in references]
    for artifact in artifacts:
        _check_task(task, artifact)
    datasets = [data or artifact.config.data.dataset for artifact in artifacts]
    if submission is not None:
        _check_alone({"--limit": limit, "--out": out, "--split-scheme": split_scheme}, artifacts)
        predictor = api.load_model(references[0], conformers=conformers or 8, geometry="input", device=device)
        _submit(predictor, api.open_dataset(datasets[0], data_root), submission, split or (), json)
        return
    found, folders = [], _folders(artifacts, datasets, out)
    for reference, artifact, dataset, folder in zip(references, artifacts, datasets, folders, strict=True):
        console.message(f"Model {artifact.reference}, dataset {dataset}")
        with console.progress("evaluate") as progress:
            metrics = api.evaluate(
                dataset,
                model=reference,
                split_scheme=split_scheme,
                splits=tuple(split or ()),
                out=folder,
                root=data_root,
                conformers=conformers,
                device=device,
                limit=limit,
                progress=progress,
            )
        found.append(metrics)
    if json:
        console.result_json(found if len(found) > 1 else found[0])
    elif len(found) > 1:
        _show_beside(found)
    elif "baselines" in found[0]:
        _show_with_baselines(found[0])
    else:
        _show(found[0])
    for folder in folders:
        console.message(f"Written: {folder}")


def _folders(artifacts: Sequence[Artifact], datasets: Sequence[str], out: Path | None) -> list[Path]:
    """Where each evaluation is written: several have folders of their own in `out`."""
    from geomformer.errors import ConfigError

    names = [f"{item.reference}-{Path(dataset).name}" for item, dataset in zip(artifacts, datasets, strict=True)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"Two evaluations would be written as {twice[0]}.", "Evaluate models of one name apart.")
    if out is not None and len(names) == 1:
        return [out]
    return [(out or Path("evaluations")) / name for name in names]


def _check_alone(others: Mapping[str, object], artifacts: Sequence[Artifact]) -> None:
    from geomformer.errors import ConfigError

    if len(artifacts) > 1:
        raise ConfigError(f"--submission takes the predictions of one model, found {len(artifacts)}.")
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise ConfigError(
            f"--submission predicts whole splits and writes nothing else, found {' and '.join(given)}.",
            "Leave it out." if len(given) == 1 else "Leave them out.",
        )


def _submit(predictor: Predictor, dataset: PreparedDataset, out: Path, splits: Sequence[str], json: bool) -> None:
    from geomformer.tasks import CATALYST

    console.message(f"Model {predictor.manifest.reference}, dataset {dataset.path}")
    with console.progress("evaluate") as progress:
        if predictor.manifest.task in CATALYST:
            from geomformer.evaluation.submission_oc20 import write_submission

            _check_no_splits(splits)
            files = write_submission(predictor, dataset, out, progress=progress)
        else:
            from geomformer.evaluation.submission import write_submissions

            files = write_submissions(predictor, dataset, out, splits=splits, progress=progress)
    if json:
        names = {name: str(path) for name, path in files.items()}
        console.result_json({"model": predictor.manifest.reference, "dataset": str(dataset.path), "submission": names})
    else:
        for path in files.values():
            console.result(str(path))


def _check_no_splits(splits: Sequence[str]) -> None:
    from geomformer.errors import ConfigError

    if splits:
        raise ConfigError(
            f"A submission for OC20 holds all its four test splits, found --split {splits[0]}.", "Leave --split out."
        )


def _check_task(task: str | None, artifact: Artifact) -> None:
    from geomformer.config.run import TASKS
    from geomformer.errors import ArtifactError, ConfigError, nearest

    if task is None:
        return
    if task not in TASKS:
        raise ConfigError(f"--task: expected one of {', '.join(TASKS)}, found '{task}'.{nearest(task, TASKS)}")
    if task != artifact.manifest.task:
        raise ArtifactError(
            f"model {artifact.reference} was trained for task {artifact.manifest.task}, found --task {task}.",
            "Name a model of that task with --model; `geomformer models list` shows all.",
        )


def _show(metrics: dict[str, Any]) -> None:
    """One line per metric, one column per split."""
    splits = {**metrics["splits"], **({"average": metrics["average"]} if len(metrics["splits"]) > 1 else {})}
    counts = metrics.get("rows", {})
    rows = [["rows", "", *(_number(counts.get(name)) for name in splits)]]
    for key in dict.fromkeys(key for values in splits.values() for key in values):
        name, unit = describe(key)
        rows.append([name, unit, *(_number(values.get(key)) for values in splits.values())])
    console.result_table(["metric", "unit", *splits], rows, numbers=range(2, 2 + len(splits)))


def _show_beside(found: Sequence[dict[str, Any]]) -> None:
    """One line per metric, one column per model and split, as Table 5 of the paper has the splits of two schemes."""
    columns = [(metrics, split) for metrics in found for split in metrics["splits"]]
    several = len({metrics["dataset"] for metrics in found}) > 1
    heads = [" ".join(_column(metrics, split, several)) for metrics, split in columns]
    rows = [["rows", "", *(_number(metrics["rows"][split]) for metrics, split in columns)]]
    for key in dict.fromkeys(key for metrics, split in columns for key in metrics["splits"][split]):
        name, unit = describe(key)
        rows.append([name, unit, *(_number(metrics["splits"][split].get(key)) for metrics, split in columns)])
    console.result_table(["metric", "unit", *heads], rows, numbers=range(2, 2 + len(columns)))


def _column(metrics: dict[str, Any], split: str, several: bool) -> list[str]:
    """What one column shows: model, dataset and split scheme where there are several, split."""
    dataset = [metrics["dataset"]] if several else []
    scheme = [metrics["split_scheme"]] if "split_scheme" in metrics else []
    return [metrics["model"], *dataset, *scheme, split]


def _show_with_baselines(metrics: dict[str, Any]) -> None:
    """A line per metric and method: the model, then what needs none; a column per split, then their plain mean."""
    from geomformer.evaluation.vectors import SPLIT_LABELS

    baselines = {name.replace("_", " "): values for name, values in metrics["baselines"].items()}
    methods = {metrics["model"]: metrics, **baselines}
    splits = list(metrics["splits"])
    mean = ["AVG"] if len(splits) > 1 else []
    rows = [["systems", "", "", *(_number(metrics["rows"][name]) for name in splits), *("" for _ in mean)]]
    for key in _keys_with_baselines(metrics):
        name, unit = (_ROWS[key][0], unit_label(_ROWS[key][1])) if key in _ROWS else describe(key)
        for method, found in methods.items():
            columns = [found["splits"].get(split, {}) for split in splits] + ([found["average"]] if mean else [])
            if any(key in values for values in columns):
                rows.append([name, unit, method, *(_with_error(values, key) for values in columns)])
    heads = ["metric", "unit", "method", *(SPLIT_LABELS.get(name, name) for name in splits), *mean]
    console.result_table(heads, rows, numbers=range(3, len(heads)))


def _keys_with_baselines(metrics: dict[str, Any]) -> list[str]:
    """Those of `_ROWS`, then the errors of other targets. Squared errors are in the JSON; force fields are compared by
    their root, too.
    """
    found = dict.fromkeys(key for values in metrics["splits"].values() for key in values)
    left_out = {"mse"} if any(key.startswith("forces_") for key in found) else {"mse", "rmse"}
    others = [key for key in found if key not in _ROWS and not left_out & set(key.split("_"))]
    return [key for key in _ROWS if key in found] + others


def describe(key: str) -> tuple[str, str]:
    """`gap_mae_ev` -> ("gap MAE", "eV"); a key that holds no known metric is its own name."""
    parts = key.split("_")
    position = next((i for i, part in enumerate(parts) if i and part in _METRICS), None)
    if position is None:
        return key, ""
    name, unit = f"{'_'.join(parts[:position])} {_METRICS[parts[position]]}", "_".join(parts[position + 1 :])
    if unit.startswith(_SINGLE):
        name, unit = f"{name}, first conformer alone", unit.removeprefix(_SINGLE).removeprefix("_")
    return name, unit_label(unit)


def _with_error(values: Mapping[str, float], key: str) -> str:
    """A number with its standard error, if that is known: 0.00203 +- 0.00017."""
    error = values.get(f"{key}_standard_error")
    return _number(values.get(key)) + (f" +- {error:.2g}" if error is not None else "")


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4g}"
