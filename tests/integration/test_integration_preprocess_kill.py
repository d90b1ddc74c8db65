"""`geomformer preprocess` killed without warning at any moment, and run again."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROWS = Path(__file__).parents[2] / "data" / "samples" / "pcqm4mv2_valid.csv"
pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("in") / "in.csv"
    with ROWS.open(newline="") as source, path.open("w", newline="") as target:
        writer = csv.writer(target)
        for _, row in zip(range(401), csv.reader(source), strict=False):
            writer.writerow(row)
    return path


def start(table: Path, out: Path, *more: str) -> subprocess.Popen[bytes]:
    """Starts the command and its workers in a session of their own."""
    words = ("preprocess", "custom", str(table), "--target", "gap_ev", "--conformers", "1", "--workers", "2")
    return subprocess.Popen(
        [sys.executable, "-m", "geomformer_cli", *words, "--out", str(out), *more],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def finished_shards(out: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every shard that counts as finished: its sidecar is there."""
    numbers = {path.stem for path in out.glob(".building/[0-9]*.json")}
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in out.glob("*-*.parquet")
        if path.stem.rsplit("-", 1)[1] in numbers
    }


def content(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.is_file()}


@pytest.fixture(scope="module")
def whole(table: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], float]:
    """Content of an unbroken run, and how long it took."""
    out = tmp_path_factory.mktemp("whole") / "out"
    began = time.monotonic()
    assert start(table, out).wait() == 0
    return content(out), time.monotonic() - began


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments(
    table: Path, whole: tuple[dict[str, bytes], float], tmp_path: Path, kills: int
) -> None:
    expected, seconds = whole
    out = tmp_path / "broken"
    kept: dict[str, tuple[int, int]] = {}
    moments = [random.SystemRandom().uniform(0.1, 1.0) * seconds for _ in range(kills)]
    for moment in moments:
        child = start(table, out)
        time.sleep(moment)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        found = finished_shards(out)
        assert kept.items() <= found.items() or (out / "manifest.json").exists(), "a finished shard was made again"
        kept = found or kept
    assert start(table, out).wait() == 0
    print(f"killed after {', '.join(f'{moment:.1f}' for moment in moments)} s of {seconds:.1f}")
    assert content(out) == expected
    assert kept.items() <= {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in out.glob("*.parquet")}.items()


def test_parts_at_the_same_time_make_the_same_bytes(
    table: Path, whole: tuple[dict[str, bytes], float], tmp_path: Path
) -> None:
    jobs = [start(table, tmp_path / "parts", "--shard", f"{i}/2") for i in (1, 2)]
    assert [job.wait() for job in jobs] == [0, 0]
    assert content(tmp_path / "parts") == whole[0]
