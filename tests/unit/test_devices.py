"""What the C library does with freed memory."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest

from geomformer.devices import keep_freed_memory

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


def test_thresholds_that_are_refused_leave_all_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Older glibc takes at most 32 MiB for the threshold of mapped memory, which has to be set first."""
    for most, expected in ((2**31 - 1, [-3, -1]), (32 * 2**20, [-3, -3, -1]), (0, [-3, -3])):
        asked: list[int] = []

        def mallopt(parameter: int, value: int, most: int = most, asked: list[int] = asked) -> int:
            asked.append(parameter)
            return int(parameter == -1 or value <= most)

        monkeypatch.setattr(ctypes, "CDLL", lambda _, mallopt=mallopt: SimpleNamespace(mallopt=mallopt))
        keep_freed_memory()
        assert asked == expected


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_freed_memory_is_used_again() -> None:
    """Three tensors of 80 MB take 58,594 new pages of 4 KiB, or none if they lie where the ones before have lain."""

    def new_pages(call: str) -> int:
        command = [sys.executable, "-c", PAGES.format(call=call)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert new_pages("keep_freed_memory()") < 1_000 < new_pages("") / 2
