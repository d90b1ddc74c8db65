#!/usr/bin/env bash
# Simulates the N-body benchmark, trains on it and prints the errors of the test split: recipes/nbody/run.sh [PRESET]
# PRESET nbody-small (the default) takes about a quarter of an hour on one core; nbody-paper (10,000 epochs, as printed)
# takes one to two days.
# EGNN as its authors train it, for the same time: geomformer train --config recipes/nbody/egnn.yaml
set -euo pipefail
preset=${1:-nbody-small}
geomformer preprocess nbody --out data/prepared/nbody
geomformer train --preset "$preset" --out "runs/$preset" --name "$preset"
geomformer evaluate --task nbody --model "$preset" --data nbody --split valid --split test
