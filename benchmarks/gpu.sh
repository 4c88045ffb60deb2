#!/usr/bin/env bash
# What only a GPU can tell, on a machine that has Python, torch and nothing of ours, in nine minutes.
#
#     bash benchmarks/gpu.sh [--out DIR] [--work DIR] [--device cpu] [--list] [PART ...]
#
# Parts run in the order given, by default in order of worth, as `--list` prints it; those joined by + run side by side.
# Each has a time limit; one that fails stops no other, and none begins in the last seconds of DEADLINE (540).
# DIR gets `results.tgz` (the log and the JSON of every part, packed anew after each) and the tar files of drawn pairs.
# A second call takes what has not had its turn; with `--work DIR` it finds what the first installed and trained.
# `benchmarks/gpu-pack.sh` makes what the machine lacks: .gpu/wheels and .gpu/kvasir-256, ignored by git.
# `--device cpu` rehearses everything at the tiniest size, with PATIENCE (10) times the limits; nothing is compiled.
set -u
cd "$(dirname "$0")/.."
speed=benchmarks/speed

# A part, its limit in seconds, what it answers.
parts='
sampling           100  images a second, as the original draws and as we do
busy                70  the share of a step in which the card works
backbone           215  a backbone of 63 M weights at 128 px, trained from scratch (preset medium)
tests              140  the tests marked gpu
mask-only          155  Mask-Diffusion alone over that backbone, on 100 pairs; 400 pairs drawn with it
siamese            155  Siamese-Diffusion, the same
steps              150  seconds and GiB of a training step, as the original takes it and as we do
real               130  the commands themselves, from a folder of that size
busy-medium         60  the share of a step in which the card works, at the size of the preset medium
compile            150  the step with torch.compile
compiled-sampling  120  the sampler, the same
'
order='sampling busy backbone+tests mask-only+siamese steps real busy-medium compile compiled-sampling'

out=gpu-results work='' device=cuda chosen=()
while [ $# -gt 0 ]; do
    case $1 in
        --out | --work | --device) [ $# -gt 1 ] || { echo "$1: give a value" >&2; exit 2; } ;;&
        --out) out=$2; shift ;;
        --work) work=$2; shift ;;
        --device) device=$2; shift ;;
        --list) echo "$parts" | grep .; echo "order: $order"; exit ;;
        -*) echo "$1: unknown; see the top of $0" >&2; exit 2 ;;
        *) chosen+=("$1") ;;
    esac
    shift
