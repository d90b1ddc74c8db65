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


def cpu_computes_bf16() -> bool:
    """Whether matrix products in bf16 are faster than in float32 on this CPU; without instructions they are slower."""
    import torch

    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def keep_freed_memory() -> None:
    """Has the C library keep the memory that this process frees, up to 2 GiB, instead of handing it back.

    The tensors of one training step are those of the next: handed back, all their pages are asked for and zeroed anew,
    which on two CPU cores takes a tenth of the step of a small model. Only glibc can be told so; elsewhere this does
    nothing. It holds for the whole process, so a program decides it, not the library.

    Older glibc refuses large thresholds. Set alone, the threshold of trimming would stop glibc from adapting the other
    one, and every tensor would be handed back: so it comes second.
    """
    import ctypes

    trim_threshold, mmap_threshold = -1, -3  # numbers of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # TypeError: Windows
        return
    if any(mallopt(mmap_threshold, most) for most in (2**31 - 1, 32 * 2**20)):
        mallopt(trim_threshold, 2**31 - 1)
