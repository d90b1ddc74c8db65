"""Keeps a trained model in this repository: evaluated on every labelled split of a dataset, weights in 16 bits.

    python recipes/keep.py is2re-emt --data data/prepared/emt --note "..."

The copy is the next version of the model's name below `data/models`; its card holds the metrics of this evaluation,
those of the stored weights, and the note on where not to trust it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from geomformer import api
from geomformer.artifacts.selftest import tensors_to_batch
from geomformer.artifacts.store import Artifact, load_artifact, save_artifact
from geomformer.artifacts.weights import read_tensors

DTYPE = "float16"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="trained model: name, NAME@VERSION or folder")
    parser.add_argument("--data", required=True, help="prepared dataset: name or folder")
    parser.add_argument("--name", help="of the copy; the model's own by default")
    parser.add_argument("--note", required=True, help="where not to trust it, for the card")
    parser.add_argument("--into", type=Path, default=Path("data/models"))
    arguments = parser.parse_args()
    source = load_artifact(arguments.model, api.models_root())
    name = arguments.name or source.manifest.name
    with tempfile.TemporaryDirectory() as folder:
        rounded = copy(source, name, Path(folder), {}, arguments.note)
        found = api.evaluate(arguments.data, model=str(rounded.path))
    metrics = {**found["splits"], "average": found["average"]}
    kept = copy(source, name, arguments.into, metrics, arguments.note)
    print(kept.path)


def copy(source: Artifact, name: str, into: Path, metrics: dict[str, dict[str, float]], note: str) -> Artifact:
    path = source.path / "selftest.safetensors"
    return save_artifact(
        into,
        name,
        source.model(),
        source.config,
        **source.facts,
        metrics=metrics,
        selftest_batch=tensors_to_batch(read_tensors(path), path),
        card=note,
        weights_dtype=DTYPE,
    )


if __name__ == "__main__":
    main()
