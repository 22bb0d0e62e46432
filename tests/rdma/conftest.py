"""These run against real libibverbs; where there is no RDMA device they are skipped. `make test-rdma` brings one."""

from __future__ import annotations

from pathlib import Path

import pytest

DEVICES = Path("/sys/class/infiniband")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    there = DEVICES.is_dir() and any(DEVICES.iterdir())
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        item.add_marker(pytest.mark.rdma)
        item.add_marker(pytest.mark.timeout(300))  # an emulated machine is slow
        if not there:
            item.add_marker(pytest.mark.skip(reason="there is no RDMA device; `make test-rdma` emulates two"))
