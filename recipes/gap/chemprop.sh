#!/usr/bin/env bash
# chemprop with its defaults beside our network, on the same rows without QM9: recipes/gap/chemprop.sh CHEMPROP_PYTHON
# CHEMPROP_PYTHON: of an environment of its own with chemprop==2.3.1. Needs its data:
# python recipes/gap/build_data.py RAW --only gap-alone --only gap-pcqm4mv2-valid
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
out=runs/chemprop
test=gap-pcqm4mv2-valid
mkdir -p evaluations
python "$here/yardstick.py" table --data data/prepared/gap-alone --test data/prepared/$test --out $out/rows.csv
"$(dirname "$1")/chemprop" train --data-path $out/rows.csv --smiles-columns smiles --target-columns gap \
    --splits-column split --task-type regression --epochs 40 --output-dir $out/model --accelerator cpu
geomformer train --task gap --config "$here/alone.yaml" --out runs/gap-alone --name gap-alone --device cpu
for model in gap-alone@1 gap-geomformer@3; do
    geomformer evaluate --data $test --model $model --split test --conformers 4 --out evaluations/${model/@/-}
done
python "$here/yardstick.py" compare $out/rows.csv $out/model/model_0/test_predictions.csv \
    evaluations/gap-alone-1/test_gap.csv evaluations/gap-geomformer-3/test_gap.csv
