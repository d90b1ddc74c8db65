"""`geomformer config`: the presets, resolved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from geomformer_cli import console
from geomformer_cli.failures import guarded
from geomformer_cli.options import Json, Overrides

if TYPE_CHECKING:
    from geomformer.config.network import NetworkConfig

app = typer.Typer(help="List and show the configurations that come with geomformer.", no_args_is_help=True)


@app.command("list")
@guarded("")
def list_presets(json: Json = False) -> None:
    """List the presets: TASK-small trains anywhere, TASK-paper is the paper's."""
    from geomformer.config.load import load_config, preset_names

    presets = {name: load_config(name) for name in preset_names()}
    if json:
        console.result_json(list(presets))
        return
    rows = [
        [name, item.task.name, item.data.dataset, str(item.model.num_layers), str(item.model.embed_dim)]
        for name, item in presets.items()
    ]
    console.result_table(["preset", "task", "dataset", "layers", "channels"], rows, numbers=(3, 4))


@app.command(
    "show",
    epilog=(
        "Examples:\n\ngeomformer config show gap-small\n\n"
        "geomformer config show gap-small --set model.num_layers=6 > mine.yaml"
    ),
)
@guarded("")
def show(
    preset: Annotated[str, typer.Argument(help="Name of a preset, or a YAML file.", show_default=False)],
    set_: Overrides = None,
    json: Json = False,
) -> None:
    """Print a configuration with every value, and its number of parameters.

    The output is YAML that `geomformer train --config` reads.
    """
    from geomformer.config.load import load_config, to_yaml

    settings = load_config(preset, set_ or ())
    parameters = count_parameters(settings.model)
    if json:
        config = settings.model_dump(mode="json")
        console.result_json({"preset": settings.preset, "parameters": parameters, "config": config})
    else:
        console.result(f"# {parameters:,} parameters\n{to_yaml(settings).rstrip()}")


def count_parameters(model: NetworkConfig) -> int:
    """Counts the parameters of a network without allocating them."""
    import torch

    from geomformer.models import build_model

    with torch.device("meta"):
        network = build_model(model)
    return sum(parameter.numel() for parameter in network.parameters())
