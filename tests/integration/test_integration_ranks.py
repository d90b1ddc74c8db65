"""Two training processes on one machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from checks.molecules import toy_config, toy_splits, write_dataset

from geomformer.config.load import to_yaml

SCRIPT = """
import os, sys
from pathlib import Path
from geomformer import api
from geomformer.config.load import load_config

root = Path(sys.argv[1])
config = load_config(root / "config.yaml")
result = api.train(config, root=root, models=root / "models", name="toy", device="cpu", devices=2)
(root / "result").mkdir(exist_ok=True)
(root / "result" / os.environ.get("LOCAL_RANK", "0")).write_text(f"{result.reference} {result.run}")
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="starts ranks by fork and exec")
def test_two_ranks_make_one_run_and_one_model(tmp_path: Path) -> None:
    write_dataset(tmp_path / "prepared" / "toy", toy_splits())
    (tmp_path / "config.yaml").write_text(to_yaml(toy_config(train={"max_steps": 6})))
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, str(tmp_path / "script.py"), str(tmp_path)]
    found = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    results = {path.name: path.read_text() for path in (tmp_path / "result").iterdir()}
    assert set(results) == {"0", "1"} and results["0"] == results["1"]
    assert [path.name for path in (tmp_path / "models" / "toy").iterdir()] == ["1"]
    (run,) = (tmp_path / "runs").iterdir()
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 5, 6, 6]
