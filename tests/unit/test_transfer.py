"""Moving blocks between endpoints, by every transport of one machine."""

from __future__ import annotations

import gc
import select
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from nano.errors import Closed, InvalidInput, NanoError, Refused
from nano.transfer import Endpoint, Event, Peer, Region

MIB = 1 << 20


def events_until(endpoint: Endpoint, kind: str, seconds: float = 5.0) -> Event:
    """The next event of that kind; others are dropped."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        select.select([endpoint], [], [], max(0.0, deadline - time.monotonic()))
        for event in endpoint.poll():
            if event.kind == kind:
                return event
    raise AssertionError(f"no {kind} event within {seconds} s")


class Pair:
    """Two connected endpoints with a region "kv" each."""

    def __init__(self, transport: str, nbytes: int = 4 * MIB) -> None:
        self.source = Endpoint("source", transports=(transport,))
        self.sink = Endpoint("sink", transports=(transport,))
        self.src: Region = self.source.allocate(nbytes, "kv")
        self.dst: Region = self.sink.allocate(nbytes, "kv")
        self.peer: Peer = self.source.connect(self.sink.descriptor())

    def close(self) -> None:
        self.source.close()
        self.sink.close()


@pytest.fixture(params=["shm", "cma", "tcp"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    made = Pair(request.param)
    yield made
    made.close()


def blocks(rng: np.random.Generator, n: int, length: int, room: int) -> np.ndarray:
    return rng.permutation(room // length)[:n].astype(np.int64) * length


@pytest.mark.parametrize(("n", "length"), [(1, 4096), (1, 1), (64, 1024), (100, 10000), (1000, 4096), (3, MIB)])
def test_scattered_blocks_arrive_where_they_should_and_nowhere_else(pair: Pair, n: int, length: int) -> None:
    rng = np.random.default_rng(n)
    pair.src.array[:] = rng.integers(0, 256, pair.src.nbytes, dtype=np.uint8)
    pair.dst.array[:] = rng.integers(0, 256, pair.dst.nbytes, dtype=np.uint8)
    src, dst = blocks(rng, n, length, pair.src.nbytes), blocks(rng, n, length, pair.dst.nbytes)
    expected = pair.dst.array.copy()
    for s, d in zip(src, dst, strict=True):
        expected[d : d + length] = pair.src.array[s : s + length]
    pair.peer.write(pair.src, "kv", src, dst, length).wait()
    assert np.array_equal(pair.dst.array, expected)


@pytest.mark.parametrize(("n", "length"), [(1, 4096), (64, 1024), (1000, 4096), (3, MIB)])
def test_reads_bring_the_peers_blocks(pair: Pair, n: int, length: int) -> None:
    rng = np.random.default_rng(n)
    pair.dst.array[:] = rng.integers(0, 256, pair.dst.nbytes, dtype=np.uint8)
    src, dst = blocks(rng, n, length, pair.src.nbytes), blocks(rng, n, length, pair.dst.nbytes)
    expected = pair.src.array.copy()
    for s, d in zip(src, dst, strict=True):
        expected[d : d + length] = pair.dst.array[s : s + length]
    pair.peer.read(pair.src, "kv", dst, src, length).wait()
    assert np.array_equal(pair.src.array, expected)


def test_a_transport_is_what_it_says(pair: Pair) -> None:
    joined = events_until(pair.sink, "joined")
    assert joined.peer is not None
    assert joined.peer.name == "source"
    assert joined.peer.transport == pair.peer.transport
    assert pair.peer.name == "sink"


def test_a_tag_completes_once_when_every_piece_is_in(pair: Pair) -> None:
    offsets = np.array([8192, 0, 16384], dtype=np.int64)
    pair.src.array[:] = 3
    pair.sink.expect(7, pair.dst, offsets, 4096)
    began = time.monotonic_ns()
    pair.peer.write(pair.src, "kv", np.zeros(2, np.int64), offsets[[2, 0]], 4096, tag=7, pieces=[2, 0]).wait()
    assert pair.sink.missing(7).tolist() == [1]
    assert pair.sink.landed(7)[1] == 0
    pair.peer.write(pair.src, "kv", [0], offsets[[1]], 4096, tag=7, pieces=[1]).wait()
    assert pair.sink.missing(7).size == 0
    assert (pair.sink.landed(7) > began).all()
    assert (pair.sink.landed(7) <= time.monotonic_ns()).all()
    assert events_until(pair.sink, "complete").tag == 7
    pair.peer.write(pair.src, "kv", [0], offsets[[1]], 4096, tag=7, pieces=[1]).wait()
    assert [e.kind for e in pair.sink.poll()] == []
    pair.sink.forget(7)


def test_a_piece_that_arrives_twice_is_not_written_again(pair: Pair) -> None:
    pair.sink.expect(1, pair.dst, [0], 4096)
    pair.src.array[:4096] = 1
    pair.peer.write(pair.src, "kv", [0], [0], 4096, tag=1).wait()
    pair.src.array[:4096] = 2
    pair.peer.write(pair.src, "kv", [0], [0], 4096, tag=1).wait()
    assert (pair.dst.array[:4096] == 1).all()
    pair.sink.forget(1)


def test_a_piece_twice_in_one_write_is_written_once(pair: Pair) -> None:
    pair.sink.expect(1, pair.dst, [0], 4096)
    pair.src.array[:4096] = 1
    pair.src.array[4096:8192] = 2
    pair.peer.write(pair.src, "kv", [0, 4096], [0, 0], 4096, tag=1, pieces=[0, 0]).wait()
    assert (pair.dst.array[:4096] == 1).all()
    pair.sink.forget(1)


@pytest.mark.parametrize(
    ("dst", "length", "piece", "remote", "tag", "said"),
    [
        (4096, 4096, 0, "kv", 5, "another offset"),
        (0, 2048, 0, "kv", 5, "another length"),
        (0, 4096, 9, "kv", 5, "no such piece"),
        (0, 4096, 0, "other", 5, "belongs to another region"),
        (0, 4096, 0, "nowhere", 5, "no region of that name"),
        (0, 4096, 0, "kv", 6, "not expected"),
        (4 * MIB - 1, 4096, 0, "kv", 0, "past the end"),
        (1 << 62, 4096, 0, "kv", 0, "past the end"),
        (0, 4096, 0, "fixed", 0, "read-only"),
    ],
)
def test_a_wrong_write_is_refused_and_changes_nothing(
    pair: Pair, dst: int, length: int, piece: int, remote: str, tag: int, said: str
) -> None:
    fixed = bytes(8192)
    with pair.sink.allocate(MIB, "other") as other, pair.sink.register(fixed, "fixed"):
        pair.sink.expect(5, pair.dst, [0], 4096)
        pair.src.array[:] = 1
        pieces = [piece] if tag else None
        transfer = pair.peer.write(pair.src, remote, [0], [dst], length, tag=tag, pieces=pieces)
        with pytest.raises(Refused, match=said):
            transfer.wait()
        assert isinstance(transfer.error, Refused)
        assert not pair.dst.array.any()
        assert not other.array.any()
        assert fixed == bytes(8192)
        assert pair.sink.missing(5).tolist() == [0]
        # The connection is as good as before.
        pair.peer.write(pair.src, "kv", [0], [0], 4096, tag=5).wait()
        pair.sink.forget(5)


def test_a_wrong_read_is_refused(pair: Pair) -> None:
    with pytest.raises(Refused, match="past the end"):
        pair.peer.read(pair.src, "kv", [0], [4 * MIB - 1], 4096).wait()
    with pytest.raises(Refused, match="no region"):
        pair.peer.read(pair.src, "nowhere", [0], [0], 4096).wait()
    pair.peer.read(pair.src, "kv", [0], [0], 4096).wait()


@pytest.mark.parametrize(
    ("src", "dst", "length", "pieces"),
    [([-1], [0], 10, None), ([4 * MIB], [0], 1, None), ([0], [0, 1], 1, None), ([], [], 1, None), ([0], [-1], 1, None),
     ([0], [0], 0, None), ([0], [0], -1, None), ([0.5], [0], 1, None), ([0], [0], 1, [0]), ([0], [0], 1 << 40, None)],
)  # fmt: skip
def test_a_caller_is_told_what_is_wrong(pair: Pair, src: list[int], dst: list[int], length: int, pieces: None) -> None:
    with pytest.raises(InvalidInput):
        pair.peer.write(pair.src, "kv", src, dst, length, pieces=pieces)


def test_expect_checks_its_arguments(pair: Pair) -> None:
    for offsets, length in (([4 * MIB - 1], 2), ([-1], 1), ([0], 0)):
        with pytest.raises(InvalidInput):
            pair.sink.expect(1, pair.dst, offsets, length)
    with pytest.raises(InvalidInput):
        pair.sink.expect(0, pair.dst, [0], 1)
    pair.sink.expect(1, pair.dst, [0], 1)
    with pytest.raises(InvalidInput, match="already"):
        pair.sink.expect(1, pair.dst, [0], 1)
    pair.sink.forget(1)
    pair.sink.forget(1)
    with pytest.raises(Closed):
        pair.sink.missing(1)


def test_a_forgotten_tag_is_never_written(pair: Pair) -> None:
    pair.src.array[:] = 1
    pair.sink.expect(1, pair.dst, [0], 4096)
    pair.sink.forget(1)
    with pytest.raises(Refused, match="not expected"):
        pair.peer.write(pair.src, "kv", [0], [0], 4096, tag=1).wait()
    assert not pair.dst.array.any()


def test_nothing_is_written_after_forget_returns_in_the_middle_of_a_transfer() -> None:
    for transport in ("shm", "cma", "tcp"):
        pair = Pair(transport, 64 * MIB)
        pair.src.array[:] = 1
        n = pair.src.nbytes // 16384
        offsets = np.arange(n, dtype=np.int64) * 16384
        for round_ in range(8):
            pair.dst.array[:] = 0
            pair.sink.expect(round_ + 1, pair.dst, offsets, 16384)
            transfer = pair.peer.write(pair.src, "kv", offsets, offsets, 16384, tag=round_ + 1)
            deadline = time.monotonic() + 5
            while not pair.sink.landed(round_ + 1).any() and time.monotonic() < deadline:
                pass
            pair.sink.forget(round_ + 1)
            written = pair.dst.array.copy()
            try:
                transfer.wait()
            except Refused:
                assert not written.all()
            assert np.array_equal(pair.dst.array, written)
        pair.close()


def test_cancel_ends_the_writes_and_lets_go_of_their_sources() -> None:
    for transport in ("shm", "cma", "tcp"):
        pair = Pair(transport, 64 * MIB)
        n = pair.src.nbytes // 16384
        offsets = np.arange(n, dtype=np.int64) * 16384
        cancelled = 0
        for round_ in range(8):
            tag = round_ + 1
            pair.src.array[:] = 1
            pair.dst.array[:] = 0
            pair.sink.expect(tag, pair.dst, offsets, 16384)
            transfer = pair.peer.write(pair.src, "kv", offsets, offsets, 16384, tag=tag)
            other = pair.peer.write(pair.src, "kv", [0], [0], 1)
            pair.peer.cancel(tag)
            assert transfer.done()
            pair.src.array[:] = 2  # the source is ours again
            if transfer.error is not None:
                assert isinstance(transfer.error, Closed)
                cancelled += 1
            with_deadline = pair.peer.write(pair.src, "kv", [0], [0], 1)
            with_deadline.wait()
            other.wait()
            landed = pair.sink.landed(tag) > 0
            # What counts as landed holds the bytes from before the cancellation.
            assert (pair.dst.array.reshape(n, 16384)[landed][:, 1:] == 1).all()
            pair.sink.forget(tag)
        assert cancelled > 0
        pair.close()


def test_messages_arrive_in_order_both_ways(pair: Pair) -> None:
    sink_side = events_until(pair.sink, "joined").peer
    assert sink_side is not None
    sent = [bytes([i]) * (i * 37 % 5000) for i in range(200)] + [bytes(1 << 20)]
    for receiver, sender in ((pair.sink, pair.peer), (pair.source, sink_side)):
        for data in sent:
            sender.send(data)
        got: list[bytes] = []
        deadline = time.monotonic() + 10
        while len(got) < len(sent) and time.monotonic() < deadline:
            select.select([receiver], [], [], 1)
            got += [event.data for event in receiver.poll() if event.kind == "message"]
        assert got == sent
    with pytest.raises(InvalidInput):
        pair.peer.send(bytes((1 << 20) + 1))


def test_both_sides_can_move_data_at_once(pair: Pair) -> None:
    back = events_until(pair.sink, "joined").peer
    assert back is not None
    half = 2 * MIB
    rng = np.random.default_rng(0)
    pair.src.array[:] = rng.integers(0, 256, pair.src.nbytes, dtype=np.uint8)
    pair.dst.array[:] = rng.integers(0, 256, pair.dst.nbytes, dtype=np.uint8)
    offsets = np.arange(half // 4096, dtype=np.int64) * 4096
    transfers = []
    for _ in range(10):
        transfers.append(pair.peer.write(pair.src, "kv", offsets, offsets + half, 4096))
        transfers.append(back.write(pair.dst, "kv", offsets, offsets + half, 4096))
    for transfer in transfers:
        transfer.wait(20)
    assert np.array_equal(pair.dst.array[half:], pair.src.array[:half])
    assert np.array_equal(pair.src.array[half:], pair.dst.array[:half])


def test_registered_buffers_travel_by_any_connection(pair: Pair) -> None:
    theirs = np.zeros(100_000, np.uint8)
    mine = np.random.default_rng(1).integers(0, 256, 100_000, dtype=np.uint8)
    with pair.sink.register(theirs, "theirs"), pair.source.register(mine, "mine") as region:
        pair.peer.write(region, "theirs", [1], [0], 99_999).wait()
        assert np.array_equal(theirs[:99_999], mine[1:])
        theirs[:] = 9
        pair.peer.read(region, "theirs", [0], [0], 100_000).wait()
        assert (mine == 9).all()
    inside = pair.source.register((pair.src.address + 4096, 8192), "inside")
    pair.src.array[4096:12288] = 5
    pair.peer.write(inside, "kv", [0], [0], 8192).wait()
    assert (pair.dst.array[:8192] == 5).all()
    with pytest.raises(InvalidInput):
        pair.source.register(np.zeros((4, 4))[:, ::2], "strided")
    with pytest.raises(InvalidInput, match="taken"):
        pair.source.allocate(10, "kv")


def test_callbacks_run_once_and_wait_raises_only_late_deadlines(pair: Pair) -> None:
    called: list[object] = []
    event = threading.Event()
    transfer = pair.peer.write(pair.src, "kv", [0], [0], MIB)
    transfer.add_done_callback(lambda t: (called.append(t), event.set()))
    transfer.wait(timeout=5)
    assert event.wait(5)
    assert called == [transfer]
    transfer.add_done_callback(called.append)
    assert called == [transfer, transfer]
    assert transfer.error is None


def test_a_region_can_be_closed_while_it_is_used(pair: Pair) -> None:
    extra = pair.source.allocate(MIB, "extra")
    transfer = pair.peer.write(extra, "kv", [0], [0], MIB)
    extra.close()
    extra.close()
    assert transfer.done()
    with pytest.raises(Closed):
        pair.peer.write(extra, "kv", [0], [0], 1)
    gone = pair.sink.allocate(MIB, "gone")
    gone.close()
    with pytest.raises(Refused):
        pair.peer.write(pair.src, "gone", [0], [0], 1).wait()
    again = pair.sink.allocate(MIB, "gone")
    pair.src.array[0] = 77
    pair.peer.write(pair.src, "gone", [0], [0], 1).wait()
    assert again.array[0] == 77


def test_closing_a_peer_fails_what_is_pending_and_tells_the_other_side(pair: Pair) -> None:
    pair.peer.close()
    pair.peer.close()
    assert pair.peer.closed
    assert "closed" in events_until(pair.sink, "lost").reason
    with pytest.raises(Closed):
        pair.peer.write(pair.src, "kv", [0], [0], 1)
    with pytest.raises(Closed):
        pair.peer.send(b"")
    assert [e.kind for e in pair.source.poll()] == []


def test_objects_may_be_dropped_and_closed_in_any_order() -> None:
    for order in range(6):
        pair = Pair("shm" if order % 2 else "tcp")
        view = pair.dst.array
        transfer = pair.peer.write(pair.src, "kv", [0], [0], MIB)
        if order == 0:
            pair.source.close()
            del pair.peer
        elif order == 1:
            del pair.src, pair.dst
            gc.collect()
        elif order == 2:
            del pair.source
            gc.collect()
        elif order == 3:
            peer = pair.peer
            pair.close()
            with pytest.raises(NanoError):
                peer.send(b"late")
        elif order == 4:
            pair.sink.close()
            del pair.sink
        elif order == 5:
            pair.src.close()
            pair.peer.close()
        gc.collect()
        view[0] = 1
        for endpoint in (getattr(pair, "source", None), getattr(pair, "sink", None)):
            if endpoint is not None:
                endpoint.close()
                endpoint.close()
        assert transfer.done()
        with pytest.raises(Closed):
            (getattr(pair, "source", None) or pair.sink).allocate(1, "late")


def test_an_endpoint_can_connect_to_itself() -> None:
    with Endpoint("self") as endpoint:
        region = endpoint.allocate(MIB, "kv")
        peer = endpoint.connect(endpoint.descriptor())
        region.array[:10] = 4
        peer.write(region, "kv", [0], [100], 10).wait()
        assert (region.array[100:110] == 4).all()


def test_shm_is_chosen_on_one_host_and_tcp_when_asked_for() -> None:
    with Endpoint("a") as a, Endpoint("b") as b:
        assert a.connect(b.descriptor()).transport == "shm"
        assert a.connect(b.descriptor(), transports=("tcp",)).transport == "tcp"
    with (
        Endpoint("a", transports=("tcp",)) as a,
        Endpoint("b", transports=("shm",)) as b,
        pytest.raises(Refused, match="no transport in common"),
    ):
        a.connect(b.descriptor())


def test_addresses_other_than_loopback_need_a_secret() -> None:
    with pytest.raises(Refused, match="insecure"):
        Endpoint("open", host="0.0.0.0")
    Endpoint("open", host="0.0.0.0", secret=b"s", advertise="127.0.0.1").close()
    Endpoint("open", host="0.0.0.0", insecure=True).close()


def test_an_idle_endpoint_uses_no_cpu(pair: Pair) -> None:
    pair.peer.write(pair.src, "kv", [0], [0], 4096).wait()
    time.sleep(0.05)  # past the spinning
    before = time.process_time()
    time.sleep(1.0)
    assert time.process_time() - before < 0.02  # two endpoints, 1 % each
