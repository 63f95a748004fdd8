#!/usr/bin/env bash
# The seeds of each model and distribution under OUT/runs joined by the mean of their probabilities, and scored.
#
#   examples/seeds.sh OUT
set -euo pipefail
out=$1
lesionforge=${LESIONFORGE:-lesionforge}

for first in "$out"/runs/*-0; do
    name=$(basename "${first%-0}")
    seeds=()
    for folder in "$out/runs/$name"-[0-9]; do
        [ ! -e "$folder/evaluation" ] || seeds+=("$folder")
    done
    [ ${#seeds[@]} -gt 1 ] || continue
    $lesionforge ensemble --runs "${seeds[@]}" --out "$out/seeds/$name"
    $lesionforge evaluate --run "$out/seeds/$name" > /dev/null
done
