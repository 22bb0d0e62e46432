"""nano.transfer between the memories of two GPUs of one host: the destination's GPU pulls."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cuda_peer import (  # noqa: E402
    PIECE,
    SIZE,
    Endpoint,
    Peer,
    kill_the_exporter,
    make_region,
    opened,
    read_across,
    tensor,
    write_across,
    write_inside,
)  # fmt: skip

pytestmark = pytest.mark.gpu

# What this process holds, and the other one.
PAIRS = [
    ("device", "device 1"), ("device 1", "device"), ("torch", "device 1"), ("device 1", "torch"), ("torch 1", "torch"),
    ("host", "device 1"), ("device 1", "host"),
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def two_gpus() -> None:
    found = torch.cuda.device_count()
    if found < 2:
        pytest.skip(f"needs two GPUs, found {found}")
    if not torch.cuda.can_device_access_peer(0, 1):
        pytest.skip("cuda:0 and cuda:1 have no peer access to each other")


@pytest.fixture(scope="module")
def other() -> Iterator[Peer]:
    child = Peer()
    yield child
    child.end()


@pytest.fixture
def doomed() -> Iterator[Peer]:
    """A process of the test's own."""
    child = Peer()
    yield child
    child.end()


@pytest.mark.parametrize(("near", "far"), PAIRS)
def test_a_write_to_another_gpus_memory_lands_exactly(other: Peer, near: str, far: str) -> None:
    write_across(other, near, far)


def test_small_and_uneven_pieces_between_gpus_land_exactly(other: Peer) -> None:
    with opened(other, "device 1") as descriptor, Endpoint("parent") as endpoint:
        region = make_region(endpoint, "device", "near", seed=1)
        source, expected = tensor(region).cpu().numpy(), np.zeros(SIZE, np.uint8)
        with endpoint.connect(descriptor, timeout=20) as remote:
            for length, at in ((16, 0), (1000, 1 << 20), (4096, 2 << 20), (40_000, 3 << 20)):
                src = np.arange(20, dtype=np.int64)[::-1].copy() * length + at
                dst = np.arange(20, dtype=np.int64) * length + at
                remote.write(region, "far", src, dst, length).wait(20)
                for s, d in zip(src, dst, strict=True):
                    expected[d : d + length] = source[s : s + length]
            np.testing.assert_array_equal(other.ask("content"), expected)


@pytest.mark.parametrize(("near", "far"), PAIRS)
def test_a_read_of_another_gpus_memory_lands_exactly(other: Peer, near: str, far: str) -> None:
    read_across(other, near, far)


@pytest.mark.parametrize(("near", "far"), [("device", "device 1"), ("torch", "device 1"), ("torch 1", "torch")])
def test_endpoints_of_one_process_move_blocks_between_gpus(near: str, far: str) -> None:
    write_inside(near, far)


def test_a_write_comes_after_what_a_stream_of_the_second_gpu_holds(other: Peer) -> None:
    with opened(other, "device") as descriptor, Endpoint("parent") as endpoint:
        region = make_region(endpoint, "device 1", "near")
        mine, stream = tensor(region), torch.cuda.Stream("cuda:1")
        with endpoint.connect(descriptor, timeout=20) as remote:
            for value in (1, 2):
                with torch.cuda.stream(stream):
                    torch.cuda._sleep(20_000_000)  # about 10 ms
                    mine.fill_(value)
                remote.write(region, "far", [0], [0], SIZE, stream=stream.cuda_stream).wait(20)
                assert (other.ask("content") == value).all()


def test_writes_to_and_from_both_gpus_under_way_together_land_exactly(other: Peer) -> None:
    with opened(other, "device 1") as descriptor, Endpoint("parent") as endpoint:
        regions = [make_region(endpoint, kind, f"near{i}", seed=i) for i, kind in enumerate(("device", "device 1"))]
        half = np.arange(SIZE // PIECE, dtype=np.int64) * PIECE
        with endpoint.connect(descriptor, timeout=20) as remote:
            transfers = [remote.write(regions[i % 2], "far", at, at, PIECE) for i, at in enumerate(half)]
            for transfer in transfers:
                transfer.wait(20)
            got = other.ask("content")
        expected = [tensor(region).cpu().numpy() for region in regions]
        for i, at in enumerate(half):
            np.testing.assert_array_equal(got[at : at + PIECE], expected[i % 2][at : at + PIECE])


@pytest.mark.parametrize(("kind", "near"), [("device 1", "device"), ("torch 1", "device"), ("device", "device 1")])
def test_an_exporter_on_another_gpu_killed_in_the_middle_of_a_pull_harms_nobody(
    doomed: Peer, kind: str, near: str
) -> None:
    kill_the_exporter(doomed, kind, near)
