"""`geomformer preprocess`: raw files -> prepared dataset."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from geomformer_cli import console
from geomformer_cli.options import (
    CHEMISTRY,
    INPUT,
    MACHINE,
    OUTPUT,
    DataRoot,
    Executor,
    IdColumn,
    Limit,
    RayAddress,
    SmilesColumn,
    Workers,
    cores,
)

EXAMPLES = (
    "Examples:\n\n"
    "geomformer preprocess pcqm4mv2\n\n"
    "geomformer preprocess oc20 --raw is2res_train_val_test_lmdbs --size 10k\n\n"
    "geomformer preprocess rmd17 --molecule aspirin\n\n"
    "geomformer preprocess pcqm4mv2 --shard $SLURM_ARRAY_TASK_ID/100   (in a job array from 1 to 100)\n\n"
    "geomformer preprocess custom mine.csv --target gap_ev --out data/prepared/mine\n\n"
    "geomformer preprocess custom mine.sdf --target gap_hartree --use-geometry --level-of-theory 'PBE0/def2-SVP'"
)
KEPT = "Finished parts are kept: the same command continues."

Dataset = Annotated[str, typer.Argument(help="What to prepare; `geomformer datasets` lists it.", show_default=False)]
Files = Annotated[
    list[Path] | None,
    typer.Argument(help="Files of your own (custom): csv, smi, sdf, sdf.gz, xyz, extxyz, parquet.", show_default=False),
]
Raw = Annotated[
    list[Path] | None,
    typer.Option(
        help="Raw files you have already, or their folder; may be repeated. Nothing is downloaded then.",
        show_default="DATA_ROOT/raw/DATASET, downloaded if absent",
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
SplitScheme = Annotated[
    str | None,
    typer.Option(
        help="random or scaffold; molecule3d: or both.", show_default="as the dataset does", rich_help_panel=INPUT
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Seed of what is drawn: a split, a simulation; rmd17: which published split.",
        show_default="the dataset's",
        rich_help_panel=INPUT,
    ),
]
Size = Annotated[
    str | None, typer.Option(help="oc20: train split of 10k, 100k or all.", show_default="all", rich_help_panel=INPUT)
]
Molecule = Annotated[
    list[str] | None,
    typer.Option(
        help="md17, rmd17: e.g. aspirin; may be repeated. Each goes to OUT/MOLECULE.",
        show_default="all there are",
        rich_help_panel=INPUT,
    ),
]
NumParticles = Annotated[
    int | None, typer.Option(min=2, help="nbody: particles per system.", show_default="5", rich_help_panel=INPUT)
]
NumSystems = Annotated[
    tuple[int, int, int] | None,
    typer.Option(
        metavar="TRAIN VALID TEST", help="nbody: systems.", show_default="3000 2000 2000", rich_help_panel=INPUT
    ),
]
IsotropicClip = Annotated[
    bool,
    typer.Option(
        "--isotropic-clip",
        help="nbody: cap forces by length, not per component: symmetric under rotation, not the public benchmark.",
        rich_help_panel=INPUT,
    ),
]
AllWindows = Annotated[
    bool,
    typer.Option(
        "--all-windows",
        help="nbody: train on all 31 windows of each training trajectory, not only on the last one: more data than the "
        "public benchmark allows. --limit counts trajectories.",
        rich_help_panel=INPUT,
    ),
]
TimeReversed = Annotated[
    bool,
    typer.Option(
        "--time-reversed",
        help="nbody: train on every window a second time, backwards in time: from its end, with velocities turned "
        "round, to its start. The public benchmark has no velocities at the end.",
        rich_help_panel=INPUT,
    ),
]
Conformers = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=255,
        help="Conformers to generate per molecule.",
        show_default="8, or what the dataset gives",
        rich_help_panel=CHEMISTRY,
    ),
]
Hydrogens = Annotated[
    bool | None,
    typer.Option(
        "--hydrogens/--no-hydrogens",
        help="Keep hydrogens as atoms.",
        show_default="as the dataset does",
        rich_help_panel=CHEMISTRY,
    ),
]
Orbitals = Annotated[
    str | None,
    typer.Option(
        metavar="none|huckel|xtb",
        help="Theory of the frontier orbitals: extended Hückel, or GFN1-xTB, which is better and slower and needs the "
        "extra xtb.",
        show_default="huckel",
        rich_help_panel=CHEMISTRY,
    ),
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
Part = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Do the I-th of N equal parts, from 1, for job arrays; the last one to end completes the dataset.",
        show_default="everything",
        rich_help_panel=MACHINE,
    ),
]


def part_of(text: str | None) -> tuple[int, int] | None:
    """Reads `--shard 3/100`."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
    if found is None:
        raise typer.BadParameter(f"expected I/N such as 3/100, found '{text}'", param_hint="--shard")
    return int(found[1]), int(found[2])


