"""The `geomformer` command: global options and the list of verbs.

Nothing here or in the modules of the commands imports the library's heavy parts: that happens inside their functions.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from geomformer import __version__
from geomformer_cli import console
from geomformer_cli.commands import ablate, benchmark, config, datasets, evaluate, models, predict, preprocess, train
from geomformer_cli.failures import guarded

NOTHING_WRITTEN = ""

app = typer.Typer(
    name="geomformer",
    help="GeoMFormer: predict properties of molecules from their 3D structure, and train the models that do.",
    epilog=(
        "Start with: geomformer predict molecules.sdf --out gaps.csv\n\n"
        "Every command has its own --help, with examples. Exit codes: 0 ok, 1 unexpected (see error.log), "
        "2 usage or configuration, 3 data, 4 model, 5 out of memory, 130 interrupted."
    ),
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"geomformer {__version__}")
        raise typer.Exit


@app.callback()
def geomformer(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show log messages, warnings and tracebacks.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show results and errors only.")] = False,
) -> None:
    if verbose and quiet:
        raise typer.BadParameter("choose one of --verbose and --quiet")
    console.configure(quiet=quiet, verbose=verbose)


def main() -> None:
    """Runs the command line and ends the process."""
    # Read by torch when it is imported: large tensors in huge pages shorten a training step on a CPU by a few per cent.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    app(prog_name="geomformer")


app.command("preprocess", epilog=preprocess.EXAMPLES)(guarded(preprocess.KEPT)(preprocess.preprocess))
app.command("train", epilog=train.EXAMPLES)(guarded(train.KEPT)(train.train))
app.command("evaluate", epilog=evaluate.EXAMPLES)(guarded(NOTHING_WRITTEN)(evaluate.evaluate))
app.command("ablate", epilog=ablate.EXAMPLES)(guarded(ablate.KEPT)(ablate.ablate))
app.command("predict", epilog=predict.EXAMPLES)(guarded(predict.KEPT)(predict.predict))
app.add_typer(datasets.app, name="datasets")
app.add_typer(models.app, name="models")
app.add_typer(config.app, name="config")
app.add_typer(benchmark.app, name="benchmark")
