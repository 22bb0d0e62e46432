#!/bin/sh
# Cross-compiles the native code for Arm (NEON), warnings as errors; runs its kernels' tests where qemu is: neon.sh BIN JOBS
set -eu
bin=$1 jobs=$2 gxx=aarch64-linux-gnu-g++
missing=
command -v "$gxx" >/dev/null || missing="$missing g++-aarch64-linux-gnu"
[ -e /usr/include/doctest/doctest.h ] || missing="$missing doctest-dev"
[ -z "$missing" ] || { echo "error: missing packages; run: apt-get install$missing" >&2; exit 1; }
dir=build/neon
"$bin/cmake" -S . -B "$dir" -G Ninja -DCMAKE_MAKE_PROGRAM="$(cd "$bin" && pwd)/ninja" \
  -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER="$gxx" \
  -DNANO_PYTHON=OFF -DNANO_TESTS=ON >/dev/null
"$bin/ninja" -C "$dir" -j "$jobs" --quiet
if ! command -v qemu-aarch64 >/dev/null; then
  echo "skipped: running the Arm tests: no qemu-aarch64 (apt-get install qemu-user)"
  exit 0
fi
for test in test_linear test_attention test_fused_ops; do
  timeout 120 qemu-aarch64 -L /usr/aarch64-linux-gnu "$dir/tests/cpp/$test"
done
