"""What the C library does with freed memory."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

PAGES = """
import resource
import torch
from geomformer.devices import keep_freed_memory
{call}
def page_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.set_num_threads(1)
for _ in range(30):
    torch.ones(20_000_000)
before = page_faults()
for _ in range(3):
    torch.ones(20_000_000)
print(page_faults() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_freed_memory_is_used_again() -> None:
    """Three tensors of 80 MB take 58,594 new pages of 4 KiB, or none if they lie where the ones before have lain."""

    def new_pages(call: str) -> int:
        command = [sys.executable, "-c", PAGES.format(call=call)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert new_pages("keep_freed_memory()") < 1_000 < new_pages("") / 2
