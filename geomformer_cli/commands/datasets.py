"""`geomformer datasets`: what there is, whether it is sound, what is in it."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geomformer_cli import console
from geomformer_cli.failures import guarded
from geomformer_cli.options import OUTPUT, DataRoot, Json

if TYPE_CHECKING:
    from geomformer.datasets.catalogue import Entry, PreparedFolder
    from geomformer.prepared.dataset import PreparedDataset

UNSOUND = 3

app = typer.Typer(
    help="List the datasets; check and show prepared ones.",
    epilog="Example:\n\ngeomformer datasets\n\nPrepare one with `geomformer preprocess NAME`.",
    invoke_without_command=True,
)

Folder = Annotated[
    str, typer.Argument(metavar="FOLDER", help="Prepared dataset: its folder or its name.", show_default=False)
]


@app.callback()
@guarded("")
def list_datasets(context: typer.Context, data_root: DataRoot = None, json: Json = False) -> None:
    """List every dataset: rows, download, what lies on this machine, licence and citation."""
    if context.invoked_subcommand is not None:
        given = [name for name, value in (("--data-root", data_root), ("--json", json)) if value]
        if given:
            command = f"geomformer datasets {context.invoked_subcommand} ... {given[0]}"
            raise typer.BadParameter(f"it goes behind the command: {command}", param_hint=given[0])
        return
    from geomformer import api
    from geomformer.datasets.catalogue import catalogue

    root = api.data_root(data_root)
    entries = catalogue(root)
    if json:
        console.result_json([_entry(entry) for entry in entries])
        return
    rows = [[entry.name, entry.info.rows, _download(entry), *_on_disk(entry), entry.info.licence] for entry in entries]
    console.result_table(["dataset", "rows", "download", "raw", "prepared", "licence"], rows)
    console.result("")
    for entry in entries:
        console.result(f"{entry.name}: {entry.info.title}")
        if entry.info.citation:
            console.result(f"    {entry.info.citation}")
    folders = [folder for entry in entries for folder in entry.prepared]
    console.message(f"Raw and prepared data in {root}" if folders else f"Nothing is prepared in {root} yet.")
    for folder in folders:
        console.message(f"  {folder.path}: {_content(folder)}")


def _entry(entry: Entry) -> dict[str, Any]:
    return {
        "dataset": entry.name,
        "title": entry.info.title,
        "rows": entry.info.rows,
        "download_bytes": entry.info.download,
        "licence": entry.info.licence,
        "citation": entry.info.citation,
        "raw": str(entry.raw),
        "raw_bytes": entry.raw_size,
        "prepared": [
            {"path": str(item.path), "complete": bool(item.rows), "rows": item.rows, "bytes": item.size}
            for item in entry.prepared
        ],
    }


def _download(entry: Entry) -> str:
    from geomformer.files import size_text

    size = entry.info.download
    return "by hand" if size is None else size_text(size) if size else "none"


def _on_disk(entry: Entry) -> tuple[str, str]:
    from geomformer.files import size_text

    prepared = sum(item.size for item in entry.prepared)
    return size_text(entry.raw_size) if entry.raw_size else "", size_text(prepared) if prepared else ""


def _content(folder: PreparedFolder) -> str:
    if not folder.rows:
        return "not finished; the same `geomformer preprocess` command continues"
    return ", ".join(f"{name} {rows:,}" for name, rows in folder.rows.items())


@app.command("check", epilog="Example:\n\ngeomformer datasets check data/prepared/qm9")
@guarded("")
def check(folder: Folder, data_root: DataRoot = None, json: Json = False) -> None:
    """Check a prepared dataset: checksums, rows and content of every file its manifest lists."""
    from geomformer import api
    from geomformer.prepared.check import check_dataset

    path = api.open_dataset(folder, data_root).path
    with console.progress("check", "files") as progress:
        problems = check_dataset(path, progress)
    if json:
        console.result_json({"path": str(path), "problems": problems})
    else:
        console.result("\n".join(f"{path}: {problem}" for problem in problems or ["ok"]))
    if problems:
        raise typer.Exit(UNSOUND)


@app.command("show", epilog="Example:\n\ngeomformer datasets show data/prepared/qm9 --rows 3")
@guarded("")
def show(
    folder: Folder,
    split: Annotated[
        str | None, typer.Option(help="Split whose rows are shown.", show_default="the first", rich_help_panel=OUTPUT)
    ] = None,
    rows: Annotated[int, typer.Option(min=0, help="How many.", rich_help_panel=OUTPUT)] = 5,
    data_root: DataRoot = None,
    json: Json = False,
) -> None:
    """Print where a prepared dataset comes from, its target statistics and a few of its rows."""
    from geomformer import api

    dataset = api.open_dataset(folder, data_root)
    name = split or next(iter(dataset.splits))
    records = [_row(record) for record in islice(dataset.split(name), rows)] if rows else []
    if json:
        console.result_json({**dataset.manifest, "rows": {name: records}})
        return
    _show_manifest(dataset)
    if records:
        console.result(f"\nFirst rows of {name}")
        console.result_table(list(records[0]), [[_cell(value) for value in row.values()] for row in records])


def _row(record: Any) -> dict[str, Any]:
    from geomformer.records import CONFORMER_SOURCES

    present = ("target_positions", "velocities", "forces", "cell", "tags", "fixed", "atom_features", "orbital_energies")
    return {
        "id": record.id,
        "smiles": record.smiles,
        "atoms": record.num_atoms,
        "conformers": record.num_conformers,
        "source": CONFORMER_SOURCES[int(record.conformer_source[0])],
        "has": " ".join(name for name in present if getattr(record, name) is not None),
        **{name: None if value != value else value for name, value in record.targets.items()},
    }


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _atoms(counts: dict[str, float] | None) -> str:
    return f"{counts['mean']:.1f} on average, {counts['max']} at most" if counts else "not given"


def _show_manifest(dataset: PreparedDataset) -> None:
    from geomformer.records import ORBITAL_THEORIES

    manifest = dataset.manifest
    known = manifest.get("sources", [])
    sources = ", ".join(source["file"] for source in known[:5]) or "none"
    more = len(known) - 5
    facts = {
        "folder": dataset.path,
        "dataset": manifest["dataset"],
        "sources": f"{sources} and {more} more" if more > 0 else sources,
        "level of theory": manifest.get("level_of_theory") or "not given",
        "splits": ", ".join(f"{name} {count:,}" for name, count in dataset.splits.items()),
        "rejected": f"{manifest.get('rejected', 0):,} of {manifest.get('input_rows', 0):,} input rows",
        "atoms": _atoms(manifest.get("atoms")),
        "conformers": ", ".join(f"{key} {n:,}" for key, n in manifest.get("conformer_sources", {}).items() if n),
        "orbitals": ORBITAL_THEORIES.get(dataset.orbitals) if "chemistry" in manifest.get("options", {}) else None,
        "schemes": ", ".join(dataset.schemes),
        "rdkit": manifest.get("rdkit_version", "not given"),
    }
    facts = {name: value for name, value in facts.items() if value}
    width = max(map(len, facts))
    console.result("\n".join(f"{name:<{width}}  {value}" for name, value in facts.items()))
    columns = ("count", "mean", "std", "min", "max", "mean_abs_dev")
    lines = [
        [name, target["unit"], *(_cell(target.get(column)) for column in columns)]
        for name, target in manifest["targets"].items()
    ]
    if lines:
        console.result("\nTargets of the train split")
        console.result_table(["target", "unit", *columns], lines, numbers=range(2, 8))
