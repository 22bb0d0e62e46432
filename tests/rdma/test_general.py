"""What every transport promises, by RDMA: the tests of tests/unit/test_transfer.py that take a pair of endpoints."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest
from unit import test_transfer as general

globals().update(
    {
        name: test
        for name, test in vars(general).items()
        if name.startswith("test_")
        and "pair" in inspect.signature(test).parameters
        and "no_cpu" not in name  # an emulated machine's processor time says nothing
    }
)


@pytest.fixture
def pair() -> Iterator[general.Pair]:
    made = general.Pair("verbs")
    yield made
    made.close()
