"""Device memory in nano.transfer: every kind of memory to every other, in one process and between two."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import numpy as np
import pytest
from cuda_peer import peer

torch = pytest.importorskip("torch")

from nano._core import counters  # noqa: E402
from nano.errors import Closed, DeadlineExceeded, InvalidInput, PeerLost, Refused, SystemFault  # noqa: E402
from nano.transfer import Endpoint  # noqa: E402

pytestmark = pytest.mark.gpu

SIZE = 4 << 20
PIECE = 48 << 10


def tensor(region: Any) -> Any:
    """The region's bytes as a torch tensor, whatever memory it is."""
    return torch.from_numpy(region.array) if region.device is None else torch.as_tensor(region, device="cuda")


def pattern(nbytes: int, seed: int) -> Any:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, nbytes, dtype=np.uint8))


def places(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(SIZE // PIECE)[:count].astype(np.int64) * PIECE


def make_region(endpoint: Endpoint, kind: str, name: str, seed: int | None = None) -> tuple[Any, Any]:
    """(region, what must be kept) of SIZE bytes; random when there is a seed, else zeros."""
    keep = None
    if kind == "host":
        region = endpoint.allocate(SIZE, name)
    elif kind == "device":
        region = endpoint.allocate(SIZE, name, device="cuda")
    elif kind == "torch":
        keep = torch.zeros(SIZE + 512, dtype=torch.uint8, device="cuda")[512:]
        region = endpoint.register(keep, name)
    elif kind == "cupy":
        cupy = pytest.importorskip("cupy")
        keep = cupy.zeros(SIZE // 4, dtype=cupy.float32)
        region = endpoint.register(keep, name)
    else:
        keep = np.zeros(SIZE, np.uint8)
        region = endpoint.register(keep, name)
    if seed is not None:
        tensor(region).copy_(pattern(SIZE, seed))
        torch.cuda.synchronize()
    return region, keep


# --- what the child runs


def setup(endpoint: Endpoint, kind: str, seed: int | None) -> Any:
    region, keep = make_region(endpoint, kind, "far", seed)
    return {"region": region, "keep": keep}


def expect(endpoint: Endpoint, state: Any, tag: int, offsets: np.ndarray, length: int) -> None:
    endpoint.expect(tag, state["region"], offsets, length)


def missing(endpoint: Endpoint, state: Any, tag: int) -> list[int]:
    return endpoint.missing(tag).tolist()


def content(endpoint: Endpoint, state: Any) -> np.ndarray:
    return tensor(state["region"]).cpu().numpy()


def zero(endpoint: Endpoint, state: Any) -> None:
    tensor(state["region"]).zero_()
    torch.cuda.synchronize()


PAIRS = [
    ("device", "device"), ("torch", "device"), ("device", "torch"), ("cupy", "torch"), ("device", "host"),
    ("host", "device"), ("numpy", "device"), ("device", "numpy"), ("torch", "host"), ("host", "torch"),
]  # fmt: skip


def moved(source: np.ndarray, src: np.ndarray, dst: np.ndarray) -> np.ndarray:
    out = np.zeros(SIZE, np.uint8)
    for s, d in zip(src, dst, strict=True):
        out[d : d + PIECE] = source[s : s + PIECE]
    return out


def path(endpoint_peer: Any) -> dict[str, str]:
    return dict(endpoint_peer.transports)


@pytest.mark.parametrize(("near", "far"), PAIRS)
def test_a_write_between_processes_lands_exactly(near: str, far: str) -> None:
    with peer(setup, far, None) as child, Endpoint("parent") as endpoint:
        region, _keep = make_region(endpoint, near, "near", seed=1)
        src, dst = places(40, 2), places(40, 3)
        child.ask(expect, 7, dst, PIECE)
        with endpoint.connect(child.descriptor, timeout=20) as remote:
            assert path(remote)["cuda_ipc"] == ""
            remote.write(region, "far", src, dst, PIECE, tag=7).wait(20)
            assert child.ask(missing, 7) == []
            got = child.ask(content)
        np.testing.assert_array_equal(got, moved(tensor(region).cpu().numpy(), src, dst))


@pytest.mark.parametrize(("near", "far"), PAIRS)
def test_a_read_between_processes_lands_exactly(near: str, far: str) -> None:
    with peer(setup, far, 5) as child, Endpoint("parent") as endpoint:
        region, _keep = make_region(endpoint, near, "near")
        src, dst = places(40, 2), places(40, 3)
        with endpoint.connect(child.descriptor, timeout=20) as remote:
            remote.read(region, "far", dst, src, PIECE).wait(20)
        np.testing.assert_array_equal(tensor(region).cpu().numpy(), moved(pattern(SIZE, 5).numpy(), src, dst))


@pytest.mark.parametrize(("near", "far"), [("device", "device"), ("torch", "host"), ("host", "torch")])
def test_endpoints_of_one_process_move_device_memory(near: str, far: str) -> None:
    with Endpoint("a") as a, Endpoint("b") as b:
        region, _keep = make_region(a, near, "near", seed=1)
        other, _kept = make_region(b, far, "far")
        src, dst = places(30, 2), places(30, 3)
        with a.connect(b.descriptor()) as remote:
            remote.write(region, "far", src, dst, PIECE).wait(20)
        np.testing.assert_array_equal(tensor(other).cpu().numpy(), moved(tensor(region).cpu().numpy(), src, dst))
        del other, region, _keep, _kept


def test_a_write_comes_after_what_its_stream_holds() -> None:
    with peer(setup, "device", None) as child, Endpoint("parent") as endpoint:
        region, _ = make_region(endpoint, "device", "near")
        mine = tensor(region)
        stream = torch.cuda.Stream()
        with endpoint.connect(child.descriptor, timeout=20) as remote:
            for value in range(1, 6):
                with torch.cuda.stream(stream):
                    torch.cuda._sleep(20_000_000)  # about 10 ms
                    mine.fill_(value)
                transfer = remote.write(region, "far", [0], [0], SIZE, stream=stream.cuda_stream)
                assert not transfer.done()
                transfer.wait(20)
                assert (child.ask(content) == value).all()


def test_a_transfer_holds_up_no_compute_stream() -> None:
    """A kernel that spins on the default stream does not delay a copy, on either side."""
    with peer(setup, "device", None) as child, Endpoint("parent") as endpoint:
        region, _ = make_region(endpoint, "device", "near", seed=1)
        with endpoint.connect(child.descriptor, timeout=20) as remote:
            remote.write(region, "far", [0], [0], PIECE).wait(20)  # opens what there is to open
            torch.cuda._sleep(2_000_000_000)  # about a second
            started = time.monotonic()
            remote.write(region, "far", [0], [0], SIZE).wait(20)
            took = time.monotonic() - started
            busy = not torch.cuda.current_stream().query()
            torch.cuda.synchronize()
        assert busy
        assert took < 0.5


def test_what_lies_outside_a_device_region_is_refused_and_nothing_moves() -> None:
    with peer(setup, "device", None) as child, Endpoint("parent") as endpoint:
        region, _ = make_region(endpoint, "device", "near", seed=1)
        child.ask(expect, 9, np.array([0, PIECE]), PIECE)
        with endpoint.connect(child.descriptor, timeout=20) as remote:
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
            assert child.ask(missing, 9) == [0, 1]
            assert not child.ask(content)[PIECE:].any()


def test_device_memory_reaches_a_tcp_peer_through_staged_copies() -> None:
    with peer(setup, "device", None, transports=["tcp"]) as child, Endpoint("parent") as endpoint:
        region, _ = make_region(endpoint, "device", "near", seed=1)
        src, dst = places(40, 2), places(40, 3)
        child.ask(expect, 7, dst, PIECE)
        with endpoint.connect(child.descriptor, timeout=20) as remote:
            remote.write(region, "far", src, dst, PIECE, tag=7).wait(20)
            assert child.ask(missing, 7) == []
            expected = moved(tensor(region).cpu().numpy(), src, dst)
            np.testing.assert_array_equal(child.ask(content), expected)
            tensor(region).zero_()
            torch.cuda.synchronize()
            remote.read(region, "far", dst, dst, PIECE).wait(20)
        np.testing.assert_array_equal(tensor(region).cpu().numpy(), expected)


def test_a_region_closes_while_its_bytes_are_on_their_way() -> None:
    with peer(setup, "device", None) as child, Endpoint("parent") as endpoint:
        with endpoint.connect(child.descriptor, timeout=20) as remote:
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
        assert child.ask(content).shape == (SIZE,)


# --- the exporter dies


def flood(endpoint: Endpoint, state: Any, descriptor: bytes, count: int) -> int:
    """Writes the whole region again and again, and answers while copies run."""
    state["peer"] = endpoint.connect(descriptor, timeout=20)
    region = state["region"]
    state["writes"] = [
        state["peer"].write(region, "near", [0], [0], SIZE, tag=100 + i, timeout=20) for i in range(count)
    ]
    return os.getpid()


@pytest.mark.parametrize("far", ["device", "torch"])
def test_an_exporter_killed_in_the_middle_of_a_pull_harms_nobody(far: str) -> None:
    with Endpoint("parent") as endpoint:
        near, _ = make_region(endpoint, "device", "near")
        other, _ = make_region(endpoint, "device", "other", seed=3)
        with peer(setup, far, 1) as child:
            count = 4000
            for i in range(count):
                endpoint.expect(100 + i, near, [0], SIZE)
            pid = child.ask(flood, endpoint.descriptor(), count)
            deadline = time.monotonic() + 10
            while endpoint.missing(100).size and time.monotonic() < deadline:
                pass
            os.kill(pid, signal.SIGKILL)
            lost = False
            while not lost and time.monotonic() < deadline:
                lost = any(event.kind == "lost" for event in endpoint.poll())
            assert lost
            for i in range(count):
                endpoint.forget(100 + i)
        # This process's device memory works, and what was not written to is what it was.
        got = tensor(near).cpu().numpy()
        np.testing.assert_array_equal(got, pattern(SIZE, 1).numpy())
        np.testing.assert_array_equal(tensor(other).cpu().numpy(), pattern(SIZE, 3).numpy())
        x = torch.randn(512, 512, device="cuda")
        assert torch.allclose(x @ torch.eye(512, device="cuda"), x, atol=1e-2)


def test_a_destination_killed_in_the_middle_of_a_pull_fails_the_writes() -> None:
    with peer(setup, "device", None) as child, Endpoint("parent") as endpoint:
        region, _ = make_region(endpoint, "device", "near", seed=1)
        remote = endpoint.connect(child.descriptor, timeout=20)
        transfers = [remote.write(region, "far", [0], [0], SIZE, timeout=20) for _ in range(2000)]
        os.kill(child.process.pid, signal.SIGKILL)
        started = time.monotonic()
        errors = []
        for transfer in transfers:
            try:
                transfer.wait(10)
            except (PeerLost, Closed) as error:
                errors.append(error)
        assert time.monotonic() - started < 5
        assert errors


def test_a_frozen_destination_fails_the_writes_at_their_deadline() -> None:
    with peer(setup, "device", None) as child, Endpoint("parent") as endpoint:
        region, _ = make_region(endpoint, "device", "near", seed=1)
        with endpoint.connect(child.descriptor, timeout=20) as remote:
            remote.write(region, "far", [0], [0], SIZE).wait(20)
            os.kill(child.process.pid, signal.SIGSTOP)
            try:
                with pytest.raises(DeadlineExceeded):
                    remote.write(region, "far", [0], [0], SIZE, timeout=0.5).wait(5)
            finally:
                os.kill(child.process.pid, signal.SIGCONT)


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
        assert os.readlink(f"/proc/self/fd/{fd}").startswith("/dmabuf")
        os.close(fd)


def test_too_much_device_memory_is_refused_with_what_is_free() -> None:
    with Endpoint("a") as endpoint, pytest.raises(MemoryError, match=r"asked of cuda:0, \d+ of \d+ are free"):
        endpoint.allocate(1 << 42, "pool", device="cuda")


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


def test_nothing_is_left_after_many_regions_and_connections() -> None:
    before = counters()
    free = None
    with peer(setup, "device", None) as child:
        for round in range(60):
            with Endpoint("parent") as endpoint:
                region = endpoint.allocate(SIZE, "near", device="cuda")
                with endpoint.connect(child.descriptor, timeout=20) as remote:
                    remote.write(region, "far", [0], [0], PIECE).wait(20)
                region.close()
                del region
            if round == 20:
                free = torch.cuda.mem_get_info()[0], len(os.listdir("/proc/self/fd")), threading.active_count()
        child.ask(zero)
        after = torch.cuda.mem_get_info()[0], len(os.listdir("/proc/self/fd")), threading.active_count()
    assert counters() == before
    assert free is not None
    assert after[0] >= free[0] - (8 << 20)
    assert after[1:] == free[1:]
