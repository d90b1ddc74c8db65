#!/usr/bin/env bash
# Makes both bundled gap models again: recipes/gap/run.sh RAW   (what RAW holds: recipes/gap/build_data.py)
# Run again, it goes on with an interrupted training, and makes the models anew, as their next versions.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")

learn() { # RUN NAME OPTION...
    local resume=
    if [ -e "runs/$1/manifest.json" ]; then resume=--resume; fi
    geomformer train --task gap "${@:3}" --out "runs/$1" --name "$2" $resume
}

python "$here/build_data.py" "$1" --out data/prepared --workers 2 --only gap-mixture-first --only gap-mixture \
    --only gap-mixture-third --only gap-pcqm4mv2-valid --only gap-qm9-test
learn gap-first gap-first --config "$here/first.yaml"
learn gap-second gap-second --config "$here/second.yaml" --init gap-first
learn gap-third gap-third --config "$here/third.yaml" --init gap-second
learn gap-fourth gap-fourth --config "$here/fourth.yaml" --init gap-third
learn gap-fifth gap-fifth --config "$here/fifth.yaml" --init gap-fourth
python "$here/average.py" gap-fourth gap-fifth --name gap-geomformer
python "$here/bundle.py" gap-geomformer --mixture gap-mixture-third

python "$here/build_data.py" "$1" --out data/prepared --workers 2 --only gap-alone-xtb --only gap-mixture-xtb \
    --only gap-pcqm4mv2-valid-xtb
learn gap-alone-xtb gap-alone-xtb --config "$here/alone-xtb.yaml"
learn gap-xtb gap-xtb --config "$here/xtb.yaml" --init gap-alone-xtb
members=(gap-xtb)
for seed in 2 3 4 5; do
    steps=8000
    if [ $seed -lt 4 ]; then steps=6500; fi
    learn gap-alone-xtb-$seed gap-alone-xtb-$seed --config "$here/alone-xtb.yaml" --seed $seed --set train.max_steps=$steps
    members=(gap-alone-xtb-$seed "${members[@]}")
done
geomformer models combine "${members[@]}" --name gap-geomformer-xtb
python "$here/bundle.py" gap-geomformer-xtb --mixture gap-alone-xtb --suffix=-xtb
