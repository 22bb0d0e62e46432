#!/bin/sh
# Wheels without and (where nvcc is) with the CUDA kernels; then each extra in an environment of its own: wheels.sh BIN
set -eu
bin=$(cd "$1" && pwd)
say() { printf '\033[1m==>\033[0m %s\n' "$*"; }

build() { # folder, NANO_CUDA
  say "wheel with NANO_CUDA=$2"
  rm -rf "dist/$1"
  PATH="$bin:$PATH" "$bin/python" -m pip wheel . --quiet --no-deps --no-build-isolation -w "dist/$1" \
    -C "cmake.define.NANO_CUDA=$2" -C "build-dir=build/wheel-$1"
}

build plain off
if command -v nvcc >/dev/null; then build cuda on; else echo "skipped: wheel with CUDA kernels: no nvcc on PATH"; fi

grep -v '^torch==' constraints.txt > dist/constraints.txt
sed -n '/^torch==/p' constraints.txt >> dist/constraints.txt
for extra in none dlslime nanoctrl nanoroute nanodeploy; do
  say "extra: $extra"
  venv=dist/venv-$extra
  rm -rf "$venv"
  "$bin/python" -m venv "$venv"
  wheel=$(ls dist/plain/*.whl)
  [ "$extra" = none ] || wheel="$wheel[$extra]"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c dist/constraints.txt "$wheel"
  (cd dist && "venv-$extra/bin/python" ../scripts/check_extra.py "$extra")
  rm -rf "$venv"
done
