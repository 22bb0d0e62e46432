"""Device memory in nano.transfer: every kind of memory to every other, in one process and between two."""

from __future__ import annotations

import os
import signal
import threading
import time
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
    moved,
    opened,
    places,
    read_across,
    tensor,
    write_across,
    write_inside,
)  # fmt: skip

from nano._core import counters  # noqa: E402
from nano.errors import Closed, DeadlineExceeded, InvalidInput, PeerLost, Refused, SystemFault  # noqa: E402

pytestmark = pytest.mark.gpu

PAIRS = [
    ("device", "device"), ("torch", "device"), ("device", "torch"), ("cupy", "torch"), ("device", "host"),
    ("host", "device"), ("numpy", "device"), ("device", "numpy"), ("torch", "host"), ("host", "torch"),
]  # fmt: skip


@pytest.fixture(scope="module")
def other() -> Iterator[Peer]:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    child = Peer()
    yield child
    child.end()


@pytest.fixture
def doomed() -> Iterator[Peer]:
    """A process of the test's own."""
    child = Peer()
    yield child
    child.end()


def freeze(child: Peer) -> None:
    """Returns when every thread there has stopped."""
    os.kill(child.process.pid, signal.SIGSTOP)
    os.waitpid(child.process.pid, os.WUNTRACED)


@pytest.mark.parametrize(("near", "far"), PAIRS)
def test_a_write_between_processes_lands_exactly(other: Peer, near: str, far: str) -> None:
    write_across(other, near, far)


@pytest.mark.parametrize(("near", "far"), PAIRS)
def test_a_read_between_processes_lands_exactly(other: Peer, near: str, far: str) -> None:
    read_across(other, near, far)


@pytest.mark.parametrize(("near", "far"), [("device", "device"), ("torch", "host"), ("host", "torch")])
def test_endpoints_of_one_process_move_device_memory(near: str, far: str) -> None:
    write_inside(near, far)


def test_a_write_comes_after_what_its_stream_holds(other: Peer) -> None:
    with opened(other, "device") as descriptor, Endpoint("parent") as endpoint:
        region = make_region(endpoint, "device", "near")
        mine = tensor(region)
        stream = torch.cuda.Stream()
        with endpoint.connect(descriptor, timeout=20) as remote:
            for value in range(1, 6):
                with torch.cuda.stream(stream):
                    torch.cuda._sleep(20_000_000)  # about 10 ms
                    mine.fill_(value)
                transfer = remote.write(region, "far", [0], [0], SIZE, stream=stream.cuda_stream)
                assert not transfer.done()
                transfer.wait(20)
                assert (other.ask("content") == value).all()


def test_a_transfer_holds_up_no_compute_stream(other: Peer) -> None:
    """A kernel that spins on the default stream does not delay a copy, on either side."""
    with opened(other, "device") as descriptor, Endpoint("parent") as endpoint:
        region = make_region(endpoint, "device", "near", seed=1)
        with endpoint.connect(descriptor, timeout=20) as remote:
            remote.write(region, "far", [0], [0], PIECE).wait(20)  # opens what there is to open
            torch.cuda._sleep(2_000_000_000)  # about a second
            started = time.monotonic()
            remote.write(region, "far", [0], [0], SIZE).wait(20)
            took = time.monotonic() - started
            busy = not torch.cuda.current_stream().query()
            torch.cuda.synchronize()
        assert busy
        assert took < 0.5


def test_what_lies_outside_a_device_region_is_refused_and_nothing_moves(other: Peer) -> None:
    with opened(other, "device") as descriptor, Endpoint("parent") as endpoint:
        region = make_region(endpoint, "device", "near", seed=1)
        other.ask("expect", 9, np.array([0, PIECE]), PIECE)
        with endpoint.connect(descriptor, timeout=20) as remote:
            with pytest.raises(Refused, match="position 1"):
                remote.write(region, "far", [0, 0], [0, SIZE - 1], 16).wait(20)
            with pytest.raises(Refused, match="position 0"):
                remote.write(region, "far", [0], [PIECE], PIECE, tag=9).wait(20)  # another piece's place
            with pytest.raises(Refused):
                remote.write(region, "elsewhere", [0], [0], 16).wait(20)
            with pytest.raises(Refused):
                remote.read(region, "far", [0], [SIZE - 1], 16).wait(20)
            with pytest.raises(InvalidInput, match="outside region near"):
                remote.write(region, "far", [SIZE], [0], 16)
            assert other.ask("missing", 9) == [0, 1]
            assert not other.ask("content")[PIECE:].any()


def test_device_memory_reaches_a_tcp_peer_through_staged_copies(other: Peer) -> None:
    with opened(other, "device", transports=["tcp"]) as descriptor, Endpoint("parent") as endpoint:
        region = make_region(endpoint, "device", "near", seed=1)
        src, dst = places(40, 2), places(40, 3)
        other.ask("expect", 7, dst, PIECE)
        with endpoint.connect(descriptor, timeout=20) as remote:
            remote.write(region, "far", src, dst, PIECE, tag=7).wait(20)
            assert other.ask("missing", 7) == []
            expected = moved(tensor(region).cpu().numpy(), src, dst)
            np.testing.assert_array_equal(other.ask("content"), expected)
            tensor(region).zero_()
            torch.cuda.synchronize()
            remote.read(region, "far", dst, dst, PIECE).wait(20)
        np.testing.assert_array_equal(tensor(region).cpu().numpy(), expected)


