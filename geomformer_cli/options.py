"""Options that two or more commands share. Defaults of the library are not repeated where it chooses them itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

INPUT, MODEL, OUTPUT, CHEMISTRY, MACHINE = "Input", "Model", "Output", "Chemistry", "Machine"
"""Headings in `--help`."""

DataRoot = Annotated[
    Path | None,
    typer.Option(
        help="Folder of raw and prepared data.",
        show_default="$GEOMFORMER_DATA, else ./data",
        rich_help_panel=INPUT,
    ),
]

ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Trained model: NAME, NAME@VERSION or a folder.",
        show_default="one that comes with geomformer",
        rich_help_panel=MODEL,
    ),
]

Architecture = Annotated[
    str | None,
    typer.Option(
        help="Network: geomformer, painn, torchmd-et, sake, egnn, harmonics; with inputs and outputs of the preset's.",
        show_default="the preset's",
        rich_help_panel=MODEL,
    ),
]

Device = Annotated[
    str,
    typer.Option(help="auto, cpu, cuda, cuda:1, mps; auto takes a GPU if there is one.", rich_help_panel=MACHINE),
]

Workers = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Processes for the chemistry; 0 works in this one. No influence on the result.",
        show_default="all cores",
        rich_help_panel=MACHINE,
    ),
]

Executor = Annotated[
    str, typer.Option(help="local processes, or a ray cluster. No influence on the result.", rich_help_panel=MACHINE)
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        help="Address of a running Ray cluster, e.g. auto.", show_default="starts one here", rich_help_panel=MACHINE
    ),
]

SmilesColumn = Annotated[
    str | None,
    typer.Option(help="Column of a table that holds the SMILES.", show_default="by name", rich_help_panel=INPUT),
]

IdColumn = Annotated[
    str | None,
    typer.Option(help="Column or SDF property with the identifier.", show_default="by name", rich_help_panel=INPUT),
]

Limit = Annotated[
    int | None,
    typer.Option(min=1, help="Take only the first so many rows (of each split), for a trial.", rich_help_panel=INPUT),
]

Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON on stdout.", rich_help_panel=OUTPUT)]

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Change one value of the configuration; may be repeated.",
        rich_help_panel=MODEL,
    ),
]


def cores() -> int:
    """CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
