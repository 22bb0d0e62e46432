#!/bin/sh
# The RDMA tests: rdma.sh BIN [pytest arguments]. On this machine's own device when it has one, else in an emulated
# machine whose kernel has Soft-RoCE, else not at all, which is said.
set -eu
bin=$1
shift
[ $# -gt 0 ] || set -- tests/rdma
guest=tests/rdma/guest
python=$(cd "$bin" && pwd)/python
if [ -n "$(ls /sys/class/infiniband 2>/dev/null)" ]; then
  echo "rdma: on this machine's devices: $(ls /sys/class/infiniband | tr '\n' ' ')"
  exec "$python" -m pytest -p no:cacheprovider "$@"
fi
if ! why=$(sh "$guest/missing.sh"); then
  echo "rdma: SKIPPED: no RDMA device, and none can be emulated: $why"
  exit 0
fi
"$guest/setup.sh"
# The native tests first, as far as they were built: with sanitizers by `make sanitize`.
exec "$guest/softroce-run" --mem 3072 --timeout 900 -- sh -c '
  export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1
  for test in build/sanitize-*/tests/cpp/test_verbs build/sanitize-*/tests/cpp/test_verbs_path; do
    [ ! -x "$test" ] || { echo "rdma: $test"; timeout 120 "$test" || exit 1; }
  done
  exec "$0" -m pytest -p no:cacheprovider "$@"' "$python" "$@"
