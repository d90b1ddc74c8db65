"""`geomformer benchmark`: how fast this machine is."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from geomformer_cli import console
from geomformer_cli.failures import guarded
from geomformer_cli.options import MACHINE, MODEL, Architecture, Device, Json

app = typer.Typer(help="Measure how fast models run on this machine.", no_args_is_help=True)

EXAMPLES = (
    "Examples:\n\n"
    "geomformer benchmark model --preset gap-small --device cpu\n\n"
    "geomformer benchmark model --preset md17-small --architecture painn\n\n"
    "geomformer benchmark model --preset is2re-small --systems 4 --atoms 40 --atoms 80 --atoms 160"
)


class Precision(StrEnum):
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


@app.callback()
def benchmark() -> None:
    """Measure how fast models run on this machine."""


@app.command("model", epilog=EXAMPLES)
@guarded("")
def model(
    preset: Annotated[
        list[str] | None,
        typer.Option(
            help="Preset to measure; may be repeated.", show_default="small and paper sizes", rich_help_panel=MODEL
        ),
    ] = None,
    architecture: Architecture = None,
    systems: Annotated[
        int | None,
        typer.Option(min=1, help="Systems in a batch.", show_default="by preset", rich_help_panel=MODEL),
    ] = None,
    atoms: Annotated[
        list[int] | None,
        typer.Option(
            min=1, help="Atoms of a system; may be repeated.", show_default="by preset", rich_help_panel=MODEL
        ),
    ] = None,
    repeats: Annotated[
        int, typer.Option(min=1, help="Rounds of measurement; the median counts.", rich_help_panel=MACHINE)
    ] = 5,
    device: Device = "auto",
    dtype: Annotated[Precision, typer.Option(help="Number format.", rich_help_panel=MACHINE)] = Precision.FLOAT32,
    json: Json = False,
) -> None:
    """Time the forward pass and a training step against the floor.

    The floor is the time of the bare matrix products of all layers, measured
    in the same run. Ratios can be compared between machines, times cannot.
    Only geomformer has a floor; other architectures are timed alone.
    """
    from geomformer.benchmark import benchmark_model
    from geomformer.devices import keep_freed_memory

    keep_freed_memory()  # as `geomformer train` does
    with console.waiting(f"Measuring {', '.join(preset or ['small and paper sizes'])}"):
        lines = benchmark_model(
            preset or (),
            architecture=architecture,
            systems=systems,
            atoms=atoms or (),
            device=device,
            dtype=dtype.value,
            repeats=repeats,
        )
    if json:
        console.result_json(lines)
    else:
        _show(lines)


def _show(lines: list[dict[str, Any]]) -> None:
    columns = {
        "preset": "preset",
        "architecture": "architecture",
        "parameters": "parameters",
        "num_layers": "layers",
        "embed_dim": "channels",
        "systems": "systems",
        "atoms": "atoms",
        "tokens": "tokens",
        "pairs": "pairs",
        "device": "device",
        "dtype": "dtype",
        "forward_ms": "forward ms",
        "forward_floor_ms": "floor ms",
        "forward_ratio": "ratio",
        "step_ms": "step ms",
        "step_ratio": "step ratio",
        "peak_memory_mb": "peak MB",
    }
    rows = [[_cell(line.get(key)) for key in columns] for line in lines]
    console.result_table(list(columns.values()), rows, numbers=[*range(2, 9), *range(11, len(columns))])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
