#!/usr/bin/env bash
# Makes what a machine with a GPU and without a network lacks: .gpu/wheels and .gpu/kvasir-256, which git ignores.
#
#     bash benchmarks/gpu-pack.sh [--list] [DATA]
#
# `benchmarks/gpu-has.txt` names the packages that are there, one a line: `python3 -m pip list --format=freeze` on that
# machine, say (HAS=FILE names another list). What this package needs besides is listed, by the metadata of what is
# installed here, and fetched for Python 3.12. DATA is Kvasir-SEG with its splits.json, packed as JPEG of 256 px.
# What travels, this repository included, must stay below 64 MiB.
set -eu
cd "$(dirname "$0")/.."
has=${HAS:-benchmarks/gpu-has.txt} python=${PYTHON:-python3} to=.gpu

missing() { # NAME==VERSION a line
    "$python" - "$has" <<'PY'
import re
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

has = {canonicalize_name(re.split(r"[=\s@]", line)[0]) for line in Path(sys.argv[1]).read_text().split("\n") if line}
there = {"python_version": "3.12", "python_full_version": "3.12.3", "extra": ""}  # what the markers ask
wanted = [Requirement(line) for line in tomllib.loads(Path("pyproject.toml").read_text())["project"]["dependencies"]]
found = {}
while wanted:
    need = wanted.pop()
    name = canonicalize_name(need.name)
    if name in has or name in found or (need.marker and not need.marker.evaluate(there)):
        continue
    found[name] = distribution(name)
    wanted += [Requirement(line) for line in found[name].requires or []]
print("\n".join(f"{name}=={found[name].version}" for name in sorted(found)))
PY
}

if [ "${1:-}" = --list ]; then
    missing
    exit
fi
mapfile -t names < <(missing)
[ ${#names[@]} -gt 0 ] || { echo "nothing is missing, or the list could not be made" >&2; exit 1; }
printf 'missing: %s\n' "${names[*]}"
rm -rf $to/wheels
"$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
    --dest $to/wheels "${names[@]}"
if [ $# -gt 0 ]; then
    "$python" - "$1" $to/kvasir-256 <<'PY'
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

source, to = map(Path, sys.argv[1:])
shutil.rmtree(to, ignore_errors=True)
for part in ("images", "masks"):
    (to / part).mkdir(parents=True)
shutil.copy(source / "splits.json", to)


def pack(path: Path) -> None:
    mask = next((source / "masks").glob(f"{path.stem}.*"))
    image = Image.open(path).convert("RGB").resize((256, 256), Image.Resampling.LANCZOS)
    image.save(to / "images" / f"{path.stem}.jpg", quality=90)
    Image.open(mask).convert("L").resize((256, 256), Image.Resampling.NEAREST).convert("1").save(
        to / "masks" / f"{path.stem}.png", optimize=True
    )


with ThreadPoolExecutor() as pool:
    print(f"{len(list(pool.map(pack, sorted((source / 'images').iterdir()))))} pairs of 256 px")
PY
fi
travels=$({ git ls-files -co --exclude-standard; find $to -type f; } | tr '\n' '\0' \
    | du -cb --files0-from=- | tail -n 1 | cut -f1)
echo "$(du -sh $to | cut -f1) in $to; $((travels / 1048576)) MiB travel in all"
[ "$travels" -lt $((64 * 1048576)) ] || { echo "more than 64 MiB" >&2; exit 1; }
