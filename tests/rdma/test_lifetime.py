"""The tests of tests/unit/test_transfer_lifetime.py, by RDMA: descriptors, threads, memory and counters stay flat."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from unit.test_transfer_lifetime import (
    test_a_thousand_connections_leave_nothing_behind as test_a_thousand_connections_leave_nothing_behind,
)
from unit.test_transfer_lifetime import (
    test_ten_thousand_transfers_leave_nothing_behind as test_ten_thousand_transfers_leave_nothing_behind,
)

from nano.transfer import Endpoint


@pytest.fixture
def ends() -> Iterator[tuple[Endpoint, Endpoint]]:
    one = sorted(os.listdir("/sys/class/infiniband"))[:1]
    with (
        Endpoint("source", transports=("verbs",), devices=one) as source,
        Endpoint("sink", transports=("verbs",), devices=one) as sink,
    ):
        yield source, sink
