"""Averages the weights of gap models that were trained on from one of them, and saves the mean as a model.

    python recipes/gap/average.py gap-fourth gap-fifth --name gap-geomformer

The models share configuration, targets and training data: weights that were trained apart from the start have no
meaningful mean ("model soups", Wortsman et al., ICML 2022).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from bundle import selftest_batch

from geomformer import api
from geomformer.artifacts.store import Artifact, load_artifact, save_artifact


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="+", help="NAME, NAME@VERSION or folder; the last one's configuration is kept")
    parser.add_argument("--name", required=True, help="name of the mean")
    parser.add_argument("--store", type=Path, help="folder of models")
    parser.add_argument("--data-root", type=Path)
    arguments = parser.parse_args()
    store = api.models_root(arguments.store)
    artifacts = [load_artifact(name, store) for name in arguments.models]
    last = artifacts[-1]
    check(artifacts)
    model = last.model()
    states = [artifact.model().state_dict() for artifact in artifacts]
    model.load_state_dict({name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]})
    valid = api.open_dataset(last.config.data.dataset, arguments.data_root).split("valid")
    facts = last.facts
    facts["training"] = facts["training"] | {"weights": f"mean of {', '.join(a.reference for a in artifacts)}"}
    saved = save_artifact(
        store,
        arguments.name,
        model,
        last.config,
        **facts,
        metrics={},
        selftest_batch=selftest_batch([valid[row] for row in range(3)]),
    )
    print(saved.reference)


def check(artifacts: list[Artifact]) -> None:
    """Ends with what differs."""
    last = artifacts[-1]
    for artifact in artifacts[:-1]:
        for name, mine, theirs in (
            ("networks", last.config.model, artifact.config.model),
            ("targets", last.manifest.targets, artifact.manifest.targets),
            ("training data", last.manifest.dataset["fingerprint"], artifact.manifest.dataset["fingerprint"]),
        ):
            if mine != theirs:
                raise SystemExit(f"{artifact.reference} and {last.reference} have different {name}: {theirs}; {mine}")


if __name__ == "__main__":
    main()
