"""When a peer dies, freezes, thaws or closes what is being written over RDMA: what ends, and what is never written."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from fault import test_transfer as general
from rdma.wires import Wire

from nano._core import counters
from nano.errors import NanoError, PeerLost, Refused
from nano.transfer import Endpoint, Peer, Region

MIB = 1 << 20
BLOCK = 16 << 10


@pytest.mark.parametrize(
    "test",
    [
        general.test_a_source_killed_in_the_middle_is_reported_and_its_tag_stays_incomplete,
        general.test_a_frozen_destination_fails_operations_by_their_deadline_and_counts_nothing_after_it_thaws,
        general.test_a_cancel_of_a_frozen_peers_transfer_returns_in_time,
    ],
)
def test_what_holds_for_every_transport(test: Callable[[str], None]) -> None:
    test("verbs")


def offsets(region: Region) -> np.ndarray:
    return np.arange(region.nbytes // BLOCK, dtype=np.int64) * BLOCK


def test_a_destination_killed_in_the_middle_fails_the_transfer_at_once() -> None:
    nbytes = 32 * MIB
    with Endpoint("source", transports=("verbs",)) as ep, general.child(general.SINK, "verbs", nbytes) as sink:
        region = ep.allocate(nbytes, "kv")
        peer = ep.connect(bytes.fromhex(sink.first), timeout=20)
        transfers = [peer.write(region, "kv", offsets(region), offsets(region), BLOCK) for _ in range(24)]
        transfers[0].wait(20)
        began = time.monotonic()
        sink.signal(signal.SIGKILL)
        with pytest.raises(PeerLost, match="sink"):
            transfers[-1].wait(5)
        assert time.monotonic() - began < 2.0


def test_a_peer_frozen_for_longer_than_the_silence_is_lost_though_its_device_still_answers() -> None:
    with (
        Endpoint("source", transports=("verbs",), heartbeat=0.1, silence=1.0) as ep,
        general.child(general.SINK, "verbs", MIB) as sink,
    ):
        region = ep.allocate(MIB, "kv")
        peer = ep.connect(bytes.fromhex(sink.first), timeout=20)
        sink.freeze()
        began = time.monotonic()
        tagged = peer.write(region, "kv", offsets(region), offsets(region), BLOCK, tag=1)
        peer.write(region, "kv", [0], [0], BLOCK).wait(5)
        lost = general.wait_event(ep, "lost", 5)
        assert "silent" in lost.reason
        assert time.monotonic() - began < 4.0
        with pytest.raises(PeerLost):
            tagged.wait(1)
        sink.signal(signal.SIGCONT)


def test_a_thawed_peer_with_queued_work_writes_nothing_into_blocks_that_were_forgotten() -> None:
    nbytes = 32 * MIB
    script = general.SOURCE.replace("offsets, offsets, 16384)", "offsets, offsets, 16384, tag=1)")
    with Endpoint("sink", transports=("verbs",)) as ep:
        region = ep.allocate(nbytes, "kv")
        ep.expect(1, region, offsets(region), BLOCK)
        with general.child(script, "verbs", nbytes, ep.descriptor().hex()) as source:
            deadline = time.monotonic() + 20
            while not ep.landed(1).any() and time.monotonic() < deadline:
                time.sleep(0.001)
            source.freeze()
            assert ep.missing(1).size > 0, "it was frozen too late for this test to mean anything"
            began = time.monotonic()
            ep.forget(1)  # the peer cannot say that it stopped: its queue pairs go instead
            assert time.monotonic() - began < 2.0
            region.array[:] = 7  # the blocks are in use again
            source.signal(signal.SIGCONT)
            time.sleep(0.5)
            assert (region.array == 7).all()


def test_packets_of_a_slow_link_that_arrive_late_write_nothing(wires: tuple[Wire, Wire]) -> None:
    """Half a second's worth of writes is in the cable when the destination takes its blocks back."""
    wire = wires[0]
    with (
        Endpoint("source", transports=("verbs",), devices=[wire.left]) as source,
        Endpoint("sink", transports=("verbs",), devices=[wire.right]) as sink,
    ):
        src, dst = source.allocate(8 * MIB, "kv"), sink.allocate(8 * MIB, "kv")
        src.array[:] = 1
        peer = source.connect(sink.descriptor(), timeout=20)
        sink.expect(1, dst, offsets(dst), BLOCK)
        wire.rule("delay", "300ms", "limit", "100000", ends=(0,))
        transfer = peer.write(src, "kv", offsets(src), offsets(dst), BLOCK, tag=1)
        time.sleep(0.2)
        sink.forget(1)
        dst.array[:] = 7
        with pytest.raises(NanoError):
            transfer.wait(20)
        wire.heal()
        time.sleep(0.5)
        assert (dst.array == 7).all()


