"""What transfer does when the other side dies, freezes, lies or is a stranger."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
from transfer_child import ENVIRONMENT, child, wait_event
from transfer_frames import HEAD, KINDS, VERSION, frame, text

from nano._core import counters
from nano.errors import DeadlineExceeded, NanoError, PeerLost, Refused
from nano.transfer import Endpoint

MIB = 1 << 20

# Serves a region "kv" and expects tag 1 in it; answers "missing" and echoes messages until its stdin ends.
SINK = """
import select, sys
import numpy as np
from nano.transfer import Endpoint
transport, nbytes = sys.argv[1], int(sys.argv[2])
with Endpoint("sink", transports=(transport,)) as ep:
    region = ep.allocate(nbytes, "kv")
    n = nbytes // 16384
    ep.expect(1, region, np.arange(n, dtype=np.int64) * 16384, 16384)
    print(ep.descriptor().hex(), flush=True)
    while True:
        ready, _, _ = select.select([ep, sys.stdin], [], [])
        for event in ep.poll():
            if event.kind == "message":
                event.peer.send(b"echo " + event.data)
        if sys.stdin in ready:
            line = sys.stdin.readline()
            if not line:
                break
            if line == "missing\\n":
                print(len(ep.missing(1)), flush=True)
"""

# Writes to a sink whose descriptor it is given, over and over.
SOURCE = """
import sys
import numpy as np
from nano.transfer import Endpoint
transport, nbytes, descriptor = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3])
with Endpoint("source", transports=(transport,)) as ep:
    region = ep.allocate(nbytes, "kv")
    region.array[:] = 1
    offsets = np.arange(nbytes // 16384, dtype=np.int64) * 16384
    peer = ep.connect(descriptor)
    print("ready", flush=True)
    while True:
        peer.write(region, "kv", offsets, offsets, 16384).wait()
"""


transports = pytest.mark.parametrize("transport", ["shm", "cma", "tcp"])


@transports
def test_a_destination_killed_in_the_middle_fails_the_transfer_at_once(transport: str) -> None:
    nbytes = 256 * MIB
    with Endpoint("source", transports=(transport,)) as ep, child(SINK, transport, nbytes) as sink:
        region = ep.allocate(nbytes, "kv")
        peer = ep.connect(bytes.fromhex(sink.first))
        offsets = np.arange(nbytes // 16384, dtype=np.int64) * 16384
        transfers = [peer.write(region, "kv", offsets, offsets, 16384) for _ in range(8)]
        transfers[0].wait(20)
        began = time.monotonic()
        sink.signal(signal.SIGKILL)
        with pytest.raises(PeerLost, match="sink"):
            transfers[-1].wait(5)
        for transfer in transfers:
            with contextlib.suppress(PeerLost):
                transfer.wait(2)
        assert time.monotonic() - began < 2.0
        lost = wait_event(ep, "lost", 2)
        assert lost.peer is not None
        assert lost.peer.id == peer.id
        with pytest.raises(PeerLost):
            peer.write(region, "kv", offsets, offsets, 16384)


@transports
def test_a_source_killed_in_the_middle_is_reported_and_its_tag_stays_incomplete(transport: str) -> None:
    nbytes = 64 * MIB
    with Endpoint("sink", transports=(transport,)) as ep:
        region = ep.allocate(nbytes, "kv")
        ep.expect(1, region, [0, 16384], 16384)
        with child(SOURCE, transport, nbytes, ep.descriptor().hex()) as source:
            wait_event(ep, "joined", 10)
            deadline = time.monotonic() + 10
            while not region.array[0] and time.monotonic() < deadline:
                time.sleep(0.001)
            began = time.monotonic()
            source.signal(signal.SIGKILL)
            lost = wait_event(ep, "lost", 5)
            assert time.monotonic() - began < 2.0
            assert lost.peer is not None
            assert lost.peer.name == "source"
        region.array[:] = 7
        assert ep.missing(1).tolist() == [0, 1]
        assert (region.array == 7).all()


@transports
def test_a_frozen_destination_fails_operations_by_their_deadline_and_counts_nothing_after_it_thaws(
    transport: str,
) -> None:
    nbytes = 64 * MIB
    with Endpoint("source", transports=(transport,)) as ep, child(SINK, transport, nbytes) as sink:
        region = ep.allocate(nbytes, "kv")
        region.array[:] = 1
        peer = ep.connect(bytes.fromhex(sink.first))
        offsets = np.arange(nbytes // 16384, dtype=np.int64) * 16384
        sink.freeze()
        began = time.monotonic()
        transfer = peer.write(region, "kv", offsets, offsets, 16384, tag=1, timeout=0.5)
        with pytest.raises(DeadlineExceeded, match="sink"):
            transfer.wait(5)
        assert 0.4 < time.monotonic() - began < 2.0
        region.array[:] = 2  # ours again
        sink.signal(signal.SIGCONT)
        # The connection survived; what was not whole before the deadline does not count.
        peer.send(b"hello")
        assert wait_event(ep, "message", 10).data == b"echo hello"
        missing = int(sink.ask("missing"))
        assert missing > 0 if transport == "tcp" else missing == offsets.size
        peer.write(region, "kv", offsets, offsets, 16384, tag=1).wait()
        assert sink.ask("missing") == "0"


@transports
def test_a_peer_frozen_for_longer_than_the_silence_is_lost(transport: str) -> None:
    with (
        Endpoint("source", transports=(transport,), heartbeat=0.1, silence=0.5) as ep,
        child(SINK, transport, MIB) as sink,
    ):
        peer = ep.connect(bytes.fromhex(sink.first))
        region = ep.allocate(MIB, "kv")
        sink.freeze()
        began = time.monotonic()
        transfer = peer.write(region, "kv", [0], [0], MIB)
        lost = wait_event(ep, "lost", 5)
        assert "silent" in lost.reason
        assert time.monotonic() - began < 3.0
        with pytest.raises(PeerLost):
            transfer.wait(1)
        sink.signal(signal.SIGCONT)


@transports
def test_a_cancel_of_a_frozen_peers_transfer_returns_in_time(transport: str) -> None:
    nbytes = 64 * MIB
    with Endpoint("source", transports=(transport,)) as ep, child(SINK, transport, nbytes) as sink:
        region = ep.allocate(nbytes, "kv")
        peer = ep.connect(bytes.fromhex(sink.first))
        offsets = np.arange(nbytes // 16384, dtype=np.int64) * 16384
        sink.freeze()
        transfer = peer.write(region, "kv", offsets, offsets, 16384, tag=1)
        began = time.monotonic()
        peer.cancel(1)
        assert time.monotonic() - began < 3.0
        assert isinstance(transfer.error, NanoError)
        sink.signal(signal.SIGCONT)


def hello(version: int = VERSION, secret: bool = False) -> bytes:
    return struct.pack("<I", version) + text(bytes(32)) + text(b"stranger") + bytes([secret, 1]) + struct.pack("<I", 0)


def dialogue(port: int, *messages: bytes) -> bytes:
    """Sends them all and returns what comes until the other side closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=8) as s:
        for message in messages:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                s.sendall(message)
        got = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := s.recv(65536):
                got += chunk
        return got


