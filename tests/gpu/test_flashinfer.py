"""FlashInfer's kernels over the engine's arrays, where it is installed; their first build takes minutes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("flashinfer", reason="FlashInfer is not installed")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

import kernel_device  # noqa: E402, F401  (before triton: other tests of this process interpret the same kernels)

from nano import LLM, SamplingParams  # noqa: E402
from nano.demo.random_checkpoint import make_checkpoint  # noqa: E402
from nano.engine.attention_backends import Step  # noqa: E402
from nano.engine.kernels import attention_choice  # noqa: E402
from nano.engine.kernels.flashinfer_attention import FlashInferAttention, Shape, supports  # noqa: E402
from nano.engine.kernels.flashinfer_build import Build  # noqa: E402
from nano.engine.kernels.flashinfer_check import TOLERANCE, check, reference  # noqa: E402
from nano.errors import SystemFault  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(1200)]

DEVICE = torch.device("cuda", 0)
PROMPTS = [np.random.default_rng(n).integers(0, 256, n).tolist() for n in (1, 7, 64, 130, 300)]
OPTIONS: dict[str, Any] = {
    "kvcache_bytes": 64 << 20, "kvcache_block_size": 16, "max_num_batched_tokens": 128, "max_num_seqs": 16,
    "max_model_len": 512, "skip_tokenizer_init": True, "device": "cuda", "dtype": "bfloat16",
}  # fmt: skip


@pytest.fixture(scope="module")
def modules() -> dict[str, Any]:
    names = supports(Shape(8, 2, 128, 16, torch.bfloat16), torch.bfloat16, DEVICE)
    loaded = Build(torch.bfloat16, 128, names.values(), torch.cuda.get_device_capability(DEVICE)).wait()
    return {kind: loaded[name] for kind, name in names.items()}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    make_checkpoint(
        path, layers=2, vocab=512, tied=False, dtype="bfloat16", max_position=1024, hidden=128, heads=4, kv_heads=2,
        head_dim=128, intermediate=256,
    )  # fmt: skip
    return path


class Case:
    """A step padded by `padding` sequences and tokens; slots beyond the contexts hold NaN."""

    def __init__(self, shape: Shape, contexts: list[int], queries: list[int], padding: int, layer_major: bool) -> None:
        self.shape, size = shape, shape.block_size
        counts = [-(-context // size) for context in contexts]
        blocks, sizes = sum(counts), (shape.kv_heads, size, shape.head_dim)
        if layer_major:
            pool = torch.full((3, 2, blocks, *sizes), torch.nan, dtype=shape.dtype, device=DEVICE)
            pool = pool.permute(2, 0, 1, 3, 4, 5)
        else:
            pool = torch.full((blocks, 3, 2, *sizes), torch.nan, dtype=shape.dtype, device=DEVICE)
        self.k, self.v = pool[:, 1, 0], pool[:, 1, 1]
        self.padding, self.width = padding, max(counts) + 1
        self.seqs = len(contexts) + padding
        self.tables = torch.zeros(self.seqs, self.width, dtype=torch.int32, device=DEVICE)
        self.dense = []
        for row, ids in zip(self.tables, torch.randperm(blocks, device=DEVICE).split(counts), strict=False):
            row[: len(ids)] = ids
        for s, context in enumerate(contexts):
            keys, values = (torch.randn(context, shape.kv_heads, shape.head_dim, device=DEVICE) for _ in "kv")
            keys, values = keys.to(shape.dtype), values.to(shape.dtype)
            for i in range(counts[s]):
                for cache, rows in ((self.k, keys), (self.v, values)):
                    part = rows[i * size : (i + 1) * size]
                    cache[self.tables[s, i], :, : len(part)] = part.transpose(0, 1)
            self.dense.append((keys, values))
        self.set(contexts, queries)
        rows = int(self.starts_host[-1]) + padding
        self.q = torch.randn(rows, shape.heads, shape.head_dim, device=DEVICE).to(shape.dtype)
        self.out = torch.zeros_like(self.q)
        self.lens = torch.zeros(self.seqs, dtype=torch.int32, device=DEVICE)
        self.starts = torch.zeros(self.seqs + 1, dtype=torch.int32, device=DEVICE)

    def set(self, contexts: list[int], queries: list[int]) -> None:
        self.lens_host = np.array(contexts, np.int32)
        self.starts_host = np.cumsum([0, *queries], dtype=np.int32)

    def plan(self, backend: FlashInferAttention, kind: str) -> object:
        count = len(self.lens_host)
        self.lens.zero_()[:count] = torch.from_numpy(self.lens_host)
        self.starts.fill_(int(self.starts_host[-1]))[: count + 1] = torch.from_numpy(self.starts_host)
        return backend.plan(kind, len(self.q), self.seqs, self.starts_host, self.lens_host, 0)

    def run(self, backend: FlashInferAttention) -> None:
        backend.begin(self.tables, self.lens)
        backend.run(self.q, self.k, self.v, self.starts, self.out, self.shape.head_dim**-0.5)

    def check(self) -> None:
        for s, context in enumerate(self.lens_host.tolist()):
            begin, end = self.starts_host[s : s + 2].tolist()
            keys, values = (x[:context] for x in self.dense[s])
            want = reference(self.q[begin:end], keys, values, self.shape.head_dim**-0.5)
            error = float((self.out[begin:end].double() - want).abs().max() / want.abs().max())
            assert error < TOLERANCE, (s, error)
        assert not self.out[int(self.starts_host[-1]) :].any()


@pytest.mark.parametrize("layer_major", [False, True], ids=["block-major", "layer-major"])
@pytest.mark.parametrize(("block_size", "group"), [(16, 4), (64, 7), (256, 1), (32, 16)])
@pytest.mark.parametrize("kind", ["decode", "prefill"])
def test_a_step_agrees_with_float64(
    kind: str, block_size: int, group: int, layer_major: bool, modules: dict[str, Any]
) -> None:
    if kind not in modules:
        pytest.skip(f"FlashInfer has no kernel for {kind} on this device")
    contexts = [700, 1, 64, 256, 33]
    queries = [1] * 5 if kind == "decode" else [300, 1, 64, 1, 20]
    case = Case(Shape(2 * group, 2, 128, block_size, torch.bfloat16), contexts, queries, 3, layer_major)
    backend = FlashInferAttention(case.shape, case.seqs, case.width, 1, DEVICE)
    backend.bind(modules)
    case.plan(backend, kind)
    case.run(backend)
    case.check()


@pytest.mark.parametrize("kind", ["decode", "prefill"])
def test_a_graph_serves_every_step_whose_plan_returns_the_same(kind: str, modules: dict[str, Any]) -> None:
    if kind not in modules:
        pytest.skip(f"FlashInfer has no kernel for {kind} on this device")
    decode = kind == "decode"
    case = Case(Shape(8, 2, 128, 16, torch.bfloat16), [900, 200], [1, 1] if decode else [100, 200], 2, False)
    backend = FlashInferAttention(case.shape, case.seqs, case.width, 1, DEVICE)
    backend.bind(modules)
    key = case.plan(backend, kind)
    case.run(backend)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        case.run(backend)
    for contexts, queries in (([900, 200], [100, 200]), ([17, 130], [17, 60]), ([500], [250])):
        case.set(contexts, [1] * len(contexts) if decode else queries)
        assert case.plan(backend, kind) == key
        case.out.zero_()
        graph.replay()
        case.check()


def test_modules_that_answer_wrongly_are_found_out(modules: dict[str, Any]) -> None:
    class Silent:
        plan = modules["decode"].plan

        def paged_run(self, *_: object) -> None: ...

    shape = Shape(8, 2, 128, 16, torch.bfloat16)
    check(shape, modules, DEVICE)
    with pytest.raises(SystemFault, match="flashinfer: decode: expected float64's answer"):
        check(shape, {"decode": Silent()}, DEVICE)


def test_every_step_of_an_engine_that_runs_on_it_agrees_with_the_cpu_twin(checkpoint: Path) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
    with LLM(str(checkpoint), attention_backend="flashinfer", check=True, **OPTIONS) as llm:
        llm.generate(PROMPTS, params)
        assert chooser_of(llm).current.name == "flashinfer"


def chooser_of(llm: LLM) -> Any:
    runner = llm._backend._engine.runner  # type: ignore[union-attr]
    return getattr(runner, "_runner", runner)._ops.attention_chooser


def test_each_step_gets_the_tables_backend_when_it_is_built(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With graphs of both, and every step's logits checked against the CPU twin's."""
    path = tmp_path / "table.json"
    row = {"kind": "decode", "heads": 4, "kv_heads": 2, "head_dim": 128, "queries": 1}
    rows = [
        row | {"seqs": seqs, "context": context, "winner": winner}
        for seqs, winner in ((1, "flashinfer"), (8, "triton"))
        for context in (8, 64, 512)
    ]
    path.write_text(json.dumps({torch.cuda.get_device_name(DEVICE): {"rows": rows}}), encoding="utf-8")
    monkeypatch.setattr(attention_choice, "TABLE", path)
    # Requests end one after another: steps have five sequences, then fewer.
    params = [SamplingParams(temperature=0.0, max_tokens=n, ignore_eos=True) for n in (24, 4, 8, 6, 12)]
    with LLM(str(checkpoint), check=True, **OPTIONS) as llm:
        llm.generate(PROMPTS, params)  # by whichever is there
        chooser = chooser_of(llm)
        assert chooser.wait(600)
        given = set()
        pick = chooser._pick

        def picked(step: Step) -> Any:
            backend = pick(step)
            given.add((step.kind, step.batch.num_seqs > 3, backend.name))
            return backend

        monkeypatch.setattr(chooser, "_pick", picked)
        for _ in range(3):  # eager, captured, replayed
            llm.generate([[9, *prompt] for prompt in PROMPTS], params)
    assert {("decode", False, "flashinfer"), ("decode", True, "triton")} <= given
    assert not {("decode", False, "triton"), ("decode", True, "flashinfer")} & given
    assert {name for kind, _, name in given if kind == "prefill"} == {"triton"}


def test_with_an_fp8_cache_auto_never_builds_it(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.get_device_capability(DEVICE) < (8, 9):
        pytest.skip("fp8 KV caches need compute capability 8.9")
    monkeypatch.setattr(attention_choice.Choice, "kinds", {"decode", "prefill"})
    with LLM(str(checkpoint), kv_cache_dtype="fp8", **OPTIONS) as llm:
        assert llm.generate(PROMPTS[:2], SamplingParams(temperature=0.0, max_tokens=2, ignore_eos=True))
        assert chooser_of(llm)._build is None