def _late_progress(stack: contextlib.ExitStack) -> Callable[[int, int | None], None]:
    """Returns progress that is not on the screen before the first row: what comes before shows its own."""
    shown: console.Progress | None = None

    def advance(done: int, total: int | None) -> None:
        nonlocal shown
        if shown is None:
            shown = stack.enter_context(console.progress("preprocess"))
        shown(done, total)

    return advance


def preprocess(
    dataset: Dataset,
    files: Files = None,
    raw: Raw = None,
    target: Target = None,
    smiles_column: SmilesColumn = None,
    id_column: IdColumn = None,
    split_column: SplitColumn = None,
    split_scheme: SplitScheme = None,
    seed: Seed = None,
    limit: Limit = None,
    size: Size = None,
    molecule: Molecule = None,
    num_particles: NumParticles = None,
    num_systems: NumSystems = None,
    isotropic_clip: IsotropicClip = False,
    all_windows: AllWindows = False,
    time_reversed: TimeReversed = False,
    data_root: DataRoot = None,
    conformers: Conformers = None,
    hydrogens: Hydrogens = None,
    orbitals: Orbitals = None,
    use_geometry: UseGeometry = None,
    level_of_theory: LevelOfTheory = None,
    out: Out = None,
    overwrite: Overwrite = False,
    workers: Workers = None,
    shard: Part = None,
    executor: Executor = "local",
    ray_address: RayAddress = None,
) -> None:
    """Turn raw files into a dataset that `geomformer train` reads.

    Raw files are downloaded if they are not there, checked and read.
    Conformers are generated where the dataset needs them, and rows are put into the official splits.
    Rows that cannot be used are listed with their reason in rejected.parquet.
    An interrupted run is continued by the same command.
    """
    from geomformer import api
    from geomformer.datasets.options import PrepareOptions

    chemistry = {"num_conformers": conformers, "hydrogens": hydrogens, "orbitals": orbitals}
    options = PrepareOptions(
        chemistry={name: value for name, value in chemistry.items() if value is not None},
        workers=cores() if workers is None and executor == "local" else workers,
        executor=executor,  # type: ignore[arg-type]
        ray_address=ray_address,
        part=part_of(shard),
        seed=seed,
        limit=limit,
        targets=tuple(target or ()),
        smiles_column=smiles_column,
        id_column=id_column,
        split_column=split_column,
        split_scheme=split_scheme,
        size=size,
        molecules=tuple(molecule or ()),
        num_particles=num_particles,
        num_systems=num_systems,
        isotropic_clip=isotropic_clip,
        all_windows=all_windows,
        time_reversed=time_reversed,
        level_of_theory=level_of_theory,
        use_geometry=use_geometry,
        overwrite=overwrite,
    )
    sources = [*(files or ()), *(raw or ())]
    if sources:
        console.message(f"Reading {', '.join(map(str, sources))}")
    if not console.settings.quiet:
        # Downloads, checksums and statistics take hours with the largest datasets.
        logging.getLogger("geomformer").setLevel(logging.INFO)
    with contextlib.ExitStack() as stack:
        progress = _late_progress(stack)
        written = api.prepare(dataset, raw=sources, out=out, root=data_root, options=options, progress=progress)
    if options.part is not None and api.unfinished(written):
        console.message(f"Part {shard} is done; the last of the other parts completes the dataset:")
    else:
        console.message("Prepared dataset:")
    console.result(str(written))
