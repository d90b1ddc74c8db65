#!/usr/bin/env bash
# Trains and judges a model of energies and forces on one molecule of rMD17, published split 1, and follows the molecule
# with it: recipes/md17/run.sh [MOLECULE] [PRESET]
# (aspirin and md17-improved if not named; half an hour on one CPU core for ethanol, an hour for aspirin)
set -euo pipefail
molecule=${1:-aspirin}
preset=${2:-md17-improved}
name="$preset-$molecule"
geomformer preprocess rmd17 --molecule "$molecule"
geomformer train --preset "$preset" --data "rmd17/$molecule" --out "runs/$name" --name "$name"
geomformer evaluate --task md17 --model "$name" --data "rmd17/$molecule" --split test
python "$(dirname "$0")/dynamics.py" "$name" --data "rmd17/$molecule"
