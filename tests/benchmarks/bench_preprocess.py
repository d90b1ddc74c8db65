"""What preparing a dataset costs besides the chemistry: a stand-in gives every molecule a ready record at no cost.

python tests/benchmarks/bench_preprocess.py --rows 1000 10000 100000 --executors local ray --workers 2
python tests/benchmarks/bench_preprocess.py --rows 6000 --workers 64 --pause 0.16

Every case runs in a process of its own. Columns: records per second; CPU time of the main process per record and, from
that, the number of cores that real chemistry at `--chemistry-seconds` per molecule could keep busy before the main
process is the limit; the highest anonymous memory of the main process and of the largest worker, in MiB.
With `--pause` a worker sleeps that long per row, so that a few cores can play the part of many.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import dataclasses
import json
import pstats
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from geomformer.chem.build import ChemistryOptions, build_record
from geomformer.datasets.options import PrepareOptions
from geomformer.datasets.pipeline import prepare_rows
from geomformer.prepared.storage import DatasetDescription
from geomformer.records import RawMolecule, Record

SMILES = "COc1cc(CC(C)N)ccc1OC"
"""14 heavy atoms, as many as the average molecule of PCQM4Mv2 has."""

CONFORMERS = 8
SHARD_ROWS = 500
"""The same for every number of rows, because the main process holds a shard."""

TARGETS = {"gap": "ev"}


class StandIn:
    """Gives every row the record of one molecule, made once, with its own coordinates so that nothing compresses.

    Args:
        pause: seconds to sleep per row.
    """

    def __init__(self, pause: float) -> None:
        self.pause = pause
        self.record: Record | None = None

    def __call__(self, raw: RawMolecule) -> Record:
        if self.record is None:
            self.record = build_record(raw, ChemistryOptions(num_conformers=CONFORMERS))
        time.sleep(self.pause)
        shift = np.random.default_rng(raw.index).random(self.record.positions.shape, np.float32)
        return dataclasses.replace(
            self.record, id=raw.id, positions=self.record.positions + shift, targets=dict(raw.targets)
        )


def rows(count: int) -> Iterator[RawMolecule]:
    """Rows such as those of PCQM4Mv2: a SMILES, a label, and a mol block with the reference geometry."""
    mol = Chem.AddHs(Chem.MolFromSmiles(SMILES))
    rdDistGeom.EmbedMolecule(mol, randomSeed=1)
    block = Chem.MolToMolBlock(mol)
    for index in range(count):
        text = f"{index:<80}{block[block.index(chr(10)) :]}"
        yield RawMolecule(index, str(index), SMILES, targets={"gap": 5.0}, reference_block=text, split="train")


def anonymous(pid: int | str) -> int:
    """Anonymous memory of a process in KiB; 0 when it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1])
    return 0


def workers_of(pid: int) -> list[int]:
    """Worker processes among the descendants of a process; those of Ray are its grandchildren."""
    parents, lines = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            lines[int(folder.name)] = (folder / "cmdline").read_text()

    def below(child: int) -> bool:
        parent = parents.get(child, 0)
        return parent == pid or (parent > 1 and below(parent))

    return [child for child, line in lines.items() if "spawn_main" in line and below(child)]


class Memory(threading.Thread):
    """Follows the memory of this process and of its workers, in KiB."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.parent = self.worker = 0
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.25):
            self.parent = max(self.parent, anonymous(self.pid))
            self.worker = max([self.worker, *map(anonymous, workers_of(self.pid))])


def measure(count: int, arguments: argparse.Namespace) -> dict[str, float]:
    """One case, in this process."""
    options = PrepareOptions(workers=arguments.workers, executor=arguments.executors[0], shard_rows=SHARD_ROWS)
    marks: list[tuple[float, float]] = []

    def progress(done: int, _: int | None) -> None:
        # Starting processes and importing RDKit is not what a long run spends its time on.
        if done == count // 10 or done == count:
            usage = resource.getrusage(resource.RUSAGE_SELF)
            marks.append((time.perf_counter(), usage.ru_utime + usage.ru_stime))

    profiler = cProfile.Profile()
    with tempfile.TemporaryDirectory(prefix="bench-preprocess-") as folder:
        if arguments.profile:
            profiler.enable()
        prepare_rows(
            rows(count),
            Path(folder) / "out",
            DatasetDescription("bench", TARGETS),
            options,
            build=StandIn(arguments.pause),
            total=count,
            progress=progress,
        )
        profiler.disable()
    if arguments.profile:
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(25)
    (start, cpu_start), (end, cpu_end) = marks
    timed = count - count // 10
    return {"per_second": timed / (end - start), "cpu_us": 1e6 * (cpu_end - cpu_start) / timed}


def case(count: int, executor: str, arguments: argparse.Namespace) -> dict[str, float]:
    """One case, in a process of its own."""
    command = [sys.executable, __file__, "--rows", str(count), "--executors", executor, "--single"]
    command += [
        "--workers",
        str(arguments.workers),
        "--pause",
        str(arguments.pause),
        *(["--profile"] if arguments.profile else []),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        memory = Memory(process.pid)
        memory.start()
        output, _ = process.communicate()
        memory.ended.set()
    if process.returncode:
        raise SystemExit(f"{executor}, {count} rows: failed")
    return {**json.loads(output), "parent_mib": memory.parent / 1024, "worker_mib": memory.worker / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--executors", nargs="+", choices=["local", "ray"], default=["local"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--chemistry-seconds", type=float, default=0.16, help="CPU seconds of real chemistry per row")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds to sleep per row in the worker")
    parser.add_argument("--profile", action="store_true", help="profile the main process, to stderr")
    parser.add_argument("--single", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.single:
        print(json.dumps(measure(arguments.rows[0], arguments)))
        return
    print("executor    rows  records/s  parent us/record  cores fed  parent MiB  worker MiB")
    for executor in arguments.executors:
        for count in arguments.rows:
            r = case(count, executor, arguments)
            fed = arguments.chemistry_seconds * 1e6 / r["cpu_us"]
            print(
                f"{executor:8}{count:8}{r['per_second']:11.0f}{r['cpu_us']:18.1f}{fed:11.0f}"
                f"{r['parent_mib']:12.0f}{r['worker_mib']:12.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