done
[ ${#chosen[@]} -gt 0 ] || read -ra chosen <<<"$order"
[ "$device" = cpu ] && patience=${PATIENCE:-10} || patience=1
deadline=$((${DEADLINE:-540} * patience))
limit_of() { awk -v name="$1" -v times=$patience '$1 == name { print $2 * times }' <<<"$parts"; }
for name in ${chosen[*]//+/ }; do
    [ -n "$(limit_of "$name")" ] || { echo "$name: no such part; see --list" >&2; exit 2; }
done

began=$(date +%s)
[ -n "$work" ] || { work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT; }
mkdir -p "$out" "$work/results"
out=$(realpath "$out") work=$(realpath "$work") results=$work/results
wheels=${WHEELS:-.gpu/wheels} data=${DATA:-.gpu/kvasir-256}

if [ ! -e "$work/installed" ]; then
    python3 -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --no-build-isolation \
        --disable-pip-version-check --target "$work/site" "$wheels"/*.whl . 2>"$work/pip.log" \
        || { cat "$work/pip.log"; exit 1; }
    touch "$work/installed"
fi
export PYTHONPATH="$work/site" PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false CUBLAS_WORKSPACE_CONFIG=:4096:8
export HF_HUB_OFFLINE=1 TORCHINDUCTOR_CACHE_DIR="$work/inductor"

size=sd15 batch=48 most=64 steps=50 backbone_seconds=150 arm_seconds=90 marked=(-m gpu)
settings=(--set sample.scheduler=dpm --set sample.steps=20)
if [ "$device" = cpu ]; then
    size=tiny batch=4 most=1 steps=2 backbone_seconds=2 arm_seconds=2 marked=()
    settings+=(--copies 1 --set data.resolution=32 --set pretrain.batch_size=4 --set train.batch_size=4
        --set "backbone.channels=[16, 32]" --set "backbone.attention=[false, true]" --set backbone.layers=1)
    settings+=(--set sample.steps=2)
    export TORCHDYNAMO_DISABLE=1  # compiling takes a processor ten minutes
fi

timed() { # NAME ARGUMENTS ...: within the part's limit; what it prints goes to results/NAME.log
    local name=$1 start status left limit
    shift
    start=$(date +%s)
    left=$((deadline - start + began)) limit=$(limit_of "$name")
    [ $left -ge 15 ] || { echo "== $name: no time left"; return; }
    [ "$limit" -le $left ] || limit=$left
    timeout --kill-after=10 "$limit" python3 "$@" >"$results/$name.log" 2>&1
    status=$?
    echo "{\"part\": \"$name\", \"status\": $status, \"seconds\": $(($(date +%s) - start))}" >>"$results/parts.jsonl"
    echo "== $name: exit $status after $(($(date +%s) - start)) s (at $(($(date +%s) - began)) s)"
    grep -vE 'USDT|━|^$' "$results/$name.log" | tail -n "${TAIL:-12}" | cut -c1-220
}

run_part() {
    local name=$1 to=$results/$1.json drawing
    drawing=(--size $size --most $most --steps $steps --device "$device")
    case $name in
        sampling) timed "$name" $speed/gpu_sampling.py "${drawing[@]}" --out "$to" ;;
        busy) timed "$name" $speed/gpu_busy.py --size $size --device "$device" --out "$to" ;;
        busy-medium)
            [ $size = tiny ] || size=medium
            timed "$name" $speed/gpu_busy.py --size $size --device "$device" --out "$to" ;;
        steps) timed "$name" $speed/gpu_steps.py --size $size --batch $batch --device "$device" --out "$to" ;;
        compiled-sampling)
            timed "$name" $speed/gpu_sampling.py "${drawing[@]}" --out "$to" --compile ;;
        compile)
            timed "$name" $speed/gpu_steps.py --size $size --batch $batch --device "$device" --out "$to" --compile ;;
        tests) timed "$name" -m pytest -v -s -n 0 -p no:cacheprovider "${marked[@]}" tests/test_gpu.py ;;
        backbone)
            timed "$name" $speed/gpu_study.py backbone --data "$data" --out "$work/study" --device "$device" \
                --seconds $backbone_seconds "${settings[@]}"
            cp "$work/study/backbone.json" "$work/study/backbone/speed.jsonl" "$results"
            cp "$work"/study/backbone/samples/*.png "$results" ;;
        mask-only | siamese)
            timed "$name" $speed/gpu_study.py arm "$name" --data "$data" --out "$work/study" --device "$device" \
                --seconds $arm_seconds "${settings[@]}"
            cp "$work/study/$name.json" "$results"
            for file in log.jsonl speed.jsonl; do cp "$work/study/$name/$file" "$results/$name-$file"; done
            cp "$work/study/$name-pairs/grid.png" "$results/$name-grid.png"
            for shard in "$work/study/$name-pairs"/shards/*.tar; do
                cp "$shard" "$out/$name-$(basename "$shard")"
            done ;;
        real)
            rm -rf "$work/real"
            timed "$name" $speed/gpu_real.py --size $size --data "$data" --work "$work/real" --device "$device" \
                --out "$to"
            rm -rf "$work/real" ;;
    esac 2>>"$work/copied.log"
}

python3 - <<'PY'
import platform, torch
card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
print(f"{card}; Python {platform.python_version()}, torch {torch.__version__}")
PY
for together in "${chosen[@]}"; do
    for name in ${together//+/ }; do run_part "$name" & done
    wait
    python3 $speed/gpu_bars.py "$results" >"$results/bars.txt"
    tar czf "$work/results.tgz" -C "$work" results && cp "$work/results.tgz" "$out"  # whatever ends the next part
done
cat "$results/bars.txt"
