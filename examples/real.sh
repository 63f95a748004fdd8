#!/usr/bin/env bash
# The chain on real lesions, as docs/results-real.md reports it: three models, two training distributions.
#
#   examples/real.sh DATA WEIGHTS OUT [SEED]
#
# DATA     folder with train-image.hdf5, ground-truth.csv, metadata-rows.csv and split.csv (a patient-disjoint split)
# WEIGHTS  mobilenetv2_100_imagenet.safetensors, ImageNet weights whose batch norms are folded into the convolutions
# OUT      where stores, splits and runs go; run it again after an interruption, finished parts are left alone
#
# Both distributions get the same number of steps (22 a epoch, 40 epochs, 32 images a step). Before these
# runs one trial of MobileNetV2 with trained batch norm was scored on val (AUC 0.51); that led to the frozen ones. The
# learning rate of the pretrained network was then chosen by the training loss of three epochs.
set -euo pipefail
data=$1 weights=$2 out=$3 seed=${4:-0}
lesionforge=${LESIONFORGE:-lesionforge}

$lesionforge prepare --images "$data/train-image.hdf5" --ground-truth "$data/ground-truth.csv" \
    --metadata "$data/metadata-rows.csv" --out "$out/stores/real"
$lesionforge split --store "$out/stores/real" --by file --file "$data/split.csv" --out "$out/splits/given"

super="--recipe super_downsampled --data.mix.scale auto"
balanced="--recipe balanced_aug --data.mix.malignant all --data.mix.benign all --data.samples-per-epoch 704"
pretrained="--model.name mobilenetv2_100 --model.weights $weights --model.freeze-batch-norm --optim.lr 3e-5
    --model.mean 0.5 0.5 0.5 --model.std 0.5 0.5 0.5 --model.timm-args.pad_type same"
random="--model.weights random --optim.lr 1e-3"

run() { # NAME, then what differs
    local name=$1
    shift
    $lesionforge train --data.store "$out/stores/real" --data.split "$out/splits/given" --out "$out/runs/$name" \
        --seed "$seed" --data.image-size 128 --data.batch-size 32 --optim.epochs 40 --val-every 10 \
        --hardware.torch-threads 1 --hardware.cache memory "$@"
    $lesionforge predict --run "$out/runs/$name" --parts val --hardware.torch-threads 1
    $lesionforge evaluate --run "$out/runs/$name"
}

# One thread a run is faster on few cores than all threads in each: two chains side by side.
(
    run "edgenext_xx_small-super-$seed" $super $random --model.name edgenext_xx_small
    run "edgenext_xx_small-balanced-$seed" $balanced $random --model.name edgenext_xx_small
    run "efficientnet_lite0-super-$seed" $super $random --model.name efficientnet_lite0
) &
run "mobilenetv2-super-$seed" $super $pretrained
run "mobilenetv2-balanced-$seed" $balanced $pretrained
wait $!
run "efficientnet_lite0-balanced-$seed" $balanced $random --model.name efficientnet_lite0
