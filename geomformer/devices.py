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


def keep_freed_memory() -> None:
    """Has the C library keep the memory that this process frees, up to 2 GiB, instead of handing it back.

    The tensors of one training step are those of the next: handed back, all their pages are asked for and zeroed anew,
    which on two CPU cores takes a tenth of the step of a small model. Only glibc can be told so; elsewhere this does
    nothing. It holds for the whole process, so a program decides it, not the library.
    """
    import ctypes

    trim_threshold, mmap_threshold = -1, -3  # numbers of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # TypeError: Windows
        return
    for parameter in (trim_threshold, mmap_threshold):
        mallopt(parameter, 2**31 - 1)
