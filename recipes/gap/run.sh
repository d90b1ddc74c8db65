#!/usr/bin/env bash
# Makes both bundled gap models again: recipes/gap/run.sh RAW   (what RAW holds: recipes/gap/build_data.py)
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
python "$here/build_data.py" "$1" --out data/prepared --workers 2 --only gap-mixture-first --only gap-mixture \
    --only gap-mixture-third --only gap-pcqm4mv2-valid --only gap-qm9-test
geomformer train --task gap --config "$here/first.yaml" --out runs/gap-first --name gap-first
geomformer train --task gap --config "$here/second.yaml" --init gap-first --out runs/gap-second --name gap-second
geomformer train --task gap --config "$here/third.yaml" --init gap-second --out runs/gap-third --name gap-third
geomformer train --task gap --config "$here/fourth.yaml" --init gap-third --out runs/gap-fourth --name gap-fourth
geomformer train --task gap --config "$here/fifth.yaml" --init gap-fourth --out runs/gap-fifth --name gap-fifth
python "$here/average.py" gap-fourth gap-fifth --name gap-geomformer
python "$here/bundle.py" gap-geomformer

python "$here/build_data.py" "$1" --out data/prepared --workers 2 --only gap-alone-xtb --only gap-mixture-xtb \
    --only gap-pcqm4mv2-valid-xtb --only gap-qm9-test-xtb
geomformer train --task gap --config "$here/alone-xtb.yaml" --out runs/gap-alone-xtb --name gap-alone-xtb
geomformer train --task gap --config "$here/xtb.yaml" --init gap-alone-xtb --out runs/gap-xtb --name gap-geomformer-xtb
for seed in 2 3; do
    geomformer train --task gap --config "$here/alone-xtb.yaml" --seed $seed --set train.max_steps=6500 \
        --out runs/gap-alone-xtb-$seed --name gap-alone-xtb-$seed
done
geomformer models combine gap-alone-xtb-2 gap-alone-xtb-3 gap-geomformer-xtb --name gap-geomformer-xtb
python "$here/bundle.py" gap-geomformer-xtb --mixture gap-alone-xtb --suffix=-xtb
