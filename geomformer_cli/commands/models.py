"""`geomformer models`: look at, check, combine and pass on trained models."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geomformer.units import unit_label
from geomformer_cli import console
from geomformer_cli.failures import guarded
from geomformer_cli.options import OUTPUT, Json

if TYPE_CHECKING:
    from geomformer.artifacts.store import ArtifactSummary

DAMAGED = 4

app = typer.Typer(
    help="List, show, verify, combine and export trained models.",
    epilog=(
        "Models lie in $GEOMFORMER_MODELS, else ./models; some come with geomformer. A model is called NAME (its "
        "newest version), NAME@VERSION, or by its folder."
    ),
    no_args_is_help=True,
)

ModelArgument = Annotated[
    str | None,
    typer.Argument(metavar="[MODEL]", help="NAME, NAME@VERSION or a folder.", show_default="the shipped one"),
]


class Kind(StrEnum):
    ZIP = "zip"
    FOLDER = "folder"


@app.command("list")
@guarded("")
def list_models(json: Json = False) -> None:
    """List the trained models on this machine and those that come with geomformer."""
    from geomformer.artifacts.store import list_artifacts

    found = list_artifacts()
    if json:
        console.result_json([_line(summary) for summary in found])
        return
    if not found:
        console.message("There are no models yet: `geomformer train` makes one.")
        return
    rows = [[str(value or "") for value in _line(summary).values()] for summary in found]
    console.result_table(["model", "source", "task", "targets", "architecture", "path", "problem"], rows)


def _line(summary: ArtifactSummary) -> dict[str, Any]:
    manifest = summary.manifest
    targets = [f"{item.name} ({unit_label(item.unit)})" for item in manifest.targets] if manifest else []
    return {
        "model": summary.reference,
        "source": summary.source,
        "task": manifest.task if manifest else None,
        "targets": ", ".join(targets),
        "architecture": manifest.architecture if manifest else None,
        "path": str(summary.path),
        "problem": summary.problem,
    }


@app.command("show", epilog="Example:\n\ngeomformer models show gap-geomformer")
@guarded("")
def show(model: ModelArgument = None, json: Json = False) -> None:
    """Print the card of a model: data, errors, supported elements, where not to trust it."""
    from geomformer.artifacts.files import CARD
    from geomformer.artifacts.store import load_artifact

    artifact = load_artifact(model)
    console.message(f"{artifact.reference} in {artifact.path}")
    if json:
        console.result_json({"path": str(artifact.path), **artifact.manifest.model_dump(mode="json")})
    else:
        console.result((artifact.path / CARD).read_text(encoding="utf8").rstrip())


@app.command("verify", epilog="Example:\n\ngeomformer models verify gap-geomformer@6")
@guarded("")
def verify_models(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL]...", help="NAME, NAME@VERSION or a folder.", show_default="all models"),
    ] = None,
    json: Json = False,
) -> None:
    """Check the files of models against their checksums, and their answers against the stored ones."""
    from geomformer.artifacts.selftest import verify
    from geomformer.artifacts.store import default_root, list_artifacts, resolve

    paths = [resolve(name, default_root()) for name in models or ()] or [item.path for item in list_artifacts()]
    problems: dict[str, list[str]] = {}
    for path in dict.fromkeys(paths):
        with console.waiting(f"Verifying {path}"):
            problems[str(path)] = verify(path)
        if not json:
            console.result(f"{path}: {'; '.join(problems[str(path)]) or 'ok'}")
    if json:
        console.result_json(problems)
    if any(problems.values()):
        raise typer.Exit(DAMAGED)


@app.command("combine", epilog="Example:\n\ngeomformer models combine gap-a gap-b gap-c --name gap-mean")
@guarded("")
def combine_models(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="NAME, NAME@VERSION or a folder.", show_default=False)
    ],
    name: Annotated[str, typer.Option(help="Name of the mean.", rich_help_panel=OUTPUT, show_default=False)],
) -> None:
    """Save the mean of models that were trained apart: it mostly errs less than each of them, and costs all of them.

    They have the same network and read the same inputs; of their scalars those are kept that all of them predict.
    """
    from geomformer.artifacts.store import default_root
    from geomformer.training.combine import combine

    with console.waiting("Combining"):
        saved = combine(models, default_root(), name)
    console.message(f"{saved.reference} in {saved.path}. Its errors: geomformer evaluate --model {saved.reference}")
    console.result(saved.reference)


@app.command("export", epilog="Example:\n\ngeomformer models export gap-geomformer --out gap-geomformer.zip")
@guarded("")
def export(
    model: Annotated[str, typer.Argument(help="NAME, NAME@VERSION or a folder.", show_default=False)],
    out: Annotated[
        Path, typer.Option(help="New file or folder; a zip may be put into an existing folder.", rich_help_panel=OUTPUT)
    ],
    kind: Annotated[
        Kind, typer.Option("--format", help="One archive, or a folder.", rich_help_panel=OUTPUT)
    ] = Kind.ZIP,
) -> None:
    """Copy a model out of the store, to pass it on."""
    from geomformer.artifacts.store import export_artifact, load_artifact

    console.result(str(export_artifact(load_artifact(model), out, kind.value)))
