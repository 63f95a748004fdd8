#!/usr/bin/env bash
# The ten families on real lesions, as docs/results-real.md reports them: the tiny member of each from random weights and
# MobileNetV2 from ImageNet weights, two training distributions, three seeds. Small images, for two CPU cores.
#
#   examples/families.sh DATA WEIGHTS OUT
#
# DATA     folder with train-image.hdf5, ground-truth.csv, metadata-rows.csv and split.csv (a patient-disjoint split)
# WEIGHTS  mobilenetv2_100_imagenet.safetensors, ImageNet weights whose batch norms are folded into the convolutions
# OUT      where stores, splits and runs go; run it again after an interruption, finished runs are left alone
# JOBS     (environment) trainings side by side, one thread each; 2 unless set
#
# Every run takes 660 steps of 32 images (30 epochs of 704), AdamW, warm-up and cosine, strong augmentation, and its last
# epoch's weights; val is scored once, at the end. One learning rate for all random weights, 1e-3, and 3e-5 for the
# pretrained ones, both as in real.sh: nothing is tuned for a family. Transformers run in bf16, which they gain from on a
# CPU. 64 px; EVA-02 70 px, since its patches have 14; MobileNetV2 96 px, nearer to the size of its weights.
set -euo pipefail
data=$1 weights=$2 out=$3
lesionforge=${LESIONFORGE:-lesionforge}

$lesionforge prepare --images "$data/train-image.hdf5" --ground-truth "$data/ground-truth.csv" \
    --metadata "$data/metadata-rows.csv" --out "$out/stores/real"
$lesionforge split --store "$out/stores/real" --by file --file "$data/split.csv" --out "$out/splits/given"

bf16="vit swin eva02 deit3 beitv2"
fp32="edgenext convnext resnet densenet efficientnet"

run() { # FAMILY MIX SEED
    local family=$1 mix=$2 seed=$3 name=$1-$2-$3 changes model
    case $mix in
        super) changes="--recipe super_downsampled --data.mix.scale auto" ;;
        balanced) changes="--recipe balanced_aug --data.mix.malignant all --data.mix.benign all" ;;
    esac
    model="--model.name $family:tiny --model.weights random --optim.lr 1e-3 --data.image-size 64"
    [[ " $bf16 " == *" $family "* ]] && model+=" --optim.precision bf16"
    [ "$family" = eva02 ] && model=${model/image-size 64/image-size 70}
    [ "$family" = mobilenetv2 ] && model="--model.name mobilenetv2_100 --model.weights $weights
        --model.freeze-batch-norm --model.mean 0.5 0.5 0.5 --model.std 0.5 0.5 0.5 --model.timm-args.pad_type same
        --optim.lr 3e-5 --data.image-size 96"
    $lesionforge train $changes $model --data.store "$out/stores/real" --data.split "$out/splits/given" \
        --out "$out/runs/$name" --seed "$seed" --data.samples-per-epoch 704 --data.batch-size 32 --optim.epochs 30 \
        --val-every 0 --hardware.torch-threads 1 --hardware.loader-threads 1 --hardware.cache memory
    $lesionforge predict --run "$out/runs/$name" --parts val --hardware.torch-threads 1
    $lesionforge evaluate --run "$out/runs/$name" > /dev/null
}
export -f run
export out weights lesionforge bf16

for seed in 0 1 2; do
    for family in $bf16 $fp32 mobilenetv2; do
        for mix in super balanced; do echo "$family $mix $seed"; done
    done
done | xargs -P "${JOBS:-2}" -L 1 bash -euc 'run "$@"' run

LESIONFORGE=$lesionforge "$(dirname "$0")/seeds.sh" "$out"
