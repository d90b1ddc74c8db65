"""`geomformer predict`: a file of molecules -> a file with one answer per molecule."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geomformer.units import unit_label
from geomformer_cli import console
from geomformer_cli.options import (
    CHEMISTRY,
    OUTPUT,
    Device,
    IdColumn,
    Json,
    Limit,
    ModelName,
    SmilesColumn,
    Workers,
    cores,
)

if TYPE_CHECKING:
    from geomformer.api import PredictSummary

EXAMPLES = (
    "Examples:\n\n"
    "geomformer predict molecules.sdf --out gaps.csv\n\n"
    "geomformer predict library.csv --smiles-column structure --out gaps.parquet --conformers 4\n\n"
    "geomformer predict optimised.sdf --geometry input --out gaps.sdf"
)
KEPT = "The input is unchanged; run the command again for the whole output."
NO_ROW_OK = 3

ANSWERED = {"ok", "unsupported_element", "too_large"}
"""Statuses of molecules that were read and judged: a file of them alone was dealt with, whatever the judgement."""


class Geometry(StrEnum):
    GENERATE = "generate"
    INPUT = "input"


Files = Annotated[
    list[Path],
    typer.Argument(help="Molecules: sdf, sdf.gz, mol, smi, csv, parquet; one or several files.", show_default=False),
]
Out = Annotated[
    Path,
    typer.Option(help="File to write: csv, parquet, jsonl or sdf, by its suffix.", rich_help_panel=OUTPUT),
]
Conformers = Annotated[
    int,
    typer.Option(min=1, help="Conformers to average over; more is slower and steadier.", rich_help_panel=CHEMISTRY),
]
GeometryOption = Annotated[
    Geometry,
    typer.Option(
        help="Generate conformers, or take the 3D structure of the input (the model must be made for that).",
        rich_help_panel=CHEMISTRY,
    ),
]


def predict(
    files: Files,
    out: Out,
    model: ModelName = None,
    smiles_column: SmilesColumn = None,
    id_column: IdColumn = None,
    limit: Limit = None,
    conformers: Conformers = 8,
    geometry: GeometryOption = Geometry.GENERATE,
    workers: Workers = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Predict a property for every molecule of one or several files.

    The output has one row per input record, in the same order: a number, or
    the reason for having none in column error; with several files it says in
    column file where a row comes from. Column domain says whether the
    molecule is like those the model was trained on (inside, outside; empty
    where the model does not know), column expected_error_... how wrong the
    number is expected to be. Without --model the answer is the HOMO-LUMO
    gap in eV, from the model that comes with geomformer.
    """
    from geomformer import api

    names = ", ".join(str(file) for file in files) if len(files) < 4 else f"{len(files)} files"
    console.message(f"Reading {names}, writing {out}")
    with console.progress("predict") as progress:
        summary = api.predict(
            files,
            out,
            model=model,
            conformers=conformers,
            geometry=geometry.value,
            workers=cores() if workers is None else workers,
            smiles_column=smiles_column,
            id_column=id_column,
            device=device,
            limit=limit,
            progress=progress,
        )
    _summarise(summary)
    if json:
        console.result_json({**vars(summary), "out": str(summary.out)})
    if not ANSWERED.intersection(summary.statuses):
        console.complain(
            f"none of the {summary.rows} rows of {names} has a prediction.",
            f"The reasons are in column 'error' of {summary.out}.",
        )
        raise typer.Exit(NO_ROW_OK)


def _summarise(summary: PredictSummary) -> None:
    ok = summary.statuses.get("ok", 0)
    failing = {name: count for name, count in summary.statuses.items() if name != "ok" and count}
    unit = unit_label(summary.unit)
    console.message(f"{summary.target} in {unit} by {summary.model}: {ok} of {summary.rows} rows ok")
    if failing:
        console.fields([(name, str(count)) for name, count in sorted(failing.items(), key=lambda item: -item[1])])
        console.message(f"  reasons: column 'error' of {summary.out}")
    if summary.outside is not None and ok:
        console.message(
            f"{summary.outside} of them outside of what the model was trained on: column 'domain'"
            if summary.outside
            else "All of them inside of what the model was trained on (column 'domain')"
        )
    console.message(f"Written: {summary.out}")
