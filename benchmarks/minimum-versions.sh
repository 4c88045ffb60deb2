#!/usr/bin/env bash
# The oldest libraries that pyproject.toml allows, in an environment of their own, and the fast tests on them.
#   benchmarks/minimum-versions.sh [FOLDER]      the environment is made in FOLDER, by default a temporary one
# PYTEST_ARGUMENTS replaces what pytest is called with. Takes about 6 GB on the disk: PyTorch with CUDA.
set -euo pipefail
cd "$(dirname "$0")/.."

work=${1:-$(mktemp -d)}
mkdir -p "$work"
python3 -m venv "$work/tools"
"$work/tools/bin/pip" install --quiet uv
uv="$work/tools/bin/uv"
export UV_NATIVE_TLS=1 UV_HTTP_TIMEOUT=600

# The lowest of what is named here; what that brings may be newer.
"$uv" pip compile --quiet --python-version 3.11 --resolution lowest-direct --extra test pyproject.toml -o "$work/lowest.txt"
"$uv" venv --quiet --clear --seed --python 3.11 "$work/venv"
"$uv" pip install --quiet --python "$work/venv/bin/python" -r "$work/lowest.txt"
"$uv" pip install --quiet --python "$work/venv/bin/python" --no-deps -e .

# shellcheck disable=SC1091
. "$work/venv/bin/activate"
python -m pip check
siamese-diffusion --version
# shellcheck disable=SC2086
if [ -n "${PYTEST_ARGUMENTS:-}" ]; then
    pytest -p no:cacheprovider $PYTEST_ARGUMENTS
else
    pytest -p no:cacheprovider -m "not slow and not browser"
fi
