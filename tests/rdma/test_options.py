"""What VerbsOptions sets is what travels."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
from rdma.wires import Wire, packets

from nano._core import counters
from nano.errors import PeerLost
from nano.transfer import Endpoint, VerbsOptions

MIB = 1 << 20
DEVICE = sorted(os.listdir("/sys/class/infiniband"))[:1] if os.path.isdir("/sys/class/infiniband") else []


def sent(source_options: VerbsOptions, sink_options: VerbsOptions, nbytes: int = 4 * MIB) -> int:
    """Packets that the device sends, both ways, for one write; every byte is checked."""
    with (
        Endpoint("source", transports=("verbs",), devices=DEVICE, verbs=source_options) as source,
        Endpoint("sink", transports=("verbs",), devices=DEVICE, verbs=sink_options) as sink,
    ):
        src, dst = source.allocate(nbytes, "kv"), sink.allocate(nbytes, "kv")
        src.array[:] = np.random.default_rng(1).integers(0, 256, nbytes, dtype=np.uint8)
        peer = source.connect(sink.descriptor(), timeout=20)
        before = packets(DEVICE[0])
        peer.write(src, "kv", [0], [0], nbytes).wait()
        assert np.array_equal(src.array, dst.array)
        return packets(DEVICE[0]) - before


def test_packets_have_the_smaller_sides_mtu(emulated: None) -> None:
    small = VerbsOptions(mtu=1024)
    default, one_side, other_side = (
        sent(*pair) for pair in ((VerbsOptions(), VerbsOptions()), (small, VerbsOptions()), (VerbsOptions(), small))
    )
    assert default < 2048
    assert min(one_side, other_side) >= 4096


def test_every_option_at_once_moves_every_byte() -> None:
    options = VerbsOptions(
        mtu=512, traffic_class=104, hop_limit=255, timeout=15, retries=3, queue_pairs=5, relaxed_ordering=False
    )
    sent(options, VerbsOptions(), MIB)
    sent(VerbsOptions(), options, MIB)


def test_the_connecting_sides_number_of_queue_pairs_counts() -> None:
    with (
        Endpoint("source", transports=("verbs",), devices=DEVICE, verbs=VerbsOptions(queue_pairs=5)) as source,
        Endpoint("sink", transports=("verbs",), devices=DEVICE) as sink,
    ):
        before = counters()["queue_pairs"]
        with source.connect(sink.descriptor(), timeout=20):
            assert counters()["queue_pairs"] - before == 10
        with sink.connect(source.descriptor(), timeout=20):
            pass


def test_a_gid_is_taken_by_its_index(emulated: None) -> None:
    sent(VerbsOptions(gid_index=1), VerbsOptions(gid_index=1), MIB)
    with (
        Endpoint("source", transports=("verbs", "tcp"), devices=DEVICE, verbs=VerbsOptions(gid_index=200)) as source,
        Endpoint("sink", transports=("verbs", "tcp"), devices=DEVICE) as sink,
    ):
        peer = source.connect(sink.descriptor(), timeout=20)
        assert peer.transport == "tcp"
        assert "no address at GID index 200" in dict(peer.transports)["verbs"]


def test_a_longer_timeout_bears_a_longer_silence(wires: tuple[Wire, Wire]) -> None:
    wire = wires[0]
    patient = VerbsOptions(timeout=17, retries=3)  # four tries of 0.54 s
    with (
        Endpoint("source", transports=("verbs",), devices=[wire.left], verbs=patient) as source,
        Endpoint("sink", transports=("verbs",), devices=[wire.right]) as sink,
    ):
        src, _dst = source.allocate(4096, "kv"), sink.allocate(4096, "kv")
        peer = source.connect(sink.descriptor(), timeout=20)
        wire.cut()
        began = time.monotonic()
        with pytest.raises(PeerLost, match="RETRY_EXC"):
            peer.write(src, "kv", [0], [0], 4096).wait(20)
        assert 1.4 < time.monotonic() - began < 10
