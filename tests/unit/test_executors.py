from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from geomformer.chem.build import ChemistryOptions, build
from geomformer.errors import ConfigError, MoleculeError
from geomformer.executors import Failure, LocalExecutor
from geomformer.records import RawMolecule, Record

HELPERS = """
import os, signal, sys, time
from geomformer.errors import MoleculeError

def double(x):
    return 2 * x

def slow_double(x):
    time.sleep(0.02 * (x % 3))
    return 2 * x

def dies(x, how="exit"):
    if x in (3, 11):
        os._exit(7) if how == "exit" else os.kill(os.getpid(), signal.SIGSEGV)
    return x

def hangs(x):
    if x == 2:
        time.sleep(600)
    return x

def raises(x):
    if x == 4:
        raise MoleculeError("failed", "no such bond")
    return x

class Awkward(Exception):
    def __init__(self, a, b):
        super().__init__(a + b)

def raises_awkwardly(x):
    raise Awkward("a", "b")

def returns_a_lambda(x):
    return lambda: x

def big(x):
    return x + b"1"

def torch_loaded(x):
    return "torch" in sys.modules, os.environ["OMP_NUM_THREADS"]
"""


@pytest.fixture(scope="module")
def helpers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    folder = tmp_path_factory.mktemp("helpers")
    (folder / "executor_helpers.py").write_text(HELPERS)
    sys.path.insert(0, str(folder))
    import executor_helpers  # type: ignore[import-not-found]

    yield executor_helpers
    sys.path.remove(str(folder))


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    yield
    assert multiprocessing.active_children() == []


def test_results_come_in_order(helpers) -> None:  # type: ignore[no-untyped-def]
    with LocalExecutor(workers=2, chunk_size=4) as executor:
        assert list(executor.map(helpers.slow_double, range(60))) == [2 * x for x in range(60)]
        assert list(executor.map(helpers.double, [])) == []
        assert list(executor.map(helpers.double, [5])) == [10]


def test_inline() -> None:
    assert list(LocalExecutor(workers=0).map(len, ["a", "bc"])) == [1, 2]


@pytest.mark.parametrize("how", ["exit", "segfault"])
def test_a_dying_worker_costs_one_item(helpers, how: str) -> None:  # type: ignore[no-untyped-def]
    with LocalExecutor(workers=2) as executor:
        results = list(executor.map(partial(helpers.dies, how=how), range(20)))
    assert [r for r in results if isinstance(r, Failure)] == [
        Failure(3, "the worker process died"),
        Failure(11, "the worker process died"),
    ]
    assert [r for r in results if not isinstance(r, Failure)] == [x for x in range(20) if x not in (3, 11)]


def test_a_hanging_item_is_stopped(helpers) -> None:  # type: ignore[no-untyped-def]
    start = time.monotonic()
    with LocalExecutor(workers=1, timeout=0.5) as executor:
        results = list(executor.map(helpers.hangs, range(6)))
    assert results == [0, 1, Failure(2, "took longer than 0.5 s and was stopped"), 3, 4, 5]
    assert time.monotonic() - start < 60


def test_a_slow_reader_does_not_make_items_late(helpers) -> None:  # type: ignore[no-untyped-def]
    with LocalExecutor(workers=1, timeout=0.3) as executor:
        got = []
        for result in executor.map(helpers.double, range(24)):
            got.append(result)
            if result in (0, 10):
                time.sleep(0.5)
    assert got == [2 * x for x in range(24)]


def test_the_original_exception_is_raised_in_its_place(helpers) -> None:  # type: ignore[no-untyped-def]
    results = LocalExecutor(workers=1).map(helpers.raises, range(9))
    assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(MoleculeError, match="no such bond") as caught:
        next(results)
    assert caught.value.status == "failed"


def test_what_cannot_be_pickled_is_reported(helpers) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RuntimeError, match="Awkward: ab"):
        list(LocalExecutor(workers=1).map(helpers.raises_awkwardly, [1]))
    with pytest.raises((AttributeError, TypeError), match="lambda"):
        list(LocalExecutor(workers=1).map(helpers.returns_a_lambda, [1]))


def test_large_messages_do_not_block(helpers) -> None:  # type: ignore[no-untyped-def]
    items = [bytes(400_000) for _ in range(24)]
    with LocalExecutor(workers=1) as executor:
        assert all(len(result) == 400_001 for result in executor.map(helpers.big, items))


def test_items_are_pulled_as_needed(helpers) -> None:  # type: ignore[no-untyped-def]
    pulled = 0

    def endless() -> Iterator[int]:
        nonlocal pulled
        while True:
            pulled += 1
            yield pulled

    executor = LocalExecutor(workers=1, chunk_size=2)
    results = executor.map(helpers.double, endless())
    assert pulled == 0
    for taken in range(1, 40):
        assert next(results) == 2 * taken
        assert pulled <= taken + 8
    assert len(multiprocessing.active_children()) == 1
    executor.close()


def test_an_abandoned_run_ends_its_workers(helpers) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(KeyboardInterrupt), LocalExecutor(workers=1) as executor:
        next(executor.map(helpers.double, range(100)))
        raise KeyboardInterrupt


def test_workers_are_light(helpers) -> None:  # type: ignore[no-untyped-def]
    assert list(LocalExecutor(workers=1).map(helpers.torch_loaded, [0])) == [(False, "1")]


def test_numbers_are_checked() -> None:
    for arguments in ({"workers": -1}, {"timeout": 0.0}, {"chunk_size": 0}):
        with pytest.raises(ConfigError, match="workers >= 0"):
            LocalExecutor(**arguments)  # type: ignore[arg-type]


def test_molecules_in_workers() -> None:
    raws = [RawMolecule(i, str(i), text) for i, text in enumerate(["CCO", "CC(", "O"])]
    options = ChemistryOptions(num_conformers=1)
    with LocalExecutor(workers=1) as executor:
        results = list(executor.map(partial(build, options=options), raws))
    assert isinstance(results[0], Record) and isinstance(results[2], Record)
    assert isinstance(results[1], MoleculeError) and results[1].status == "unparsable"
    assert (results[0].positions == build(raws[0], options).positions).all()  # type: ignore[union-attr]


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_a_script_without_guard_and_its_workers_end_together(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import multiprocessing, time
            from geomformer.executors import LocalExecutor
            results = LocalExecutor(workers=1).map(time.sleep, [0.0, 500.0])
            next(results)
            print(multiprocessing.active_children()[0].pid, flush=True)
            next(results)
            """
        )
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    for _ in range(100):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        if "Z" in Path(f"/proc/{worker}/stat").read_text().split(")")[-1].split()[0]:
            return
        time.sleep(0.1)
    raise AssertionError("The worker outlived its parent.")
