"""RDMA's options are checked where they are given, with or without a device."""

from __future__ import annotations

import logging

import pytest

from nano._core.transfer import address_descriptor
from nano.engine.config import EngineConfig
from nano.errors import InvalidInput
from nano.transfer import Endpoint, VerbsOptions


def test_options_keep_what_they_were_given_and_cannot_be_changed() -> None:
    options = VerbsOptions(
        mtu=1024, gid_index=3, traffic_class=104, hop_limit=128, timeout=16, retries=5, queue_pairs=4
    )
    assert (options.mtu, options.gid_index, options.traffic_class, options.hop_limit) == (1024, 3, 104, 128)
    assert (options.timeout, options.retries, options.queue_pairs, options.relaxed_ordering) == (16, 5, 4, True)
    assert eval(repr(options), {"VerbsOptions": VerbsOptions}).hop_limit == 128
    assert VerbsOptions().gid_index is None
    with pytest.raises(AttributeError):
        options.mtu = 4096  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("mtu", 1500, "256, 512, 1024, 2048 or 4096"),
        ("mtu", 128, "got 128"),
        ("gid_index", -1, r"\[0, 255\]"),
        ("traffic_class", 256, r"\[0, 255\]"),
        ("hop_limit", 63, r"\[64, 255\]"),
        ("timeout", 0, r"\[1, 31\]"),
        ("retries", 7, r"\[1, 6\], got 7: with 7 some devices retry for ever"),
        ("retries", 0, r"\[1, 6\], got 0"),
        ("queue_pairs", 17, r"\[1, 16\]"),
    ],
)
def test_an_option_out_of_its_range_is_refused_by_name(name: str, value: int, said: str) -> None:
    with pytest.raises(InvalidInput, match=f"VerbsOptions: {name} must be .*{said}"):
        VerbsOptions(**{name: value})  # type: ignore[arg-type]


def test_engines_offer_rdma_and_say_nothing_where_there_is_none(caplog: pytest.LogCaptureFixture) -> None:
    transports = EngineConfig("any").transports
    assert transports.index("shm") < transports.index("verbs") < transports.index("tcp")
    with (
        caplog.at_level(logging.INFO, "nano.transfer"),
        Endpoint("decode", transports=transports) as decode,
        Endpoint("prefill", transports=transports) as prefill,
    ):
        assert prefill.connect(decode.descriptor()).transport == "shm"
        peer = prefill.connect(address_descriptor("127.0.0.1", decode.port), timeout=20)
        assert peer.transport in ("verbs", "tcp")
        if peer.transport == "tcp":
            assert dict(peer.transports)["verbs"]
        for endpoint in (decode, prefill):
            endpoint.poll()
    assert not caplog.records
