"""Devices by the name a user gives."""

from __future__ import annotations

from geomformer.errors import ConfigError


def resolve_device(name: str) -> str:
    """Returns a torch device: "auto" is the first GPU if there is a usable one, else the CPU.

    Raises:
        ConfigError: there is no such device here.
    """
    import torch

    usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda" if usable else "cpu"
    kind, _, number = name.partition(":")
    if kind == "cpu" and not number:
        return name
    if kind == "cuda" and (not number or number.isdigit()):
        if int(number or 0) < usable:
            return name
        raise ConfigError(f"--device {name}: this machine has {usable} usable CUDA devices.", "Use --device cpu.")
    raise ConfigError(f"--device {name}: expected auto, cpu, cuda or cuda:NUMBER.")
