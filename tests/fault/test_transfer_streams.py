"""Several TCP connections to one peer: whatever happens on one of them, nothing is overtaken that may not be."""

from __future__ import annotations

import os
import socket
import struct
import time

import numpy as np
import pytest
from fault_relay import Relay, Rule, wait_until
from hypothesis import given, settings
from hypothesis import strategies as st
from transfer_frames import HEAD, KINDS, VERSION, frame, receive

from nano.errors import DeadlineExceeded, InvalidInput, PeerLost
from nano.transfer import Endpoint, Peer, Region

MIB = 1 << 20
STREAMS = 4


def endpoint(name: str, **options: object) -> Endpoint:
    return Endpoint(name, transports=("tcp",), streams=STREAMS, **options)  # type: ignore[arg-type]


def eventually_written(sink: Endpoint, imm: int) -> bool:
    seen: list[int] = []
    return wait_until(lambda: seen.extend(e.imm for e in sink.poll() if e.kind == "written") or imm in seen, 5)


@pytest.mark.parametrize(("n", "length"), [(1, 8 * MIB), (3, 2 * MIB), (1000, 4096), (5, 100)])
def test_blocks_of_any_size_arrive_whole_by_several_streams_both_ways(n: int, length: int) -> None:
    with endpoint("source") as source, endpoint("sink") as sink:
        here, there = source.allocate(n * length, "near"), sink.allocate(2 * n * length, "kv")
        here.array[:] = np.random.default_rng(1).integers(1, 256, n * length, dtype=np.uint8)
        expected = here.array.copy().reshape(n, length)
        peer = source.connect(sink.descriptor())
        assert peer.streams == STREAMS
        near, far = np.arange(n) * length, np.arange(n) * 2 * length
        peer.write(here, "kv", near, far, length, imm=7).wait(10)
        placed = there.array.reshape(n, 2, length)
        assert np.array_equal(placed[:, 0], expected)
        assert (placed[:, 1] == 0).all()
        assert eventually_written(sink, 7)
        here.array[:] = 0
        peer.read(here, "kv", near, far, length).wait(10)
        assert np.array_equal(here.array.reshape(n, length), expected)
        there.array[:] = 0
        sink.expect(1, there, far, length)
        peer.write(here, "kv", near, far, length, 1).wait(10)
        assert sink.missing(1).size == 0
        assert np.array_equal(placed[:, 0], expected)


def test_both_sides_take_the_smaller_number_and_one_on_one_host() -> None:
    for mine, theirs, agreed in ((4, 2, 2), (2, 4, 2), (None, 4, 1), (3, None, 3), (16, 16, 16)):
        with (
            Endpoint("source", transports=("tcp",), streams=mine) as source,
            Endpoint("sink", transports=("tcp",), streams=theirs) as sink,
        ):
            assert source.connect(sink.descriptor()).streams == agreed
    for wrong in (0, 17, -1):
        with pytest.raises(InvalidInput, match="streams"):
            Endpoint("a", streams=wrong)


def test_what_follows_a_write_that_timed_out_is_not_overwritten_by_its_late_chunks() -> None:
    with (
        endpoint("sink") as sink,
        Relay(sink.port, [Rule("write", 0, "delay", 0.8, stream=2)]) as relay,
        endpoint("source") as source,
    ):
        target, region = sink.allocate(4 * MIB, "kv"), source.allocate(4 * MIB, "source")
        peer = source.connect(relay.descriptor)
        region.array[:] = 1
        with pytest.raises(DeadlineExceeded):
            peer.write(region, "kv", 0, 0, 4 * MIB, timeout=0.2).wait(5)
        region.array[:] = 2
        peer.send(b"it is over").wait(5)
        # Everything new goes behind the chunk that is held back: a message, and a write to the same place.
        assert (target.array[:MIB] == 1).all()
        peer.write(region, "kv", 0, 0, 4 * MIB, timeout=5).wait(5)
        assert (target.array == 2).all()
        assert not wait_until(lambda: (target.array != 2).any(), 0.3)


def test_chunks_that_come_after_forget_by_a_slow_stream_land_nowhere() -> None:
    n, length = 64, 65536
    with (
        endpoint("sink") as sink,
        Relay(sink.port, [Rule("write", 0, "delay", 0.5, stream=s) for s in (1, 3)]) as relay,
        endpoint("source") as source,
    ):
        target, region = sink.allocate(n * length, "kv"), source.allocate(n * length, "source")
        places = np.arange(n) * length
        peer = source.connect(relay.descriptor)
        region.array[:] = 1
        sink.expect(1, target, places, length)
        transfer = peer.write(region, "kv", places, places, length, 1, timeout=5)
        assert wait_until(lambda: 0 < sink.missing(1).size < n, 5)
        sink.forget(1)
        target.array[:] = 9
        sink.expect(2, target, places, length)
        assert not wait_until(lambda: (target.array != 9).any(), 0.7)
        assert transfer.done()
        assert transfer.error is not None
        region.array[:] = 2
        peer.write(region, "kv", places, places, length, 2).wait(5)
        assert (target.array == 2).all()


