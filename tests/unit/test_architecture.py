"""Imports go one way, heavy libraries stay where they belong, and worker processes never load torch.

Read from the syntax tree, so that nothing is imported; imports inside functions count for the direction, and only
those at module level count for what a plain `import` loads. `TYPE_CHECKING` blocks count for neither.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LEVELS = (
    ("errors",),
    ("nn", "records", "units", "elements", "config", "devices", "executors", "files"),
    ("tasks", "models", "prepared", "io", "chem", "samples"),
    ("training", "inference", "evaluation", "artifacts", "datasets"),
    ("api", "benchmark", "integrations"),
    ("ablation",),
    ("cli",),
)
RANK = {name: rank for rank, names in enumerate(LEVELS) for name in names}

ALLOWED = {
    "rdkit": {"chem", "io"},
    "ase": {"io", "integrations"},
    "ray": {"executors"},
    "e3nn": {"models"},
    "typer": {"cli"},
    "rich": {"cli"},
}
"""Which components may import a library."""

FORBIDDEN_IN_NN = ("pydantic", "yaml", "rdkit", "ase", "pyarrow", "geomformer.config")

WITHOUT_TORCH = ("records", "files", "executors", "units", "elements", "errors", "chem", "io", "samples", "cli")
"""Components that worker processes or `geomformer --help` load."""


def modules() -> dict[str, Path]:
    """Path of every module of both packages by dotted name."""
    found = {}
    for package in ("geomformer", "geomformer_cli"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def component(module: str) -> str | None:
    """The first name below `geomformer`, "cli" for the other package, None for the package itself."""
    if module.split(".")[0] == "geomformer_cli":
        return "cli"
    parts = module.split(".")
    return parts[1] if parts[0] == "geomformer" and len(parts) > 1 else None


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports_below(node: ast.AST, functions: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif is_type_checking(child) or (not functions and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)):
            continue
        else:
            yield from imports_below(child, functions)


def targets(node: ast.Import | ast.ImportFrom) -> list[str]:
    """Dotted names of what is imported; `from geomformer import chem` names the submodule."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert node.level == 0 and node.module is not None, "imports are absolute"
    full = [f"{node.module}.{alias.name}" for alias in node.names]
    return [name if name in MODULES else node.module for name in full]


@cache
def imported(module: str, functions: bool = True) -> frozenset[str]:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    return frozenset(name for node in imports_below(tree, functions) for name in targets(node))


def loads(module: str) -> dict[str, str]:
    """Everything that importing `module` imports, at any remove, with the module of the project that does."""
    found: dict[str, str] = {}
    open_modules, seen = [module], {module}
    while open_modules:
        current = open_modules.pop()
        parents = [current.rsplit(".", count)[0] for count in range(1, current.count(".") + 1)]
        for name in [*imported(current, functions=False), *parents]:
            found.setdefault(name, current)
            if name in MODULES and name not in seen:
                seen.add(name)
                open_modules.append(name)
    return found


def named(names: frozenset[str] | dict[str, str], library: str) -> list[str]:
    return [name for name in names if name == library or name.startswith(f"{library}.")]


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_a_place(module: str) -> None:
    assert module == "geomformer" or component(module) in RANK, "add it to LEVELS"


@pytest.mark.parametrize("module", [name for name in MODULES if component(name)])
def test_imports_go_one_way(module: str) -> None:
    for name in imported(module):
        target = component(name)
        if target is not None:
            assert target in RANK, f"{name} has no level"
            assert RANK[target] <= RANK[str(component(module))], f"{module} imports {name}, which lies above it"


def test_components_do_not_import_each_other_in_circles() -> None:
    edges = {name: set() for name in RANK}  # type: dict[str, set[str]]
    for module in MODULES:
        source = component(module)
        if source is not None:
            edges[source] |= {
                str(component(name)) for name in imported(module) if component(name) not in (None, source)
            }
    while edges:
        free = [name for name, below in edges.items() if not below & edges.keys()]
        assert free, f"a circle among {sorted(edges)}: {edges}"
        for name in free:
            del edges[name]


@pytest.mark.parametrize("library", ALLOWED)
def test_libraries_stay_in_their_place(library: str) -> None:
    for module in MODULES:
        if named(imported(module), library):
            assert component(module) in ALLOWED[library], f"{module} imports {library}"


@pytest.mark.parametrize("library", FORBIDDEN_IN_NN)
def test_nn_knows_tensors_only(library: str) -> None:
    for module in MODULES:
        if component(module) == "nn":
            assert not named(loads(module), library), f"{module} loads {library}"


@pytest.mark.parametrize("module", [name for name in MODULES if component(name) in WITHOUT_TORCH])
def test_worker_processes_and_help_never_load_torch(module: str) -> None:
    found = loads(module)
    names = named(found, "torch")
    assert not names, f"{module} loads torch through {found[names[0]]}"


def test_help_loads_no_chemistry() -> None:
    for module in MODULES:
        if component(module) == "cli":
            assert not named(loads(module), "rdkit"), f"{module} loads rdkit"


def test_the_reading_sees_what_it_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Imports in classes and try blocks are seen, those in functions and for type checkers told apart."""
    path = tmp_path / "sample.py"
    path.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import ase\n"
        "try:\n    import torch.nn\nfinally:\n    pass\n"
        "class A:\n    import yaml\ndef f():\n    import rdkit\n"
    )
    monkeypatch.setitem(MODULES, "geomformer.sample", path)
    assert imported("geomformer.sample") == {"typing", "torch.nn", "yaml", "rdkit"}
    assert imported("geomformer.sample", functions=False) == {"typing", "torch.nn", "yaml"}
    assert named(loads("geomformer.sample"), "torch") == ["torch.nn"]
