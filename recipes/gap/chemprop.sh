#!/usr/bin/env bash
# chemprop with its defaults beside our networks, on the same rows without QM9, of the graph alone and with the energies of
# frontier orbitals by either theory: recipes/gap/chemprop.sh CHEMPROP_PYTHON
# CHEMPROP_PYTHON: of an environment of its own with chemprop==2.3.1. Needs its data:
# python recipes/gap/build_data.py RAW --only gap-alone --only gap-pcqm4mv2-valid --only gap-alone-xtb \
#     --only gap-pcqm4mv2-valid-xtb
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
chemprop=$(dirname "$1")/chemprop
out=runs/chemprop
mkdir -p evaluations

learn() { # ROWS FOLDER [OPTION...]
    "$chemprop" train --data-path "$1" --smiles-columns smiles --target-columns gap --splits-column split \
        --task-type regression --epochs 40 --accelerator cpu --output-dir "${@:2}"
}

judge() { # SUFFIX MODEL...
    local model tables=()
    for model in "${@:2}"; do
        geomformer evaluate --data "gap-pcqm4mv2-valid$1" --model "$model" --split test --conformers 4 \
            --out "evaluations/${model/@/-}"
        tables+=("evaluations/${model/@/-}/test_gap.csv")
    done
    for model in model "model-orbitals$1"; do
        python "$here/yardstick.py" compare "$out/rows$1.csv" "$out/$model/model_0/test_predictions.csv" "${tables[@]}"
    done
}

for theory in "" -xtb; do
    python "$here/yardstick.py" table --data "data/prepared/gap-alone$theory" \
        --test "data/prepared/gap-pcqm4mv2-valid$theory" --out "$out/rows$theory.csv" --orbitals "$out/orbitals$theory.npz"
    learn "$out/rows$theory.csv" "$out/model-orbitals$theory" --descriptors-path "$out/orbitals$theory.npz" \
        --no-descriptor-scaling
done
learn $out/rows.csv $out/model
for name in alone alone-orbitals alone-xtb; do
    # As run.sh names it, which may have trained it.
    [ -e "runs/gap-$name/result.json" ] ||
        geomformer train --task gap --config "$here/$name.yaml" --out "runs/gap-$name" --name "gap-$name" --device cpu
done
judge "" gap-alone@1 gap-alone-orbitals@1 gap-geomformer@6
judge -xtb gap-alone-xtb@1 gap-geomformer-xtb@3
