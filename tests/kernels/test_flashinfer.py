from __future__ import annotations

import json
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_device import CUDA, DEVICE

from nano import LLM
from nano.demo.random_checkpoint import make_checkpoint
from nano.engine.attention_backends import Step
from nano.engine.config import EngineConfig
from nano.engine.kernels import attention_choice, flashinfer_attention, flashinfer_build
from nano.engine.kernels.attention_choice import Choice, Heads, winner
from nano.engine.kernels.flashinfer_attention import FlashInferAttention, Shape
from nano.engine.kernels.flashinfer_build import Build, require
from nano.errors import InvalidInput, MissingExtra, SystemFault

INSTALLED = find_spec("flashinfer") is not None
HEADS = Heads(32, 8, 128)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 90), min_size=1, max_size=9), st.sampled_from([16, 64]))
def test_pages_are_the_used_parts_of_the_block_tables(lens: list[int], block_size: int) -> None:
    width = 7
    backend = FlashInferAttention(Shape(4, 2, 64, block_size, torch.float16), len(lens), width, 1, DEVICE)
    tables = torch.arange(len(lens) * width, dtype=torch.int32, device=DEVICE).view(len(lens), width)
    backend.begin(tables, torch.tensor(lens, dtype=torch.int32, device=DEVICE))
    counts = [-(-n // block_size) for n in lens]
    used = [page for row, count in zip(tables.tolist(), counts, strict=True) for page in row[:count]]
    assert backend._indptr.tolist() == [sum(counts[:i]) for i in range(len(lens) + 1)]
    assert backend._indices[: len(used)].tolist() == used
    got = backend._last_page_lens.tolist()
    assert got == [n - (max(count, 1) - 1) * block_size for n, count in zip(lens, counts, strict=True)]


def table(path: Path, *steps: tuple[str, int, int, int, str]) -> Path:
    names = ("kind", "seqs", "queries", "context", "winner")
    rows = [dict(zip(names, step, strict=True)) | vars(HEADS) for step in steps]
    path.write_text(json.dumps({"a card": {"rows": rows}}), encoding="utf-8")
    return path


def test_a_step_gets_the_winner_of_the_nearest_measured_one(tmp_path: Path) -> None:
    path = table(
        tmp_path / "table.json",
        ("decode", 1, 1, 512, "triton"),
        ("decode", 1, 1, 8192, "flashinfer"),
        ("decode", 256, 1, 2048, "triton"),
        ("prefill", 16, 1024, 1024, "triton"),
    )
    choice = Choice("a card", HEADS, path)
    assert choice.kinds == {"decode"}
    assert choice.takes_flashinfer("decode", 1, 1, 5000)
    assert choice.takes_flashinfer("decode", 2, 1, 32_768)
    assert not choice.takes_flashinfer("decode", 1, 1, 100_000)  # too far from what was measured
    assert not choice.takes_flashinfer("decode", 1, 1, 700)
    assert not choice.takes_flashinfer("decode", 100, 1, 3000)
    assert not choice.takes_flashinfer("prefill", 1, 1, 8192)
    for other in (Choice("another card", HEADS, path), Choice("a card", Heads(16, 8, 128), path)):
        assert not other.kinds
        assert not other.takes_flashinfer("decode", 1, 1, 8192)


@pytest.mark.parametrize(
    ("queries", "load"), [([1, 1], "decode"), ([5, 2], "prefill"), ([5, 1], "mixed"), ([1, 7], "mixed")]
)
def test_single_queries_among_prompts_are_a_load_of_their_own(queries: list[int], load: str) -> None:
    batch: Any = SimpleNamespace(cu_query=np.cumsum([0, *queries], dtype=np.int32))
    decode = max(queries) == 1
    assert Step(batch, sum(queries), len(queries), decode, 0).load == load


def test_flashinfer_wins_only_by_more_than_the_margin_with_its_plan_counted() -> None:
    assert winner(10.0, 9.0, 0.0, 36) == "flashinfer"
    assert winner(10.0, 9.8, 0.0, 36) == "triton"
    assert winner(10.0, 9.0, 36.0, 36) == "triton"


def test_the_table_names_winners_by_its_own_figures() -> None:
    for card in json.loads(attention_choice.TABLE.read_text(encoding="utf-8")).values():
        assert set(card["versions"]) == {"torch", "triton", "flashinfer-python"}
        for row in card["rows"]:
            assert row["winner"] == winner(row["triton_us"], row["flashinfer_us"], row["plan_us"], row["layers"])


@pytest.mark.skipif(INSTALLED, reason="FlashInfer is installed")
def test_without_flashinfer_asking_for_it_says_what_to_install() -> None:
    with pytest.raises(MissingExtra, match=r"pip install 'nano-serve\[flashinfer\]'"):
        require()


@pytest.mark.parametrize(
    ("found", "known"), [("0.6.13", False), ("0.6.14", True), ("0.6.20.post1", True), ("0.7", False)]
)
def test_versions_whose_arguments_are_not_known_are_refused(
    found: str, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flashinfer_build, "version", lambda _: found)
    refusal = pytest.raises(MissingExtra, match=f"expected version at least 0.6.14 and less than 0.7, got {found}")
    with nullcontext() if known else refusal:
        require()


@pytest.mark.skipif(INSTALLED, reason="FlashInfer is installed")
def test_a_failed_build_says_why() -> None:
    with pytest.raises(SystemFault, match="No module named 'flashinfer'"):
        Build(torch.bfloat16, 128, ["fa2"], (9, 0)).wait(100)


def test_a_build_that_takes_too_long_is_ended() -> None:
    build = Build(torch.bfloat16, 128, ["fa2"], (9, 0))
    with pytest.raises(SystemFault, match="expected its build to end within 0 s"):
        build.wait(0.01)
    assert build._process.returncode


def test_a_cancelled_build_ends() -> None:
    build = Build(torch.bfloat16, 128, ["fa2"], (9, 0))
    build.cancel()
    with pytest.raises(SystemFault, match="ended with"):
        build.wait(10)
    build.cancel()


@pytest.mark.skipif(CUDA, reason="for a machine without a CUDA device")
@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_an_engine_without_a_gpu_refuses_flashinfer(device: str, tmp_path: Path) -> None:
    make_checkpoint(
        tmp_path, hidden=64, layers=1, heads=4, kv_heads=2, head_dim=16, intermediate=96, vocab=512, tied=False,
        dtype="float32", max_position=512,
    )  # fmt: skip
    with pytest.raises(InvalidInput, match="attention_backend: flashinfer needs a GPU"):
        LLM(
            str(tmp_path), device=device, skip_tokenizer_init=True, threads=1, max_model_len=128,
            kvcache_bytes=1 << 20, kvcache_block_size=16, max_num_batched_tokens=32, max_num_seqs=4,
            attention_backend="flashinfer",
        )  # fmt: skip


def test_an_unknown_backend_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match="attention_backend: expected auto, triton or flashinfer, got 'fa9'"):
        EngineConfig("model", attention_backend="fa9")  # type: ignore[arg-type]


def test_an_fp8_cache_refuses_flashinfer_and_says_what_it_goes_with() -> None:
    with pytest.raises(InvalidInput, match="flashinfer reads no fp8 KV cache: expected auto or triton with it"):
        EngineConfig("model", attention_backend="flashinfer", kv_cache_dtype="fp8")
    for name in ("auto", "triton"):
        EngineConfig("model", attention_backend=name, kv_cache_dtype="fp8")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [{"dtype": torch.float32}, {"head_dim": 32}, {"heads": 64, "kv_heads": 2}, {"cache": torch.float8_e4m3fn}],
    ids=str,
)
def test_models_that_flashinfer_has_no_kernel_for_are_left_to_triton(changes: dict[str, object]) -> None:
    values: dict[str, object] = {"heads": 32, "kv_heads": 8, "head_dim": 128, "dtype": torch.bfloat16} | changes
    cache = values.pop("cache", values["dtype"])
    shape = Shape(block_size=64, **values)  # type: ignore[arg-type]
    assert not flashinfer_attention.supports(shape, cache, torch.device("cuda", 0))  # type: ignore[arg-type]