def test_data_that_landed_while_its_acknowledgements_were_lost_is_not_written_again(
    wires: tuple[Wire, Wire],
) -> None:
    wire = wires[0]
    with (
        Endpoint("source", transports=("verbs",), devices=[wire.left]) as source,
        Endpoint("sink", transports=("verbs",), devices=[wire.right]) as sink,
    ):
        # So little that the device sends all of it without an acknowledgement.
        src, dst = source.allocate(16 * BLOCK, "kv"), sink.allocate(16 * BLOCK, "kv")
        src.array[:] = 1
        peer = source.connect(sink.descriptor(), timeout=20)
        sink.expect(1, dst, offsets(dst), BLOCK)
        wire.rule("loss", "100%", ends=(1,))  # nothing comes back
        transfer = peer.write(src, "kv", offsets(src), offsets(dst), BLOCK, tag=1)
        general.wait_event(sink, "complete", 10)
        dst.array[:] = 7  # complete: the blocks are in use
        time.sleep(1.0)  # the source gives the queue pairs up, and asks anew
        wire.heal()
        transfer.wait(20)
        assert (dst.array == 7).all()
        sink.forget(1)


class Writer(threading.Thread):
    """Writes all of a region again and again, until that fails."""

    def __init__(self, peer: Peer, src: Region, dst: str) -> None:
        super().__init__()
        self.peer, self.src, self.dst = peer, src, dst
        self.written = 0
        self.error: NanoError | None = None
        self.start()

    def run(self) -> None:
        places = offsets(self.src)
        deadline = time.monotonic() + 30
        try:
            while time.monotonic() < deadline:
                self.peer.write(self.src, self.dst, places, places, BLOCK).wait(20)
                self.written += 1
        except NanoError as error:
            self.error = error

    def wait_busy(self) -> None:
        deadline = time.monotonic() + 20
        while self.written == 0 and time.monotonic() < deadline:
            time.sleep(0.01)


def test_a_wrong_key_ends_that_peers_epoch_and_nobody_elses(caplog: pytest.LogCaptureFixture) -> None:
    with (
        Endpoint("wrong", transports=("verbs",)) as wrong,
        Endpoint("right", transports=("verbs",)) as right,
        Endpoint("sink", transports=("verbs",)) as sink,
    ):
        src, good = wrong.allocate(8 * MIB, "kv"), right.allocate(MIB, "kv")
        good.array[:] = 1
        kept = sink.allocate(MIB, "kept")
        to_wrong = wrong.connect(sink.descriptor(), timeout=20)
        to_right = right.connect(sink.descriptor(), timeout=20)
        with sink.allocate(8 * MIB, "kv"):
            writer = Writer(to_wrong, src, "kv")
            writer.wait_busy()
            others = [to_right.write(good, "kept", offsets(good), offsets(kept), BLOCK) for _ in range(4)]
        # Its registrations are gone while it is being written: the device refuses their keys.
        writer.join(40)
        assert isinstance(writer.error, Refused)
        for other in others:
            other.wait(20)
        assert (kept.array == 1).all()
        for endpoint in (sink, right, wrong):
            endpoint.poll()
        lines = [record.getMessage() for record in caplog.records]
        assert not [line for line in lines if line.startswith("right:")]
        # And that peer works again, too.
        to_wrong.write(src, "kept", [0], [0], MIB).wait(20)
        assert (kept.array == 0).all()


def test_queue_pairs_that_failed_are_replaced_and_all_are_given_back() -> None:
    before = counters()
    with Endpoint("source", transports=("verbs",)) as source, Endpoint("sink", transports=("verbs",)) as sink:
        src = source.allocate(8 * MIB, "kv")
        keep = sink.allocate(MIB, "keep")
        peer = source.connect(sink.descriptor(), timeout=20)
        alive = counters()["queue_pairs"]
        assert alive > before["queue_pairs"]
        for _ in range(3):
            with sink.allocate(8 * MIB, "kv"):
                writer = Writer(peer, src, "kv")
                writer.wait_busy()
            writer.join(40)
            assert isinstance(writer.error, Refused)
            peer.write(src, "keep", offsets(keep), offsets(keep), BLOCK).wait(20)
        deadline = time.monotonic() + 10  # the second rail may still be on its way
        while counters()["queue_pairs"] != alive and time.monotonic() < deadline:
            time.sleep(0.01)
        assert counters()["queue_pairs"] == alive
    assert counters() == before
