"""`geomformer predict`: a file of molecules or structures -> a file with one answer for each."""

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
    "geomformer predict optimised.sdf --geometry input --out gaps.sdf\n\n"
    "geomformer predict slabs.traj --model MODEL --out relaxed.extxyz\n\n"
    "geomformer predict POSCAR --model MODEL --adsorbate 36-38 --out CONTCAR\n\n"
    "geomformer predict frames.extxyz --model md17-geomformer --out forces.extxyz"
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
    typer.Argument(
        help="Molecules: sdf, sdf.gz, mol, smi, csv, parquet. Structures, for models of catalysts and force fields: "
        "extxyz, traj, cif, vasp, POSCAR. One or several files.",
        show_default=False,
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        help="File to write, by its suffix: csv, parquet, jsonl; for molecules also sdf; for structures also extxyz "
        "and traj, or for a single one cif, vasp, CONTCAR (which hold no tags and no energy).",
        rich_help_panel=OUTPUT,
    ),
]
Conformers = Annotated[
    int,
    typer.Option(
        min=1,
        help="Molecules: conformers to average over; more is slower and steadier.",
        rich_help_panel=CHEMISTRY,
    ),
]
GeometryOption = Annotated[
    Geometry,
    typer.Option(
        help="Molecules: generate conformers, or take the 3D structure of the input (the model must be made for that).",
        rich_help_panel=CHEMISTRY,
    ),
]
Adsorbate = Annotated[
    str | None,
    typer.Option(
        metavar="ATOMS",
        help="Structures: the adsorbate's atoms in every frame, counted from 0, such as 36,37 or 36-38.",
        show_default="tags, else the nonmetal atoms on a slab of metal",
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
    adsorbate: Adsorbate = None,
    workers: Workers = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Predict a property for every molecule or structure of some files.

    The output has one row per input record, in the same order: a number, or
    the reason for having none in column error; with several files it says in
    column file where a row comes from. Column domain says whether the
    molecule is like those the model was trained on (inside, outside; empty
    where the model does not know), column expected_error_... how wrong the
    number is expected to be. Without --model the answer is the HOMO-LUMO
    gap in eV, from a model that comes with geomformer: the one that mostly
    errs less where the package tblite is installed.

    Models of catalysts (tasks is2re, is2rs) read slabs with an adsorbate and
    write their relaxed structures, or a table. Fixed atoms stay exactly where
    they are; without constraints those of tag 0 are fixed, and without tags
    too every atom may move. Files without tags are understood where
    the slab is metal alone; else name the adsorbate with --adsorbate. A frame
    without an answer keeps its structure, with status and error in its info.
    pred_energy_ev is the energy of the relaxed structure that the model was
    trained on, with OC20's labels the adsorption energy.

    Force fields (task md17) read molecules as structures, with all of their
    atoms, and write them with energy (eV) and forces (eV/Angstrom) where ASE
    looks for them (extxyz, traj), or a table of energies and largest forces.
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
            adsorbate=adsorbate,
            device=device,
            limit=limit,
            progress=progress,
        )
    _summarise(summary)
    if model is None:
        _advise(summary)
    if json:
        console.result_json({**vars(summary), "out": str(summary.out)})
    if not ANSWERED.intersection(summary.statuses):
        console.complain(
            f"none of the {summary.rows} rows of {names} has a prediction.",
            f"The reasons are in {_errors(summary.out)}.",
        )
        raise typer.Exit(NO_ROW_OK)


def _errors(out: Path) -> str:
    table = out.name.lower().removesuffix(".gz").endswith((".csv", ".jsonl", ".parquet", ".sdf"))
    return f"{'column' if table else 'info'} 'error' of {out}"


def _advise(summary: PredictSummary) -> None:
    """Of the better model, to whoever named none and got the other one."""
    from geomformer.artifacts.locate import DEFAULT_MODEL, XTB_MODEL

    if summary.model.partition("@")[0] == DEFAULT_MODEL:
        console.message(f"{XTB_MODEL} mostly errs less; it answers where tblite is there: python -m pip install tblite")


def _summarise(summary: PredictSummary) -> None:
    ok = summary.statuses.get("ok", 0)
    failing = {name: count for name, count in summary.statuses.items() if name != "ok" and count}
    unit = unit_label(summary.unit)
    console.message(f"{summary.target} in {unit} by {summary.model}: {ok} of {summary.rows} rows ok")
    if failing:
        console.fields([(name, str(count)) for name, count in sorted(failing.items(), key=lambda item: -item[1])])
        console.message(f"  reasons: {_errors(summary.out)}")
    if summary.outside is not None and ok:
        console.message(
            f"{summary.outside} of them outside of what the model was trained on: column 'domain'"
            if summary.outside
            else "All of them inside of what the model was trained on (column 'domain')"
        )
    console.message(f"Written: {summary.out}")
