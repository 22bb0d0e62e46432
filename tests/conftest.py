"""Shared fixtures. After every test the native counters are back where they began."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def counters_return() -> Iterator[None]:
    """Asserts that the test left no native block, region, tag, thread, … alive."""
    try:
        from nano._core import counters
    except ImportError:  # pure-Python environments (a test of an extra) have nothing to count
        yield
        return
    gc.collect()
    before = counters()
    yield
    deadline = time.monotonic() + 5.0
    while True:
        gc.collect()
        after = counters()
        if after == before or time.monotonic() > deadline:
            break
        time.sleep(0.01)
    assert after == before, f"native resources leaked: before {before}, after {after}"