GARBAGE = {
    "an HTTP request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + bytes(100),
    "zeros": bytes(4096),
    "noise": np.random.default_rng(0).bytes(100_000),
    "a giant body": frame(KINDS["hello"], size=1 << 30),
    "a write before the handshake": frame(KINDS["write"], bytes(16), count=1, length=4096) + bytes(4104),
    "a hello cut short": frame(KINDS["hello"], hello()[:20]),
    "a hello without a name": frame(
        KINDS["hello"], struct.pack("<I", VERSION) + text(bytes(32)) + text(b"") + bytes(6)
    ),
    "an unknown kind": frame(99),
    "a proof of nothing": frame(KINDS["hello"], hello()) + frame(KINDS["proof"], b"short"),
    "a thousand offers": frame(KINDS["hello"], hello()[:-4] + struct.pack("<I", 1000)),
    "an old version": frame(KINDS["hello"], hello(version=0)),
}


@pytest.mark.parametrize("what", sorted(GARBAGE))
def test_garbage_closes_its_own_connection_with_one_log_line(what: str, caplog: pytest.LogCaptureFixture) -> None:
    with Endpoint("sink", transports=("tcp",)) as sink, Endpoint("source", transports=("tcp",)) as source:
        region, target = source.allocate(MIB, "kv"), sink.allocate(MIB, "kv")
        peer = source.connect(sink.descriptor())
        sink.poll()
        answer = dialogue(sink.port, GARBAGE[what])
        if what == "an old version":
            assert b"protocol version 0, expected 3" in answer
        else:
            assert b"refused" not in answer
        with caplog.at_level(logging.WARNING, "nano.transfer"):
            deadline = time.monotonic() + 5
            while not caplog.records and time.monotonic() < deadline:
                select.select([sink], [], [], 1)
                assert sink.poll() == []
        assert len(caplog.records) == 1
        region.array[:] = 1
        peer.write(region, "kv", [0], [0], MIB).wait()
        assert (target.array == 1).all()


