#!/usr/bin/env bash
# What only a GPU can tell, on a machine that has Python, torch and nothing of ours.
#
#     OUT=DIR bash benchmarks/speed/gpu.sh [PART ...]
#
# Parts, in order of worth: sampling steps busy tests backbone arms compile real. Each has a time limit of its own and
# writes into OUT; one that fails stops no other, and none begins after DEADLINE seconds. Programs start slowly on a
# fresh machine (15 to 25 s each): two calls of eight minutes do all, `sampling steps busy tests` and
# `backbone arms compile real`.
# Ignored by git and sent along: .gpu/wheels (what the machine lacks, see docs/performance.md) and .gpu/kvasir-256.
# REHEARSE=1 runs everything at its tiniest size on the processor.
set -u
cd "$(dirname "$0")/../.."
speed=benchmarks/speed
OUT=${OUT:-gpu-results}
mkdir -p "$OUT"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
began=$(date +%s)

python3 -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --no-build-isolation \
    --disable-pip-version-check --target "$work/site" "${WHEELS:-.gpu/wheels}"/*.whl . 2>"$work/pip.log" \
    || { cat "$work/pip.log"; exit 1; }
export PYTHONPATH="$work/site" PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false CUBLAS_WORKSPACE_CONFIG=:4096:8
export HF_HUB_OFFLINE=1 TORCHINDUCTOR_CACHE_DIR="$work/inductor"
data=.gpu/kvasir-256

device=cuda size=sd15 batch=48 most=64 backbone_seconds=${BACKBONE_SECONDS:-120} arm_seconds=${ARM_SECONDS:-80}
more=(--set sample.scheduler=dpm --set sample.steps=20)
if [ -n "${REHEARSE:-}" ]; then
    device=cpu size=tiny batch=4 most=2 backbone_seconds=2 arm_seconds=2
    more+=(--copies 1 --set data.resolution=32
        --set "backbone.channels=[16, 32]" --set "backbone.attention=[false, true]" --set backbone.layers=1
        --set pretrain.batch_size=4 --set train.batch_size=4 --set sample.steps=2)
fi

part() { # NAME SECONDS COMMAND ...: what it prints goes to OUT/NAME.log
    local name=$1 limit=$2 start status left
    shift 2
    start=$(date +%s)
    left=$((${DEADLINE:-540} - start + began))
    [ $left -ge 15 ] || { echo "== $name: no time left"; return; }
    [ "$limit" -le $left ] || limit=$left
    timeout --signal=INT --kill-after=10 "$limit" "$@" >"$OUT/$name.log" 2>&1
    status=$?
    echo "== $name: exit $status after $(($(date +%s) - start)) s (at $(($(date +%s) - began)) s)"
    grep -vE 'USDT|━|^$' "$OUT/$name.log" | tail -n "${TAIL:-12}" | cut -c1-220
}

run_tests() { part tests 140 python3 -m pytest -q -p no:cacheprovider -rA -m gpu tests/test_gpu.py; }
run_steps() {
    part steps 150 python3 $speed/gpu_steps.py --size $size --batch $batch --device $device --out "$OUT/steps.json"
}
run_sampling() {
    part sampling 100 python3 $speed/gpu_sampling.py --size $size --most $most --device $device \
        --out "$OUT/sampling.json"
}
run_busy() {
    part busy 90 python3 $speed/gpu_busy.py --size $size --device $device --out "$OUT/busy.json"
    [ $size = tiny ] || part busy-medium 60 python3 $speed/gpu_busy.py --size medium --device $device \
        --out "$OUT/busy-medium.json"
}
run_backbone() {
    part backbone $((backbone_seconds + 75)) python3 $speed/gpu_study.py backbone --data $data --out "$work/study" \
        --device $device --seconds $backbone_seconds "${more[@]}"
    cp "$work"/study/backbone.json "$work"/study/backbone/samples/*.png "$OUT" 2>/dev/null
}
run_arms() {
    local method
    for method in mask-only siamese; do
        part arm-$method $((arm_seconds + 75)) python3 $speed/gpu_study.py arm $method --data $data \
            --out "$work/study" --device $device --seconds $arm_seconds "${more[@]}" &
    done
    wait
    for method in mask-only siamese; do
        cp "$work/study/$method.json" "$OUT"
        cp "$work/study/$method/log.jsonl" "$OUT/$method-log.jsonl"
        cp "$work/study/$method-pairs/grid.png" "$OUT/$method-grid.png"
        for shard in "$work/study/$method-pairs"/shards/*.tar; do cp "$shard" "$OUT/$method-$(basename "$shard")"; done
    done
}
run_real() { # the commands themselves, from a folder in Stable Diffusion's shape
    part real 130 python3 $speed/gpu_real.py --size $size --data $data --work "$work/real" --device $device \
        --out "$OUT/real.json"
}
run_compile() {
    part compile 150 python3 $speed/gpu_steps.py --size $size --batch $batch --device $device \
        --out "$OUT/compile.json" --compile
}

parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(sampling steps busy tests backbone arms compile real)
python3 - <<'PY'
import platform, torch
card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
print(f"{card}; Python {platform.python_version()}, torch {torch.__version__}")
PY
for name in "${parts[@]}"; do "run_$name"; done
# Few files come back: all but the tar files of pairs in one.
find "$OUT" -maxdepth 1 -type f ! -name '*.tar' ! -name '*.tgz' -printf '%f\n' >"$work/files"
tar czf "$work/results.tgz" -C "$OUT" -T "$work/files" && (cd "$OUT" && xargs rm -f <"$work/files") \
    && cp "$work/results.tgz" "$OUT"
