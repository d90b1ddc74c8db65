#!/usr/bin/env bash
# Trains and judges a model of energies and forces on one molecule of rMD17, published split 1:
# recipes/md17/run.sh [MOLECULE]   (aspirin if not named; about 35 minutes on one CPU core)
set -euo pipefail
molecule=${1:-aspirin}
geomformer preprocess rmd17 --molecule "$molecule"
geomformer train --task md17 --data "rmd17/$molecule" --out "runs/md17-$molecule" --name "md17-$molecule"
geomformer evaluate --task md17 --model "md17-$molecule" --data "rmd17/$molecule" --split test
