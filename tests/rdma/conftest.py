"""These run against real libibverbs; where there is no RDMA device they are skipped. `make test-rdma` brings one."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from rdma.wires import Wire

DEVICES = Path("/sys/class/infiniband")
EMULATED = socket.gethostname() == "softroce"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    there = DEVICES.is_dir() and any(DEVICES.iterdir())
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        item.add_marker(pytest.mark.rdma)
        item.add_marker(pytest.mark.timeout(300))  # an emulated machine is slow
        if not there:
            item.add_marker(pytest.mark.skip(reason="there is no RDMA device; `make test-rdma` emulates two"))


@pytest.fixture
def emulated() -> None:
    if not EMULATED:
        pytest.skip("it would change this machine's network; `make test-rdma` emulates one")


@pytest.fixture
def wires(emulated: None) -> Iterator[tuple[Wire, Wire]]:
    """Two cables, whole again afterwards."""
    both = Wire("w", 8), Wire("x", 7)
    yield both
    for wire in both:
        wire.heal()


@pytest.fixture
def first_link_down(emulated: None) -> Iterator[None]:
    """The network device under rxe0 may be taken down, and is up again afterwards."""
    yield
    subprocess.run(["ip", "link", "set", "d0", "up"], check=True, timeout=30)
