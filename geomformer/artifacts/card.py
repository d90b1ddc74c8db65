"""The model card: a manifest as a page for people. Every number in it stands in the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from geomformer.artifacts.manifest import MIN_MOLECULES_PER_ELEMENT, Inputs, Manifest, Target
from geomformer.config.run import RunConfig
from geomformer.records import ORBITAL_THEORIES

_GEOMETRY = {
    "conformer": "conformers generated from the molecular graph",
    "reference": "the reference geometry (the one the labels were computed at)",
    "given": "the initial structure as it is given",
}


def model_card(manifest: Manifest, config: RunConfig, extra: Mapping[str, str] | None = None) -> str:
    """Writes the card.

    Args:
        manifest: of the artifact.
        config: of the run.
        extra: further sections, Markdown by heading, such as "Where not to trust it".

    Returns:
        Markdown.
    """
    sections = {
        "What it predicts": _targets(manifest),
        "What it reads": _inputs(manifest.inputs),
        "Errors": _metrics(manifest.metrics),
        "Supported elements": _elements(manifest),
        "Data": _bullets(manifest.dataset),
        "Training": _bullets(manifest.training),
        **(extra or {}),
        "Use": _usage(manifest),
        "Software": _bullets(manifest.software),
    }
    text = f"# {manifest.reference}\n\n{_summary(manifest, config)}\n"
    return text + "".join(f"\n## {title}\n\n{body.strip()}\n" for title, body in sections.items() if body.strip())


def _summary(manifest: Manifest, config: RunConfig) -> str:
    model = config.model
    preset = f", preset `{config.preset}`" if config.preset else ""
    layers = f"{model.num_layers} layer{'' if model.num_layers == 1 else 's'}"
    networks = f"A `{manifest.architecture}` network"
    if model.members > 1:
        networks = f"The mean of {model.members} `{manifest.architecture}` networks"
    return (
        f"{networks} for the task `{manifest.task}`{preset}: {layers}, "
        f"{model.embed_dim} channels, {model.num_heads} heads. `config.yaml` beside this file holds every setting."
    )


def _targets(manifest: Manifest) -> str:
    rows = [(_target_name(target, manifest), target.unit, target.level_of_theory or "") for target in manifest.targets]
    return _table(("target", "unit", "level of theory"), rows)


def _target_name(target: Target, manifest: Manifest) -> str:
    return f"**{target.name}** (what `predict` reports)" if target.name == manifest.answer else target.name


def _inputs(inputs: Inputs) -> str:
    lines = [
        f"Geometry: {_GEOMETRY[inputs.geometry]}",
        f"Hydrogens: {'atoms of their own' if inputs.hydrogens else 'not atoms of their own'}",
        f"2D graph (atom and bond features): {_yes(inputs.features)}",
        f"Frontier orbitals: {ORBITAL_THEORIES.get(inputs.orbitals, 'no')}",
        f"Periodic cell: {_yes(inputs.periodic)}",
    ]
    if inputs.max_atoms is not None:
        lines.append(f"Atoms per system: at most {inputs.max_atoms}")
    return "\n".join(f"- {line}" for line in lines)


def _metrics(metrics: Mapping[str, Any]) -> str:
    """One row per metric; nested mappings become the name of the split."""
    rows = []
    for path, value in _leaves(metrics):
        *split, name = path
        rows.append((" / ".join(split), name, _format(value)))
    return _table(("split", "metric", "value"), rows) if rows else ""


def _elements(manifest: Manifest) -> str:
    if not manifest.elements:
        return ""
    supported = {symbol: n for symbol, n in manifest.elements.items() if n >= MIN_MOLECULES_PER_ELEMENT}
    rare = {symbol: n for symbol, n in manifest.elements.items() if n < MIN_MOLECULES_PER_ELEMENT}
    text = f"Molecules with any other element are refused. Training molecules with each: {_counts(supported)}."
    if rare:
        text += f"\n\nSeen in fewer than {MIN_MOLECULES_PER_ELEMENT} molecules, hence refused: {_counts(rare)}."
    return text


def _counts(elements: Mapping[str, int]) -> str:
    ordered = sorted(elements.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{symbol} {count:,}" for symbol, count in ordered) or "none"


def _usage(manifest: Manifest) -> str:
    if manifest.inputs.periodic:
        return f"```bash\ngeomformer predict slab.traj --model {manifest.reference} --out relaxed.extxyz\n```"
    if manifest.answer is None:
        return f"```bash\ngeomformer evaluate --task {manifest.task} --model {manifest.reference}\n```"
    return f"```bash\ngeomformer predict FILE --model {manifest.reference} --out OUT\n```"


def _bullets(values: Mapping[str, Any]) -> str:
    return "\n".join(f"- {' / '.join(path)}: {_format(value)}" for path, value in _leaves(values))


def _leaves(values: Mapping[str, Any], path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    found: list[tuple[tuple[str, ...], Any]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _leaves(value, (*path, name))
        else:
            found.append(((*path, name), value))
    return found


def _format(value: Any) -> str:
    if value is None:
        return "not available"
    if isinstance(value, bool):
        return _yes(value)
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(_format(item) for item in value)
    return str(value)


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _yes(value: bool) -> str:
    return "yes" if value else "no"
