"""Several devices a peer: sharing the work, failing, coming back."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator

import numpy as np
import pytest
from rdma.wires import Wire, packets

from nano.errors import PeerLost
from nano.transfer import Endpoint, Peer, Region

MIB = 1 << 20
BLOCK = 64 << 10


class Pair:
    """Two endpoints, each with devices of its own, and a region "kv" each."""

    def __init__(self, left: list[str], right: list[str], transports: tuple[str, ...] = ("verbs",)) -> None:
        self.source = Endpoint("source", transports=transports, devices=left)
        self.sink = Endpoint("sink", transports=transports, devices=right)
        self.src: Region = self.source.allocate(16 * MIB, "kv")
        self.dst: Region = self.sink.allocate(16 * MIB, "kv")
        self.src.array[:] = np.random.default_rng(0).integers(0, 256, self.src.nbytes, dtype=np.uint8)
        self.peer: Peer = self.source.connect(self.sink.descriptor(), timeout=20)
        self.offsets = np.arange(self.src.nbytes // BLOCK, dtype=np.int64) * BLOCK
        self.tag = 0
        self.lines: list[str] = []

    def move(self, seconds: float = 30) -> None:
        """All blocks by a fresh tag, in another order; every byte is checked."""
        self.tag += 1
        self.dst.array[:] = 0
        targets = np.roll(self.offsets, self.tag)
        self.sink.expect(self.tag, self.dst, targets, BLOCK)
        self.peer.write(self.src, "kv", self.offsets, targets, BLOCK, tag=self.tag, timeout=seconds).wait()
        self.check()

    def check(self) -> None:
        assert self.sink.missing(self.tag).size == 0
        assert np.array_equal(self.dst.array, np.roll(self.src.array, -self.tag * BLOCK))
        self.sink.forget(self.tag)

    def close(self) -> None:
        self.source.close()
        self.sink.close()


@contextlib.contextmanager
def pair(left: list[str], right: list[str], transports: tuple[str, ...] = ("verbs",)) -> Iterator[Pair]:
    made = Pair(left, right, transports)
    try:
        yield made
    finally:
        made.close()


def log_of(endpoint: Endpoint, caplog: pytest.LogCaptureFixture) -> str:
    endpoint.poll()
    return "\n".join(record.getMessage() for record in caplog.records)


def wait_log(endpoint: Endpoint, caplog: pytest.LogCaptureFixture, said: str, seconds: float = 20) -> str:
    deadline = time.monotonic() + seconds
    while said not in (text := log_of(endpoint, caplog)):
        assert time.monotonic() < deadline, f"no {said!r} within {seconds} s:\n{text}"
        time.sleep(0.02)
    return text


def test_both_devices_carry_a_transfer(emulated: None) -> None:
    with pair(["rxe0", "rxe1"], ["rxe0", "rxe1"]) as both:
        before = [packets(device) for device in ("rxe0", "rxe1")]
        both.move()
        shares = [packets(device) - b for device, b in zip(("rxe0", "rxe1"), before, strict=True)]
        assert min(shares) > 0.25 * sum(shares), shares


def test_one_read_is_spread_over_both_devices(emulated: None) -> None:
    with pair(["rxe0", "rxe1"], ["rxe0", "rxe1"]) as both:
        both.dst.array[:] = 9
        before = [packets(device) for device in ("rxe0", "rxe1")]
        both.peer.read(both.src, "kv", [0], [0], 12 * MIB).wait()
        assert (both.src.array[: 12 * MIB] == 9).all()
        shares = [packets(device) - b for device, b in zip(("rxe0", "rxe1"), before, strict=True)]
        assert min(shares) > 0.25 * sum(shares), shares


def test_a_cut_rail_costs_no_block_and_is_used_again_when_it_is_whole(
    wires: tuple[Wire, Wire], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = wires
    with pair([first.left, second.left], [first.right, second.right]) as both:
        both.move()
        first.cut()
        both.move()  # over what is left
        text = wait_log(both.source, caplog, "goes on by device")
        assert f"device {first.left}" in text
        assert "RETRY_EXC" in text
        # From the error to queue pairs that work, on an emulated machine.
        after = float(text.split("goes on by device")[1].split(" after ")[1].split(" ms")[0])
        print(f"from the error to working queue pairs: {after:.0f} ms")
        assert after < 500.0, text
        both.move()
        first.heal()
        wait_log(both.source, caplog, f"device {first.left} is in use again")
        before = packets(first.left)
        both.move()
        assert packets(first.left) - before > 100


def test_a_link_that_goes_down_under_traffic_costs_no_block(
    first_link_down: None, caplog: pytest.LogCaptureFixture
) -> None:
    with pair(["rxe0", "rxe1"], ["rxe0", "rxe1"]) as both:
        both.tag = 1
        both.dst.array[:] = 0
        targets = np.roll(both.offsets, 1)
        both.sink.expect(1, both.dst, targets, BLOCK)
        transfer = both.peer.write(both.src, "kv", both.offsets, targets, BLOCK, tag=1)
        while not both.sink.landed(1).any():
            time.sleep(0.001)
        subprocess.run(["ip", "link", "set", "d0", "down"], check=True, timeout=30)
        transfer.wait()
        both.check()
        assert "rxe0" in wait_log(both.source, caplog, "goes on by device rxe1")
        subprocess.run(["ip", "link", "set", "d0", "up"], check=True, timeout=30)
        wait_log(both.source, caplog, "device rxe0 is in use again")
        both.move()


def test_without_a_rail_operations_fail_by_name_and_work_again_later(
    wires: tuple[Wire, Wire], caplog: pytest.LogCaptureFixture
) -> None:
    wire = wires[0]
    with pair([wire.left], [wire.right]) as both:
        both.move()
        wire.cut()
        began = time.monotonic()
        with pytest.raises(PeerLost, match=r"write to region kv of peer sink \(verbs\).*no rail.*RETRY_EXC"):
            both.peer.write(both.src, "kv", [0], [0], MIB).wait(20)
        assert time.monotonic() - began < 5.0  # the operation's deadline is 30 s
        wire.heal()
        wait_log(both.source, caplog, f"goes on by device {wire.left}")
        both.move()


def test_without_a_rail_the_socket_carries_on_where_it_may(
    wires: tuple[Wire, Wire], caplog: pytest.LogCaptureFixture
) -> None:
    wire = wires[0]
    with pair([wire.left], [wire.right], ("verbs", "tcp")) as both:
        wire.cut()
        both.move()
        before = packets(wire.left)
        both.move()
        wire.heal()
        wait_log(both.source, caplog, f"goes on by device {wire.left}")
        both.move()
        assert packets(wire.left) - before > 100


def test_lost_packets_cost_time_and_nothing_else(wires: tuple[Wire, Wire]) -> None:
    wire = wires[0]
    with pair([wire.left], [wire.right]) as both:
        wire.rule("loss", "1%", ends=(0,))
        both.move()


def test_a_peer_without_a_device_in_reach_is_reached_by_the_socket(emulated: None) -> None:
    with pair(["rxe0"], ["rxe1"], ("verbs", "tcp")) as both:
        assert both.peer.transport == "tcp"
        assert "no rail leads to the peer" in dict(both.peer.transports)["verbs"]
        both.move()
