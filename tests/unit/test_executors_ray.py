from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from geomformer.chem.build import ChemistryOptions, build
from geomformer.errors import ConfigError, MoleculeError
from geomformer.executors import Failure, LocalExecutor
from geomformer.executors.ray import RayExecutor
from geomformer.records import RawMolecule, Record

pytest.importorskip("ray")

HELPERS = """
import os, signal, sys, time
from pathlib import Path
from geomformer.errors import MoleculeError

def slow_double(x):
    time.sleep(0.01 * (x % 3))
    return 2 * x

def double(x):
    return 2 * x

def dies(x):
    if x in (3, 11):
        os._exit(7)
    return x

def hangs(x):
    if x == 2:
        time.sleep(600)
    return x

def takes_the_ray_worker_along(x, folder, times):
    if x == 5 and len(list(Path(folder).iterdir())) < times:
        (Path(folder) / str(time.time_ns())).touch()
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
    return x

def raises(x):
    if x == 4:
        raise MoleculeError("failed", "no such bond")
    return x

def state(x):
    return "torch" in sys.modules, "ray" in sys.modules, os.environ["OMP_NUM_THREADS"]
"""


@pytest.fixture(scope="module")
def helpers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    folder = tmp_path_factory.mktemp("helpers")
    (folder / "ray_executor_helpers.py").write_text(HELPERS)
    sys.path.insert(0, str(folder))
    import ray_executor_helpers  # type: ignore[import-not-found]

    yield ray_executor_helpers
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def cluster(helpers: object) -> Iterator[None]:
    """A cluster that outlives the executors of the tests, which must not stop it."""
    import ray

    owner = RayExecutor(workers=2)
    assert list(owner.map(len, ["ab"])) == [2]
    yield
    assert ray.is_initialized()
    owner.close()
    assert not ray.is_initialized()


def test_numbers_are_checked() -> None:
    for arguments in ({"workers": 0}, {"timeout": 0.0}, {"chunk_size": 0}):
        with pytest.raises(ConfigError, match="workers >= 1"):
            RayExecutor(**arguments)  # type: ignore[arg-type]


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'geomformer\[ray\]'"):
        RayExecutor()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense"])
def test_without_a_cluster(address: str) -> None:
    with pytest.raises(ConfigError, match=f"No Ray cluster could be used at {address}"):
        list(RayExecutor(address).map(len, ["a"]))


def test_executors_do_not_load_ray() -> None:
    code = "import sys, geomformer.executors.ray; assert 'ray' not in sys.modules"
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


@pytest.mark.usefixtures("cluster")
class TestOnACluster:
    def test_results_come_in_order(self, helpers) -> None:  # type: ignore[no-untyped-def]
        with RayExecutor(chunk_size=4) as executor:
            assert list(executor.map(helpers.slow_double, range(60))) == [2 * x for x in range(60)]
            assert list(executor.map(helpers.double, [])) == []
            assert list(executor.map(helpers.double, [5])) == [10]

    def test_items_are_pulled_as_needed(self, helpers) -> None:  # type: ignore[no-untyped-def]
        pulled = 0

        def endless() -> Iterator[int]:
            nonlocal pulled
            while True:
                pulled += 1
                yield pulled

        with RayExecutor(chunk_size=2, workers=1) as executor:
            results = executor.map(helpers.double, endless())
            assert pulled == 0
            for taken in range(1, 60):
                assert next(results) == 2 * taken
                assert pulled <= taken + 16

    def test_a_dying_process_costs_one_item(self, helpers) -> None:  # type: ignore[no-untyped-def]
        with RayExecutor() as executor:
            results = list(executor.map(helpers.dies, range(40)))
        died = {x: Failure(x, "the worker process died") for x in (3, 11)}
        assert results == [died.get(x, x) for x in range(40)]

    def test_a_hanging_item_is_stopped(self, helpers) -> None:  # type: ignore[no-untyped-def]
        start = time.monotonic()
        with RayExecutor(timeout=0.5) as executor:
            results = list(executor.map(helpers.hangs, range(6)))
        assert results == [0, 1, Failure(2, "took longer than 0.5 s and was stopped"), 3, 4, 5]
        assert time.monotonic() - start < 60

    @pytest.mark.parametrize(("times", "expected"), [(2, 5), (100, Failure(5, "the worker process died"))])
    def test_a_lost_ray_worker(self, helpers, tmp_path: Path, times: int, expected: object) -> None:  # type: ignore[no-untyped-def]
        function = partial(helpers.takes_the_ray_worker_along, folder=str(tmp_path), times=times)
        with RayExecutor(chunk_size=4) as executor:
            results = list(executor.map(function, range(12)))
        assert results == [expected if x == 5 else x for x in range(12)]
        assert len(list(tmp_path.iterdir())) <= 4

    def test_the_original_exception_is_raised_in_its_place(self, helpers) -> None:  # type: ignore[no-untyped-def]
        with RayExecutor() as executor:
            results = executor.map(helpers.raises, range(9))
            assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
            with pytest.raises(MoleculeError, match="no such bond") as caught:
                next(results)
        assert caught.value.status == "failed"

    def test_a_function_that_workers_cannot_load(self, helpers, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
        monkeypatch.setattr(helpers.double, "__qualname__", "absent")
        monkeypatch.setattr(helpers.double, "__name__", "absent")
        monkeypatch.setattr(helpers, "absent", helpers.double, raising=False)
        with RayExecutor() as executor, pytest.raises(AttributeError, match="absent"):
            list(executor.map(helpers.double, [1]))

    def test_processes_are_light(self, helpers) -> None:  # type: ignore[no-untyped-def]
        with RayExecutor() as executor:
            assert list(executor.map(helpers.state, [0])) == [(False, False, "1")]

    def test_an_abandoned_run_frees_the_cluster(self, helpers) -> None:  # type: ignore[no-untyped-def]
        with RayExecutor() as executor:
            next(executor.map(time.sleep, [0.0, *[600.0] * 20]))
        with RayExecutor() as executor:
            assert list(executor.map(helpers.double, range(4))) == [0, 2, 4, 6]

    def test_molecules_as_by_the_local_executor(self) -> None:
        texts = ["CCO", "CC(", "c1ccccc1O", "CC(C)Cc1ccc(C(C)C(=O)O)cc1", "[Na+].[Cl-]", "C[C@H](N)C(=O)O"]
        raws = [RawMolecule(i, str(i), text, targets={"gap": float(i)}) for i, text in enumerate(texts)]
        function = partial(build, options=ChemistryOptions(num_conformers=2))
        with RayExecutor(chunk_size=2) as executor, LocalExecutor(workers=1) as local:
            pairs = list(zip(executor.map(function, raws), local.map(function, raws), strict=True))
        assert sum(isinstance(ours, Record) for ours, _ in pairs) == 5
        for ours, theirs in pairs:
            if isinstance(theirs, Record):
                np.testing.assert_equal(vars(ours), vars(theirs))
            else:
                assert repr(ours) == repr(theirs)
