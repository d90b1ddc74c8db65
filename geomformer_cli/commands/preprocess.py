"""`geomformer preprocess`: raw files -> prepared dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geomformer_cli import console
from geomformer_cli.options import CHEMISTRY, INPUT, OUTPUT, DataRoot, IdColumn, Limit, SmilesColumn, Workers, cores

EXAMPLES = (
    "Examples:\n\n"
    "geomformer preprocess qm9\n\n"
    "geomformer preprocess custom mine.csv --target gap_ev --out data/prepared/mine\n\n"
    "geomformer preprocess custom mine.sdf --target gap_hartree --use-geometry --level-of-theory 'PBE0/def2-SVP'"
)
KEPT = "Finished parts are kept: the same command continues."

Dataset = Annotated[str, typer.Argument(help="qm9, or custom for files of your own.", show_default=False)]
Files = Annotated[
    list[Path] | None,
    typer.Argument(help="Files to prepare: csv, smi, sdf, sdf.gz, parquet.", show_default=False),
]
Raw = Annotated[
    list[Path] | None,
    typer.Option(
        help="Raw files you have already, or their folder; may be repeated. Nothing is downloaded then.",
        show_default="DATA_ROOT/raw/DATASET",
        rich_help_panel=INPUT,
    ),
]
Target = Annotated[
    list[str] | None,
    typer.Option(
        help="Column with labels; may be repeated. A unit at its end (gap_hartree) is converted to eV.",
        show_default="all the dataset has",
        rich_help_panel=INPUT,
    ),
]
SplitColumn = Annotated[
    str | None,
    typer.Option(help="Column that says train, valid or test.", show_default="random split", rich_help_panel=INPUT),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the random split.", rich_help_panel=INPUT)]
Conformers = Annotated[int, typer.Option(min=1, help="Conformers to generate per molecule.", rich_help_panel=CHEMISTRY)]
Hydrogens = Annotated[
    bool, typer.Option("--hydrogens/--no-hydrogens", help="Keep hydrogens as atoms.", rich_help_panel=CHEMISTRY)
]
UseGeometry = Annotated[
    bool | None,
    typer.Option(
        "--use-geometry/--no-use-geometry",
        help="Take the 3D structure of the files as the reference geometry.",
        show_default="as the dataset does",
        rich_help_panel=CHEMISTRY,
    ),
]
LevelOfTheory = Annotated[
    str | None,
    typer.Option(help="How the labels were computed, for the record.", rich_help_panel=CHEMISTRY),
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the prepared dataset.",
        show_default="DATA_ROOT/prepared/DATASET",
        rich_help_panel=OUTPUT,
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what lies in the folder.", rich_help_panel=OUTPUT)
]


def preprocess(
    dataset: Dataset,
    files: Files = None,
    raw: Raw = None,
    target: Target = None,
    smiles_column: SmilesColumn = None,
    id_column: IdColumn = None,
    split_column: SplitColumn = None,
    seed: Seed = 0,
    limit: Limit = None,
    data_root: DataRoot = None,
    conformers: Conformers = 8,
    hydrogens: Hydrogens = False,
    use_geometry: UseGeometry = None,
    level_of_theory: LevelOfTheory = None,
    out: Out = None,
    overwrite: Overwrite = False,
    workers: Workers = None,
) -> None:
    """Turn raw files into a dataset that `geomformer train` reads.

    Molecules are parsed, conformers are generated and rows are put into splits.
    Rows that cannot be used are listed with their reason in rejected.parquet.
    An interrupted run is continued by the same command.
    """
    from geomformer import api
    from geomformer.chem.build import ChemistryOptions
    from geomformer.datasets.pipeline import PrepareOptions

    options = PrepareOptions(
        chemistry=ChemistryOptions(num_conformers=conformers, hydrogens=hydrogens),
        workers=cores() if workers is None else workers,
        seed=seed,
        limit=limit,
        targets=tuple(target or ()),
        smiles_column=smiles_column,
        id_column=id_column,
        split_column=split_column,
        level_of_theory=level_of_theory,
        use_geometry=use_geometry,
        overwrite=overwrite,
    )
    sources = [*(files or ()), *(raw or ())]
    if sources:
        console.message(f"Reading {', '.join(map(str, sources))}")
    with console.progress("preprocess") as progress:
        written = api.prepare(dataset, raw=sources, out=out, root=data_root, options=options, progress=progress)
    console.message("Prepared dataset:")
    console.result(str(written))
