"""Shared fixtures. After every test the native counters are back where they began."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_collection_finish() -> None:
    """What the imports made lives to the end: collections need not walk it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def counters_return() -> Iterator[None]:
    """Asserts that the test left no native block, region, tag, thread, … alive."""
    try:
        from nano._core import counters
    except ImportError:  # pure-Python environments (a test of an extra) have nothing to count
        yield
        return
    before = counters()
    yield
    deadline = time.monotonic() + 5.0
    # Looked at before collecting: a full collection is slow once torch and its like are loaded.
    while (after := counters()) != before and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
    assert after == before, f"native resources leaked: before {before}, after {after}"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random fp32 Qwen3 checkpoint with a tokenizer, small enough for a float64 reference."""
    from nano.demo.random_checkpoint import make_checkpoint

    path = tmp_path_factory.mktemp("tiny")
    make_checkpoint(
        path, hidden=64, layers=4, heads=4, kv_heads=2, head_dim=16, intermediate=96, vocab=512, tied=False,
        dtype="float32", max_position=2048,
    )  # fmt: skip
    return path
