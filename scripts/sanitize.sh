#!/bin/sh
# The native tests under ASan + UBSan, then under TSan: sanitize.sh BIN JOBS
set -eu
bin=$1 jobs=$2
[ -e /usr/include/doctest/doctest.h ] || { echo "error: missing package; run: apt-get install doctest-dev" >&2; exit 1; }
for kind in address,undefined thread; do
  dir=build/sanitize-$(echo "$kind" | tr , -)
  "$bin/cmake" -S . -B "$dir" -G Ninja -DCMAKE_MAKE_PROGRAM="$(cd "$bin" && pwd)/ninja" \
    -DNANO_PYTHON=OFF -DNANO_TESTS=ON -DNANO_SANITIZE="$kind" >/dev/null
  "$bin/ninja" -C "$dir" -j "$jobs" --quiet
  ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1 \
    "$bin/ctest" --test-dir "$dir" --output-on-failure --timeout 300
done
