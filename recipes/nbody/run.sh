#!/usr/bin/env bash
# Simulates the N-body benchmark, trains on it and prints the errors of the official splits: recipes/nbody/run.sh [PRESET]
# On one core PRESET nbody-small (the default) takes about ten minutes, nbody-reversed (each training window backwards, too)
# and nbody-improved (31 windows of each training trajectory) twenty to thirty, nbody-paper (10,000 epochs, as printed) one to
# two days.
# EGNN as its authors train it, for longer than nbody-small: geomformer train --config recipes/nbody/egnn.yaml
set -euo pipefail
preset=${1:-nbody-small}
geomformer preprocess nbody
[ "$preset" != nbody-reversed ] || geomformer preprocess nbody --time-reversed
[ "$preset" != nbody-improved ] || geomformer preprocess nbody --all-windows
geomformer train --preset "$preset" --out "runs/$preset" --name "$preset"
geomformer evaluate --task nbody --model "$preset" --data nbody --split valid --split test