def test_an_immediate_waits_for_the_slowest_stream() -> None:
    with (
        endpoint("sink") as sink,
        Relay(sink.port, [Rule("write", 0, "delay", 0.3, stream=3)]) as relay,
        endpoint("source") as source,
    ):
        target, region = sink.allocate(4 * MIB, "kv"), source.allocate(4 * MIB, "source")
        region.array[:] = 5
        peer = source.connect(relay.descriptor)
        transfer = peer.write(region, "kv", 0, 0, 4 * MIB, imm=3)
        assert eventually_written(sink, 3)
        assert (target.array == 5).all()
        transfer.wait(5)


@pytest.mark.parametrize("stream", range(STREAMS))
def test_a_stream_that_is_cut_ends_its_connection_and_a_new_one_works(stream: int) -> None:
    with endpoint("sink") as sink, endpoint("source") as source:
        _target = sink.allocate(8 * MIB, "kv")
        region = source.allocate(8 * MIB, "source")
        with Relay(sink.port, [Rule("write", 0, "cut", stream=stream)]) as relay:
            peer = source.connect(relay.descriptor)
            with pytest.raises(PeerLost):
                peer.write(region, "kv", 0, 0, 8 * MIB).wait(5)
        again = source.connect(sink.descriptor())
        again.write(region, "kv", 0, 0, 8 * MIB).wait(5)


def attach(port: int, number: int, index: int, proof: bytes) -> bytes:
    """What comes back until the other side closes."""
    body = struct.pack("<I", VERSION) + proof
    with socket.create_connection(("127.0.0.1", port), timeout=8) as s:
        s.sendall(frame(KINDS["attach"], body, count=index, op=number))
        try:
            return receive(s, HEAD.size)
        except ConnectionResetError:
            return b""


@pytest.mark.parametrize("secret", [None, b"cluster"])
def test_a_stranger_cannot_add_a_stream_to_a_connection(secret: bytes | None) -> None:
    with endpoint("sink", secret=secret) as sink, endpoint("source", secret=secret) as source:
        target, region = sink.allocate(MIB, "kv"), source.allocate(MIB, "source")
        stalled = Relay(sink.port, [Rule("attach", 1, "stall")])
        with stalled as relay, pytest.raises(DeadlineExceeded, match="streams"):
            source.connect(relay.descriptor, timeout=0.3)
        peer = source.connect(sink.descriptor())
        for number in range(8):
            for index in (0, 1, 3, 4, 2**16 - 1):
                assert attach(sink.port, number, index, os.urandom(32)) == b""
        region.array[:] = 1
        peer.write(region, "kv", 0, 0, MIB).wait(5)
        assert (target.array == 1).all()
        assert peer.streams == STREAMS


def test_connections_of_several_streams_leave_no_descriptor_behind() -> None:
    with endpoint("sink") as sink, endpoint("source") as source:
        _target = sink.allocate(MIB, "kv")
        region = source.allocate(MIB, "source")

        def some(rounds: int) -> None:
            for _ in range(rounds):
                with source.connect(sink.descriptor()) as peer:
                    peer.write(region, "kv", 0, 0, MIB)
                sink.poll()

        def held() -> int:
            return len(os.listdir("/proc/self/fd"))

        before = held()
        some(100)
        assert wait_until(lambda: held() <= before, 5)


rules = st.lists(
    st.builds(
        Rule, st.sampled_from(["write", "read", "data", "ack", "immediate"]), st.integers(0, 2),
        st.sampled_from(["delay", "drop", "duplicate", "truncate", "cut", "stall"]), st.sampled_from([0.05, 0.6]),
        st.integers(0, STREAMS - 1),
    ),
    min_size=1, max_size=4,
)  # fmt: skip


def post(peer: Peer, region: Region, target: Region, step: str, value: int) -> bool:
    """One whole-region operation that may fail. True: it did well, and the target is as it says."""
    region.array[:] = value
    try:
        if step == "write":
            transfer = peer.write(region, "kv", 0, 0, MIB, timeout=0.3)
        else:
            transfer = peer.read(region, "kv", 0, 0, MIB, timeout=0.3)
    except PeerLost:
        return False
    began = time.monotonic()
    try:
        transfer.wait(5)
    except (DeadlineExceeded, PeerLost):
        assert transfer.done()
        assert time.monotonic() - began < 3
        region.array[:] = 99  # the source, or the destination of a read, is its owner's again
        return False
    if step == "write":
        assert (target.array == value).all()
    else:
        assert np.array_equal(region.array, target.array)
    return True


@settings(max_examples=25, deadline=None)
@given(chosen=rules, seed=st.integers(0, 2**32), steps=st.lists(st.sampled_from(["write", "read"]), max_size=6))
def test_whatever_happens_on_a_stream_nothing_stale_lands_and_everything_ends_in_time(
    chosen: list[Rule], seed: int, steps: list[str]
) -> None:
    with (
        endpoint("sink") as sink,
        Relay(sink.port, chosen, seed) as relay,
        endpoint("source", heartbeat=0.1, silence=1.0) as source,
    ):
        target, region = sink.allocate(MIB, "kv"), source.allocate(MIB, "source")
        peer = source.connect(relay.descriptor)
        steps = [*steps, "write"]
        for value, step in enumerate(steps):
            well = post(peer, region, target, step, value + 1)
            assert not (target.array == 99).any()
        if well:  # what came before it does not come behind it
            assert not wait_until(lambda: (target.array != len(steps)).any(), 0.1)
