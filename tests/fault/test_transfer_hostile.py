"""A peer that was let in and then lies, by frames or in the memory that both sides share: it is refused or dropped,
reaches nothing that it may not, and others notice nothing.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import struct
from collections.abc import Iterator

import numpy as np
import pytest
from fault_relay import wait_until
from hypothesis import given, settings
from hypothesis import strategies as st
from transfer_frames import HEAD, KINDS, VERSION, frame, receive_frame, text

from nano.errors import Refused
from nano.transfer import Endpoint, Peer

NBYTES = 1 << 16
GUARD = 0xAA
OK, MALFORMED = 0, 14
BIG = [0, 1, 255, 256, 257, NBYTES - 1, NBYTES, NBYTES + 1, 2**31 - 1, 2**31, 2**32 - 1]
HUGE = [*BIG, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - NBYTES, 2**64 - 1]


def region_key(name: str) -> int:
    """FNV-1a, as csrc/transfer/region.h has it."""
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


KV = region_key("kv")


class World:
    """A sink with a region, a tag that expects its first block, and a peer that moves bytes in a region of its own."""

    def __init__(self, transport: str) -> None:
        self.sink = Endpoint("sink", transports=(transport,))
        self.region = self.sink.allocate(NBYTES, "kv")
        self.region.array[:] = GUARD
        self.sink.expect(1, self.region, [0], 4096)
        self.safe = self.sink.allocate(4096, "safe")
        self.friend = Endpoint("friend", transports=(transport,))
        self.source = self.friend.allocate(4096, "source")
        self.peer = self.friend.connect(self.sink.descriptor())

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self.friend.close()
        self.sink.close()

    def unharmed(self) -> None:
        assert (self.region.array == GUARD).all()
        assert self.sink.missing(1).tolist() == [0]
        for value in (1, 2):
            self.source.array[:] = value
            self.peer.write(self.source, "safe", [0], [0], 4096, timeout=5).wait(5)
            assert (self.safe.array == value).all()


@contextlib.contextmanager
def admitted(port: int) -> Iterator[socket.socket]:
    """A connection through the whole handshake, with no transport but the socket."""
    with socket.create_connection(("127.0.0.1", port), timeout=8) as s:
        hello = struct.pack("<I", VERSION) + text(bytes(32)) + text(b"liar") + b"\0\1" + struct.pack("<I", 0)
        s.sendall(frame(KINDS["hello"], hello))
        assert HEAD.unpack_from(receive_frame(s))[1] == KINDS["challenge"]
        s.sendall(frame(KINDS["proof"], bytes(32)))
        assert HEAD.unpack_from(receive_frame(s))[1] == KINDS["ready"]
        s.sendall(frame(KINDS["sync"]))
        assert HEAD.unpack_from(receive_frame(s))[1] == KINDS["synced"]
        yield s


def answers(s: socket.socket) -> list[tuple[int, int]]:
    """(kind, status) of what comes back until the other side closes, which our half-close makes it do."""
    with contextlib.suppress(OSError):
        s.shutdown(socket.SHUT_WR)
    out = []
    with contextlib.suppress(ConnectionResetError):
        while len(answer := receive_frame(s)) >= HEAD.size:
            head = HEAD.unpack_from(answer)
            out.append((head[1], head[11]))
    return out


def place(offset: int, piece: int = 0, run: int = 1) -> bytes:
    return struct.pack("<QII", offset % 2**64, piece, run)


def write(offset: int, *, tag: int = 0, region: int = KV, piece: int = 0, length: int = 4096) -> bytes:
    return frame(
        KINDS["write"], place(offset, piece), bytes(length) + struct.pack("<Q", 1),
        count=1, tag=tag, region=region, length=length, blocks=1,
    )  # fmt: skip


def read(offset: int, region: int = KV, length: int = 4096, chunk: int = 0) -> bytes:
    return frame(KINDS["read"], place(offset), count=1, chunk=chunk, region=region, length=length, blocks=1)


REFUSED = {
    "a write past the end": write(NBYTES - 4095),
    "a write whose end wraps around": write(2**64 - 4096),
    "a write to a foreign region": write(0, region=KV ^ 1),
    "a write with a tag that nobody expects": write(0, tag=2),
    "a write to another place than the tag's": write(4096, tag=1),
    "a write of a piece that the tag does not have": write(0, tag=1, piece=1),
    "a write of another length than the tag's": write(0, tag=1, length=2048),
    "a read past the end": read(NBYTES - 4095),
    "a read whose end wraps around": read(2**64 - 4096),
    "a read of a foreign region": read(0, region=KV ^ 1),
}


@pytest.mark.parametrize("what", sorted(REFUSED))
def test_what_a_peer_may_not_do_is_refused_and_the_connection_goes_on(what: str) -> None:
    with World("tcp") as world, admitted(world.sink.port) as s:
        s.sendall(REFUSED[what])
        s.sendall(read(0, length=64, chunk=1))  # allowed, and still answered
        kinds = answers(s)
        assert [kind for kind, _ in kinds] == [KINDS["ack"], KINDS["data"]]
        assert kinds[0][1] != OK
        world.unharmed()


BROKEN = {
    "a second hello": frame(KINDS["hello"], bytes(50)),
    "a count that its body does not have": frame(KINDS["read"], place(0), count=2, region=KV, length=64),
    "no pieces": frame(KINDS["read"], b"", count=0, region=KV, length=64),
    "blocks of nothing": frame(KINDS["read"], place(0), count=1, region=KV, length=0),
    "a run of no blocks": frame(KINDS["read"], place(0, run=0), count=1, region=KV, length=64),
    "a run of a billion blocks": frame(KINDS["read"], place(0, run=10**9), count=1, region=KV, length=64),
    "more pieces than a chunk has": frame(KINDS["read"], place(0) * 257, count=257, region=KV, length=64),
    "a body of a gigabyte": frame(KINDS["read"], size=1 << 30, count=1, region=KV, length=64, blocks=1),
    "a frame with a bit that changed": bytes([*(good := read(0))[:40], good[40] ^ 1, *good[41:]]),
    "an end of the handshake that was over": frame(KINDS["synced"]),
    "a frame for a path that does not exist": frame(6, b"x", op=7),
    "a region for a path that does not exist": frame(8, b"x", op=7),
    "bad magic": b"nope" + bytes(60),
}


@pytest.mark.parametrize("what", sorted(BROKEN))
def test_a_peer_that_breaks_the_protocol_is_dropped(what: str) -> None:
    with World("tcp") as world, admitted(world.sink.port) as s:
        s.sendall(BROKEN[what])
        assert wait_until(lambda: any(event.kind == "lost" for event in world.sink.poll()), 5)
        assert KINDS["data"] not in [kind for kind, _ in answers(s)]
        world.unharmed()


def test_a_peer_that_leaves_right_behind_its_last_bytes_is_lost_at_once() -> None:
    with World("tcp") as world:
        for _ in range(30):
            with admitted(world.sink.port) as s:
                s.sendall(frame(KINDS["message"], b"bye", op=1))
            seen: list[str] = []
            assert wait_until(lambda seen=seen: seen.extend(e.kind for e in world.sink.poll()) or "lost" in seen, 1)
            assert "message" in seen


fields = st.fixed_dictionaries(
    {},
    optional={
        "flags": st.integers(0, 2**8 - 1), "count": st.sampled_from([0, 1, 255, 256, 257, 2**16 - 1]),
        "op": st.sampled_from(HUGE), "chunk": st.sampled_from(HUGE), "tag": st.sampled_from([0, 1, 2, 2**64 - 1]),
        "region": st.sampled_from([KV ^ 1, 0]), "length": st.sampled_from(HUGE), "status": st.sampled_from(BIG),
        "blocks": st.sampled_from(BIG),
    },
)  # fmt: skip
bodies = st.one_of(
    st.binary(max_size=64),
    st.lists(st.builds(place, st.sampled_from(HUGE), st.sampled_from(BIG), st.sampled_from(BIG)), max_size=4).map(
        b"".join
    ),
)
frames = st.builds(
    lambda kind, body, payload, values: frame(kind, body, payload, **values),
    st.integers(0, 20), bodies, st.binary(max_size=64), fields,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(sent=st.lists(frames, min_size=1, max_size=6))
def test_no_sequence_of_frames_reaches_anything(sent: list[bytes]) -> None:
    with World("tcp") as world:
        with admitted(world.sink.port) as s:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for one in sent:
                    s.sendall(one)
            assert KINDS["data"] not in [kind for kind, _ in answers(s)]
        world.unharmed()


# The link of a connection by shared memory, as csrc/transfer/lane.h lays it out.
SLOT = struct.Struct("<8I4Q")  # state, flags, memory, count, first, status, bad, imm; tag, region, length, deadline
SLOTS, LANE_SLOTS, LANE_PIECES = 128, 192, 192 + 128 * 64
PIECES, PIECE = 4096, struct.Struct("<QQII")
POSTED, DONE = 1, 6


@contextlib.contextmanager
def link_of(peer: Peer, before: set[str]) -> Iterator[mmap.mmap]:
    """The memory that a connector shares with its peer, writable as it is for the connector itself."""
    for name in sorted(set(os.listdir("/proc/self/fd")) - before):
        with contextlib.suppress(OSError):
            if "nano:link" in os.readlink(f"/proc/self/fd/{name}"):
                fd = int(name)
                with mmap.mmap(fd, os.fstat(fd).st_size) as memory:
                    yield memory
                return
    raise AssertionError(f"no link of {peer.name}")


slots = st.tuples(
    st.sampled_from([0, 1, 2, 4, 8, 2**32 - 1]),  # flags
    st.sampled_from([0, 1, 2, 3, 2**32 - 1]),  # memory of the source
    st.sampled_from([0, 1, 2, 64, 65, 4096, 2**32 - 1]),  # pieces
    st.sampled_from([0, 1, 4095, 2**32 - 1]),  # where they begin
    st.sampled_from([0, 1, 2, 2**64 - 1]),  # tag
    st.sampled_from([KV, KV ^ 1]),
    st.sampled_from(HUGE),  # length
    st.sampled_from([0, 2**63 - 1]),  # deadline
)
pieces = st.tuples(
    st.sampled_from(HUGE),
    st.sampled_from([value for value in HUGE if value >= NBYTES]),  # remote: never a place that exists
    st.sampled_from(BIG),
    st.sampled_from([0, 1, 2, 255, 256, 257, 2**32 - 1]),
)


@settings(max_examples=40, deadline=None)
@given(posted=st.lists(slots, min_size=1, max_size=8), filling=pieces)
def test_nothing_in_shared_memory_reaches_what_a_peer_may_not_have(
    posted: list[tuple[int, ...]], filling: tuple[int, ...]
) -> None:
    with World("shm") as world, Endpoint("liar", transports=("shm",)) as liar:
        liar.allocate(4096, "source")
        before = set(os.listdir("/proc/self/fd"))
        with liar.connect(world.sink.descriptor()) as peer, link_of(peer, before) as memory:
            memory[LANE_PIECES : LANE_PIECES + PIECES * PIECE.size] = PIECE.pack(*filling) * PIECES
            for at, (flags, source, count, first, tag, region, length, deadline) in enumerate(posted):
                begin = LANE_SLOTS + at * SLOT.size
                memory[begin : begin + SLOT.size] = SLOT.pack(
                    0, flags, source, count, first, 0, 0, 0, tag, region, length, deadline
                )
                memory[begin : begin + 4] = struct.pack("<I", POSTED)
                peer.send(b"look")  # wakes the other side
                if peer.closed:
                    break
                assert wait_until(
                    lambda begin=begin: peer.closed or memory[begin : begin + 4] == struct.pack("<I", DONE), 5
                )
                assert peer.closed or SLOT.unpack_from(memory, begin)[5] != OK
            world.unharmed()


def test_every_byte_of_a_link_may_be_anything() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        with World("shm") as world, Endpoint("liar", transports=("shm",)) as liar:
            before = set(os.listdir("/proc/self/fd"))
            with liar.connect(world.sink.descriptor()) as peer, link_of(peer, before) as memory:
                noise = rng.integers(0, 256, len(memory), dtype=np.uint8)
                noise[: 4 * 64].view(np.uint32)[::16] &= 1
                memory[:] = noise.tobytes()
                with contextlib.suppress(Exception):
                    peer.send(b"look")
                world.unharmed()


def test_a_region_that_may_only_be_read_is_never_written() -> None:
    for transport in ("shm", "tcp"):
        with Endpoint("sink", transports=(transport,)) as sink, Endpoint("source", transports=(transport,)) as source:
            fixed = sink.register(bytes(4096), "fixed")
            region = source.allocate(4096, "source")
            region.array[:] = 7
            peer = source.connect(sink.descriptor())
            with pytest.raises(Refused, match="read-only"):
                peer.write(region, "fixed", [0], [0], 4096, timeout=5).wait(5)
            peer.read(region, "fixed", [0], [0], 4096, timeout=5).wait(5)
            assert (region.array == 0).all()
            fixed.close()
