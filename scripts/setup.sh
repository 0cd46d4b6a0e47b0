#!/bin/sh
# Makes .venv with posttrain and the extras named as arguments. Called by make, which remembers that it was done.
#   PYTHON        the Python to use (3.11 or newer)
#   TORCH_INDEX   another index for torch's wheels, such as the CPU-only one on torch's installation page
#   ACCEPT_CUDA=1 download torch's CUDA build although no NVIDIA GPU is seen
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

stop() { echo "posttrain: $*" >&2; exit 1; }

command -v "$python" >/dev/null 2>&1 || stop "no '$python' here; install Python 3.11 or newer, or: make PYTHON=/path/to/python3"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    stop "$("$python" --version) is too old; install Python 3.11 or newer, or: make PYTHON=/path/to/python3.11"
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    stop "Python's venv module is missing; on Debian and Ubuntu: apt install python3-venv"

[ -x .venv/bin/python ] || "$python" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }

if ! .venv/bin/python -c 'import torch' 2>/dev/null; then
    index=${TORCH_INDEX:+--index-url "$TORCH_INDEX"}
    if [ "$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null 2>&1 && [ "${ACCEPT_CUDA:-0}" != 1 ]; then
        # shellcheck disable=SC2086
        pip install --quiet --dry-run --ignore-installed --report .venv/plan.json -c constraints.txt $index torch ||
            stop "pip cannot get torch; is there a network? (TORCH_INDEX=URL chooses another index)"
        cuda=$(.venv/bin/python -c 'import json
names = [item["metadata"]["name"] for item in json.load(open(".venv/plan.json"))["install"]]
print(sum(name.startswith(("nvidia", "cuda")) for name in names))')
        [ "$cuda" = 0 ] || stop "pip would download torch with CUDA ($cuda NVIDIA packages, several GB), but no NVIDIA GPU is
  seen here. Give the CPU wheels' index (it stands on torch's installation page):   make TORCH_INDEX=URL ...
  or take the CUDA build all the same:                                               make ACCEPT_CUDA=1 ..."
    fi
    echo "posttrain: installing torch"
    # shellcheck disable=SC2086
    pip install --quiet -c constraints.txt $index torch
fi
echo "posttrain: installing the rest"
extras=$(echo "$*" | tr ' ' ',')
pip install --quiet -c constraints.txt -e ".${extras:+[$extras]}"
