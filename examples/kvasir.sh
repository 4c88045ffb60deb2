#!/usr/bin/env bash
# The study of docs/results/kvasir.md: few masks, many images, from scratch on two CPU cores.
# Usage: examples/kvasir.sh DATA RUNS [stage ...], where DATA is Kvasir-SEG with a splits.json.
# Every stage goes on where it stopped; run two scripts side by side (OMP_NUM_THREADS=1) to use both cores.
set -euo pipefail
data=$1 runs=$2
shift 2

backbone() { siamese-diffusion pretrain --images "$data" --out "$runs/backbone" --set pretrain.steps=4000 \
    --set pretrain.sample_every=400 --set pretrain.checkpoint_every=200 --resume; }

train() { # METHOD PAIRS
    siamese-diffusion train --data "$data" --backbone "$runs/backbone" --method "$1" --out "$runs/$1-$2" \
        --set data.limit="$2" --set train.steps=400 --set train.sample_every=100 --set train.checkpoint_every=100 \
        --set train.keep=1 --set sample.scheduler=dpm --set sample.steps=12 --resume; }

judge() { siamese-diffusion segment --train "$data" --test "$data" --out "$runs/judge" --set segment.resolution=64 \
    --set segment.steps=450 --set segment.sample_every=150 --set segment.checkpoint_every=450 --resume; }

draw() { # METHOD PAIRS STEPS: as many pairs as in training with the real masks, and as many with random ones
    siamese-diffusion sample --checkpoint "$runs/$1-$2" --masks "$data" --out "$runs/$1-$2-real" \
        --mask-guidance 2 --steps "$3" --seed 0 --resume
    siamese-diffusion sample --checkpoint "$runs/$1-$2" --masks "$data" --out "$runs/$1-$2-random" \
        --random-masks flip-scale-shift --mask-guidance 2 --steps "$3" --seed 1 --resume; }

score() { # METHOD PAIRS
    for masks in real random; do
        siamese-diffusion evaluate --real "$data" --synthetic "$runs/$1-$2-$masks" --judge "$runs/judge" \
            --out "$runs/score-$1-$2-$masks" --resume
    done; }

segment() { # ARM PAIRS SEED
    local synthetic=()
    [ "$1" = real ] || synthetic=(--synthetic "$runs/$1-$2-real" --synthetic "$runs/$1-$2-random")
    siamese-diffusion segment --train "$data" --test "$data" "${synthetic[@]}" --out "$runs/unet-$1-$2-seed$3" \
        --set data.limit="$2" --set segment.resolution=64 --set segment.steps=160 --set segment.warmup=20 \
        --set segment.sample_every=40 --set segment.checkpoint_every=160 --set segment.seed="$3" --resume; }

if [ $# -gt 0 ]; then
    "$@"
else
    backbone
    judge
    for pairs in 100 400; do
        for method in mask-only siamese; do
            train $method $pairs
            draw $method $pairs $((pairs == 100 ? 12 : 8))
            score $method $pairs
        done
        for seed in 0 1 2; do
            for arm in real mask-only siamese; do segment $arm $pairs $seed; done
        done
    done
    python "$(dirname "$0")/kvasir_table.py" "$runs"
fi