def test_a_secret_is_checked_on_both_sides() -> None:
    for transport in ("shm", "tcp"):
        make = {"transports": (transport,)}
        with (
            Endpoint("right", secret=b"cluster", **make) as right,
            Endpoint("same", secret=b"cluster", **make) as same,
            Endpoint("wrong", secret=b"other", **make) as wrong,
            Endpoint("none", **make) as none,
        ):
            assert same.connect(right.descriptor()).name == "right"
            for endpoint, target in ((wrong, right), (none, right), (right, none), (right, wrong)):
                with pytest.raises(Refused, match="secret"):
                    endpoint.connect(target.descriptor())
            assert same.connect(right.descriptor()).name == "right"


def test_a_proof_cannot_be_guessed_or_played_back(caplog: pytest.LogCaptureFixture) -> None:
    with Endpoint("sink", transports=("tcp",), secret=b"cluster") as sink:
        for digest in (bytes(32), hmac.new(b"guess", b"x", hashlib.sha256).digest()):
            answer = dialogue(sink.port, frame(KINDS["hello"], hello(secret=True)), frame(KINDS["proof"], digest))
            assert b"wrong secret" in answer
        # Playing the acceptor's own proof back to it.
        with socket.create_connection(("127.0.0.1", sink.port), timeout=8) as s:
            s.sendall(frame(KINDS["hello"], hello(secret=True)))
            challenge = b""
            while len(challenge) < HEAD.size or len(challenge) < HEAD.size + HEAD.unpack_from(challenge)[5]:
                challenge += s.recv(4096)
            s.sendall(frame(KINDS["proof"], challenge[-32:]))
            assert b"wrong secret" in s.recv(4096)


def test_a_stranger_that_says_nothing_does_not_block_others() -> None:
    with Endpoint("sink", transports=("tcp",)) as sink, Endpoint("source", transports=("tcp",)) as source:
        silent = [socket.create_connection(("127.0.0.1", sink.port)) for _ in range(50)]
        assert source.connect(sink.descriptor(), timeout=3).name == "sink"
        for s in silent:
            s.close()


def test_an_address_where_nobody_listens_is_an_error_at_once() -> None:
    for transport in ("shm", "tcp"):
        with Endpoint("source", transports=(transport,)) as source:
            with Endpoint("gone", transports=(transport,)) as gone:
                descriptor = gone.descriptor()
            began = time.monotonic()
            with pytest.raises(PeerLost):
                source.connect(descriptor)
            assert time.monotonic() - began < 2


def test_a_frozen_acceptor_makes_connect_time_out() -> None:
    with Endpoint("source") as source, child(SINK, "tcp", MIB) as sink:
        sink.freeze()
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            source.connect(bytes.fromhex(sink.first), timeout=0.5)
        assert time.monotonic() - began < 2
        sink.signal(signal.SIGCONT)


@transports
def test_two_hundred_connections_leave_no_descriptor_and_no_name(transport: str) -> None:
    shm_names = set(os.listdir("/dev/shm"))
    with Endpoint("sink", transports=(transport,)) as sink, Endpoint("source", transports=(transport,)) as source:
        target, region = sink.allocate(MIB, "kv"), source.allocate(MIB, "kv")
        region.array[:] = 1

        def cycle() -> None:
            peer = source.connect(sink.descriptor())
            peer.write(region, "kv", [0], [0], 4096).wait()
            peer.close()
            wait_event(sink, "lost", 5)

        def settled() -> int:
            """Open descriptors once both sides have let go of their connections."""
            deadline = time.monotonic() + 5
            while counters()["peers"] and time.monotonic() < deadline:
                time.sleep(0.001)
            return len(os.listdir("/proc/self/fd"))

        cycle()
        before = settled()
        for _ in range(200):
            cycle()
        assert settled() == before
        assert target.array[0] == 1
    assert set(os.listdir("/dev/shm")) <= shm_names


def test_an_endpoint_that_nobody_closes_does_not_hang_the_interpreters_end() -> None:
    script = (
        "from nano.transfer import Endpoint\n"
        "a, b = Endpoint('a'), Endpoint('b')\n"
        "r, s = a.allocate(1 << 20, 'kv'), b.allocate(1 << 20, 'kv')\n"
        "p = a.connect(b.descriptor())\n"
        "t = p.write(r, 'kv', [0], [0], 1 << 20)\n"
        "t.add_done_callback(print)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], timeout=30, capture_output=True, text=True, check=False, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
