#!/usr/bin/env bash
# Builds the EMT dataset, trains both catalyst models on it and prints their tables: recipes/emt/run.sh
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
python "$here/build_data.py" --out data/prepared/emt --systems 12000 --workers 2
python "$here/baselines.py" --data data/prepared/emt
for task in is2re is2rs; do
    geomformer train --task "$task" --config "$here/$task.yaml" --out "runs/$task-emt" --name "$task-emt"
    geomformer evaluate --task "$task" --model "$task-emt" --data emt
done
