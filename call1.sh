# after the build; in parallel parts of CPU work were done before
T="python3 -W ignore -m pytest --noconftest -o addopts= -o filterwarnings=default -p no:cacheprovider --import-mode=importlib -q --tb=short"
g() { n=$1; t=$2; shift 2; timeout -k 3 $t $T "$@" > /tmp/$n.log 2>&1; echo "== $n rc $? at $SECONDS: $(tail -1 /tmp/$n.log)"; grep -aE "^FAILED|^ERROR|^E  " /tmp/$n.log | cut -c1-220 | head -8; }
g rows 45 tests/kernels/test_row_products.py tests/kernels/test_attention.py tests/kernels/test_moe.py -k "row or experts or turn or few"
g load 12 tests/unit/test_loader.py
g engine 60 tests/gpu/test_engine.py tests/gpu/test_fp8.py
g cuda 60 tests/gpu/test_transfer_cuda.py tests/gpu/test_transfer_cuda_engine.py
(cd /tmp/wt/gemv; export PYTHONPATH=$PWD:$PWD/tests:$PWD/tests/kernels:/tmp/py312; TUNE_LIMIT=15 timeout -k 5 18 python3 -W ignore -u gpu_tune.py 8B-fp8 2>&1 | cut -c1-600;  TUNE_LIMIT=17 timeout -k 5 20 python3 -W ignore -u gpu_tune.py 30B-A3B-fp8 2>&1 | cut -c1-600); echo "tuned $SECONDS"
timeout 25 python3 -W ignore bench/cuda/linear.py --shapes "8B down" "8B qkv" "8B o" "8B gate_up" --rows 32 64 128 256 2>&1 | tail -24; echo "linear $SECONDS"
timeout 25 python3 -W ignore bench/cuda/transfer.py --repeats 10 2>&1 | head -20; echo "transfer $SECONDS"
