#!/bin/sh
# Every benchmark, one after the other, on an otherwise idle machine: bench.sh BIN
set -eu
bin=$(cd "$1" && pwd)
mkdir -p bench/results
"$bin/python" -m pytest bench -s -q --benchmark-json=bench/results/micro.json
"$bin/python" bench/engine/cpu.py tiny small 0.6B
"$bin/python" bench/engine/disagg.py 0.6B
"$bin/python" bench/engine/streams.py tiny
"$bin/python" bench/engine/streams.py tiny --disaggregated
"$bin/python" bench/router/bench_router.py --json bench/results/router.json
