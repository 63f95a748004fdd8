#!/usr/bin/env bash
# What do synthetic lesions add? A generator from random weights, audited images, and classifiers at a matched budget.
#
#   examples/synthetic.sh DATA WEIGHTS OUT
#
# DATA     folder with train-image.hdf5, ground-truth.csv, metadata-rows.csv and split.csv (a patient-disjoint split)
# WEIGHTS  mobilenetv2_100_imagenet.safetensors, whose features the audit compares sets of images in
# OUT      where everything goes; run it again after an interruption, finished parts are left alone
# FAMILIES (resnet edgenext) and SEEDS (0 1 2) may be set; JOBS trainings run side by side (1)
#
# Every arm has the same 237 real malignant and 469 benign lesions (the super-downsampled counts, scaled to this data
# set) and as many steps; 0, 1 or 3 synthetic malignant lesions a real one are added, or the real ones are oversampled.
set -euo pipefail
data=$1 weights=$2 out=$3
lesionforge=${LESIONFORGE:-lesionforge}
real="--data.store $out/stores/real --data.split $out/splits/given"
cpu="--hardware.torch-threads 1 --hardware.loader-threads 1"

$lesionforge prepare --images "$data/train-image.hdf5" --ground-truth "$data/ground-truth.csv" \
    --metadata "$data/metadata-rows.csv" --out "$out/stores/real"
$lesionforge split --store "$out/stores/real" --by file --file "$data/split.csv" --out "$out/splits/given"

$lesionforge finetune --recipe generator_scratch_64 $real --out "$out/generators/scratch64" $cpu
$lesionforge generate --generator "$out/generators/scratch64" --num-images 1000 --guidance-scale 2 \
    --num-inference-steps 20 --batch-size 50 --out "$out/stores/candidates" $cpu
$lesionforge audit --candidates "$out/stores/candidates" $real --features.name mobilenetv2_100 \
    --features.weights "$weights" --features.image-size 128 --features.mean 0.5 0.5 0.5 --features.std 0.5 0.5 0.5 \
    --features.timm-args.pad_type same --cache "$out/cache" --out "$out/stores/synthetic" $cpu

run() { # FAMILY ARM SEED
    local name=$1-$2-$3 recipe=matched_budget_$2 changes=
    case $2 in
        1x) changes="--data.mix.synthetic-malignant 237 --data.synthetic $out/stores/synthetic" ;;
        3x) changes="--data.mix.synthetic-malignant 711 --data.synthetic $out/stores/synthetic" ;;
    esac
    $lesionforge train --recipe $recipe $real --data.mix.malignant 237 --data.mix.benign 469 $changes \
        --data.samples-per-epoch 704 --data.batch-size 32 --optim.epochs 30 --data.image-size 64 --val-every 0 \
        --model.name "$1:tiny" --model.weights random --optim.lr 1e-3 --seed "$3" --hardware.cache memory $cpu \
        --out "$out/runs/$name"
    $lesionforge predict --run "$out/runs/$name" --parts val $cpu
    $lesionforge evaluate --run "$out/runs/$name" > /dev/null
}
export -f run
export out lesionforge real cpu

for seed in ${SEEDS:-0 1 2}; do
    for family in ${FAMILIES:-resnet edgenext}; do
        for arm in ${ARMS:-0x 1x 3x oversampled}; do echo "$family $arm $seed"; done
    done
done | xargs -P "${JOBS:-1}" -L 1 bash -euc 'run "$@"' run
