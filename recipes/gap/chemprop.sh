#!/usr/bin/env bash
# chemprop with its defaults beside our networks, on the same rows without QM9, of the graph alone and with the energies of
# frontier orbitals: recipes/gap/chemprop.sh CHEMPROP_PYTHON
# CHEMPROP_PYTHON: of an environment of its own with chemprop==2.3.1. Needs its data:
# python recipes/gap/build_data.py RAW --only gap-alone --only gap-pcqm4mv2-valid
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
chemprop=$(dirname "$1")/chemprop
out=runs/chemprop
test=gap-pcqm4mv2-valid
mkdir -p evaluations

learn() { # FOLDER [OPTION...]
    "$chemprop" train --data-path $out/rows.csv --smiles-columns smiles --target-columns gap --splits-column split \
        --task-type regression --epochs 40 --accelerator cpu --output-dir "$@"
}

python "$here/yardstick.py" table --data data/prepared/gap-alone --test data/prepared/$test --out $out/rows.csv \
    --orbitals $out/orbitals.npz
learn $out/model
learn $out/model-orbitals --descriptors-path $out/orbitals.npz --no-descriptor-scaling
geomformer train --task gap --config "$here/alone.yaml" --out runs/gap-alone --name gap-alone --device cpu
geomformer train --task gap --config "$here/alone-orbitals.yaml" --out runs/gap-orbitals --name gap-orbitals --device cpu
for model in gap-alone@1 gap-orbitals@1 gap-geomformer@5; do
    geomformer evaluate --data $test --model $model --split test --conformers 4 --out evaluations/${model/@/-}
done
for name in model model-orbitals; do
    python "$here/yardstick.py" compare $out/rows.csv $out/$name/model_0/test_predictions.csv \
        evaluations/gap-alone-1/test_gap.csv evaluations/gap-orbitals-1/test_gap.csv evaluations/gap-geomformer-5/test_gap.csv
done