def test_a_region_closes_while_its_bytes_are_on_their_way(other: Peer) -> None:
    with opened(other, "device") as descriptor, Endpoint("parent") as endpoint:
        with endpoint.connect(descriptor, timeout=20) as remote:
            for _ in range(5):
                region = endpoint.allocate(64 << 20, "big", device="cuda")
                transfers = [remote.write(region, "far", [i << 20], [0], SIZE) for i in range(40)]
                region.close()
                for transfer in transfers:
                    try:
                        transfer.wait(10)
                    except Closed:
                        pass
                del region
        assert other.ask("content").shape == (SIZE,)


# --- one of the two dies or freezes


def test_an_exporter_killed_in_the_middle_of_a_pull_harms_nobody(doomed: Peer) -> None:
    kill_the_exporter(doomed, "device")


def test_a_destination_killed_with_writes_before_it_fails_them(doomed: Peer) -> None:
    with Endpoint("parent") as endpoint:
        region = make_region(endpoint, "device", "near", seed=1)
        remote = endpoint.connect(doomed.ask("open", "device", None, None), timeout=20)
        freeze(doomed)  # else it may pull all of them in some milliseconds
        transfers = [remote.write(region, "far", [0], [0], SIZE, timeout=20) for _ in range(2000)]
        os.kill(doomed.process.pid, signal.SIGKILL)
        started = time.monotonic()
        errors = []
        for transfer in transfers:
            try:
                transfer.wait(10)
            except (PeerLost, Closed) as error:
                errors.append(error)
        assert time.monotonic() - started < 5
        assert errors
        del region


def test_a_frozen_destination_fails_the_writes_at_their_deadline(other: Peer) -> None:
    with opened(other, "device") as descriptor, Endpoint("parent") as endpoint:
        region = make_region(endpoint, "device", "near", seed=1)
        with endpoint.connect(descriptor, timeout=20) as remote:
            remote.write(region, "far", [0], [0], SIZE).wait(20)
            freeze(other)
            try:
                with pytest.raises(DeadlineExceeded):
                    remote.write(region, "far", [0], [0], SIZE, timeout=0.5).wait(5)
            finally:
                os.kill(other.process.pid, signal.SIGCONT)
            remote.write(region, "far", [0], [0], SIZE).wait(20)
        del region


# --- memory itself


def test_a_device_region_is_seen_by_torch_and_cupy_and_begins_as_zeros() -> None:
    with Endpoint("a") as endpoint, endpoint.allocate((2 << 20) + 1000, "pool", device="cuda:0") as region:
        assert region.device == 0
        assert region.nbytes == (2 << 20) + 1000
        view = torch.as_tensor(region, device="cuda")
        assert view.data_ptr() == region.address
        assert view.shape == (region.nbytes,)
        assert not view.any()
        view[-1] = 9
        cupy = pytest.importorskip("cupy")
        assert int(cupy.asarray(region)[-1]) == 9
        with pytest.raises(InvalidInput, match=r"torch\.as_tensor"):
            _ = region.array


def test_a_dma_buf_of_a_device_region_is_exported_or_refused_with_the_reason() -> None:
    with Endpoint("a") as endpoint, endpoint.allocate(4 << 20, "pool", device="cuda") as region:
        try:
            fd = region.dma_buf()
        except SystemFault as error:
            pytest.skip(str(error))
        assert "dmabuf" in os.readlink(f"/proc/self/fd/{fd}")
        os.close(fd)


def test_too_much_device_memory_is_refused_with_what_is_free() -> None:
    with Endpoint("a") as endpoint, pytest.raises(MemoryError, match=r"asked of cuda:0, \d+ of \d+ are free"):
        endpoint.allocate(1 << 39, "pool", device="cuda")


def test_arrays_that_are_not_contiguous_are_refused() -> None:
    with Endpoint("a") as endpoint, pytest.raises(InvalidInput, match="is not contiguous"):
        endpoint.register(torch.zeros(64, 64, device="cuda")[:, ::2], "strided")


def test_bfloat16_tensors_and_parts_of_a_region_are_registered() -> None:
    with Endpoint("a") as endpoint:
        region = endpoint.register(torch.zeros(100, dtype=torch.bfloat16, device="cuda"), "half")
        assert region.nbytes == 200
        pool = endpoint.allocate(1 << 20, "pool", device="cuda")
        part = endpoint.register(torch.as_tensor(pool, device="cuda")[4096:8192], "part")
        assert part.address == pool.address + 4096
        del region, part, pool


def test_nothing_is_left_after_many_regions_and_connections(other: Peer) -> None:
    def held() -> tuple[int, int, int]:
        return torch.cuda.mem_get_info()[0], len(os.listdir("/proc/self/fd")), threading.active_count()

    before, warm = counters(), None
    with opened(other, "device") as descriptor:
        for turn in range(60):
            with Endpoint("parent") as endpoint:
                region = endpoint.allocate(SIZE, "near", device="cuda")
                with endpoint.connect(descriptor, timeout=20) as remote:
                    remote.write(region, "far", [0], [0], PIECE).wait(20)
                region.close()
                del region
            if turn == 20:
                warm = held()
        after = held()
    assert counters() == before
    assert warm is not None
    assert after[0] >= warm[0] - (8 << 20)
    assert after[1:] == warm[1:]


def test_torch_memory_whose_owner_is_killed_in_the_middle_of_a_pull_harms_nobody(doomed: Peer) -> None:
    kill_the_exporter(doomed, "torch")
