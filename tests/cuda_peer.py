"""Another process with an endpoint and a region of any kind of memory, for the tests of GPU memory in nano.transfer."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from nano.transfer import Endpoint as AnyEndpoint
from nano.transfer import Region

Endpoint = partial(AnyEndpoint, transports=["cuda_ipc", "shm", "cma", "tcp"])

SIZE = 4 << 20
PIECE = 48 << 10
TIMEOUT = 60.0


def tensor(region: Region) -> torch.Tensor:
    """The region's bytes as a tensor, whatever memory it is."""
    on_host = region.device is None
    return torch.from_numpy(region.array) if on_host else torch.as_tensor(region, device=f"cuda:{region.device}")


def pattern(seed: int, nbytes: int = SIZE) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, nbytes, dtype=np.uint8))


def make_region(endpoint: AnyEndpoint, kind: str, name: str, seed: int | None = None) -> Region:
    """SIZE bytes of a kind of memory, of GPU 1 if it ends in " 1": random when there is a seed, else zeros."""
    kind, _, index = kind.partition(" ")
    device = f"cuda:{index or 0}"
    if kind == "host":
        region = endpoint.allocate(SIZE, name)
    elif kind == "device":
        region = endpoint.allocate(SIZE, name, device=device)
    elif kind == "torch":
        region = endpoint.register(torch.zeros(SIZE + 512, dtype=torch.uint8, device=device)[512:], name)
    elif kind == "cupy":
        import cupy

        region = endpoint.register(cupy.zeros(SIZE // 4, dtype=cupy.float32), name)
    else:
        region = endpoint.register(np.zeros(SIZE, np.uint8), name)
    if seed is not None:
        tensor(region).copy_(pattern(seed))
    torch.cuda.synchronize(device)
    return region


def places(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(SIZE // PIECE)[:count].astype(np.int64) * PIECE


def moved(source: np.ndarray, src: np.ndarray, dst: np.ndarray) -> np.ndarray:
    out = np.zeros(SIZE, np.uint8)
    for s, d in zip(src, dst, strict=True):
        out[d : d + PIECE] = source[s : s + PIECE]
    return out


class _Child:
    """What the other process does when it is asked."""

    def open(self, kind: str, seed: int | None, transports: list[str] | None) -> bytes:
        self.endpoint = Endpoint("child", **({"transports": transports} if transports else {}))
        self.region = make_region(self.endpoint, kind, "far", seed)
        return self.endpoint.descriptor()

    def close(self) -> None:
        self.region.close()
        self.endpoint.close()
        del self.region, self.endpoint

    def expect(self, tag: int, offsets: np.ndarray, length: int) -> None:
        self.endpoint.expect(tag, self.region, offsets, length)

    def missing(self, tag: int) -> list[int]:
        return list(self.endpoint.missing(tag).tolist())

    def content(self) -> np.ndarray:
        return np.asarray(tensor(self.region).cpu().numpy())

    def flood(self, descriptor: bytes, remote: str, count: int) -> int:
        """Writes the whole region `count` times, with tags from 100 on, and answers while copies run."""
        self.peer = self.endpoint.connect(descriptor, timeout=20)
        self.writes = [
            self.peer.write(self.region, remote, [0], [0], SIZE, tag=100 + i, timeout=20) for i in range(count)
        ]
        return os.getpid()


def _serve(pipe: Connection) -> None:
    child = _Child()
    try:
        while (request := pipe.recv()) is not None:
            name, arguments = request
            pipe.send((True, getattr(child, name)(*arguments)))
    except EOFError:
        pass
    except BaseException:
        pipe.send((False, traceback.format_exc()))


class Peer:
    """The other process; serves one open() after another."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,))
        self.process.start()
        theirs.close()

    def ask(self, name: str, *arguments: Any) -> Any:
        self._pipe.send((name, arguments))
        if not self._pipe.poll(TIMEOUT):
            raise TimeoutError(f"{name}: the other process says nothing")
        good, value = self._pipe.recv()
        if not good:
            raise AssertionError(value)
        return value

    def end(self) -> None:
        with suppress(BrokenPipeError):  # a test has killed it
            self._pipe.send(None)
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join(10)
        self._pipe.close()


@contextmanager
def opened(child: Peer, kind: str, seed: int | None = None, transports: list[str] | None = None) -> Iterator[bytes]:
    """The descriptor of an endpoint there, with a region "far"."""
    yield child.ask("open", kind, seed, transports)
    if child.process.is_alive():
        child.ask("close")


def write_across(child: Peer, near: str, far: str) -> None:
    """A tagged write of scattered pieces from a region here to one there, by cuda_ipc, lands exactly."""
    with opened(child, far) as descriptor, Endpoint("parent") as endpoint:
        region = make_region(endpoint, near, "near", seed=1)
        src, dst = places(40, 2), places(40, 3)
        child.ask("expect", 7, dst, PIECE)
        with endpoint.connect(descriptor, timeout=20) as remote:
            assert dict(remote.transports)["cuda_ipc"] == ""
            remote.write(region, "far", src, dst, PIECE, tag=7).wait(20)
            assert child.ask("missing", 7) == []
            got = child.ask("content")
        np.testing.assert_array_equal(got, moved(tensor(region).cpu().numpy(), src, dst))


def read_across(child: Peer, near: str, far: str) -> None:
    """A read of scattered pieces from a region there to one here lands exactly."""
    with opened(child, far, 5) as descriptor, Endpoint("parent") as endpoint:
        region = make_region(endpoint, near, "near")
        src, dst = places(40, 2), places(40, 3)
        with endpoint.connect(descriptor, timeout=20) as remote:
            remote.read(region, "far", dst, src, PIECE).wait(20)
        np.testing.assert_array_equal(tensor(region).cpu().numpy(), moved(pattern(5).numpy(), src, dst))


def write_inside(near: str, far: str) -> None:
    """A write between two endpoints of this process lands exactly."""
    with Endpoint("a") as a, Endpoint("b") as b:
        region, target = make_region(a, near, "near", seed=1), make_region(b, far, "far")
        src, dst = places(30, 2), places(30, 3)
        with a.connect(b.descriptor()) as remote:
            remote.write(region, "far", src, dst, PIECE).wait(20)
        np.testing.assert_array_equal(tensor(target).cpu().numpy(), moved(tensor(region).cpu().numpy(), src, dst))
        del target, region


def kill_the_exporter(child: Peer, kind: str, near_kind: str = "device") -> None:
    """kill -9 while its memory is being pulled: an event, no hang, and memory here that is what it was."""
    count = 4000
    with Endpoint("parent") as endpoint:
        near, bystander = make_region(endpoint, near_kind, "near"), make_region(endpoint, near_kind, "other", seed=3)
        for i in range(count):
            endpoint.expect(100 + i, near, [0], SIZE)
        child.ask("open", kind, 1, None)
        pid = child.ask("flood", endpoint.descriptor(), "near", count)
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
        np.testing.assert_array_equal(tensor(near).cpu().numpy(), pattern(1).numpy())
        np.testing.assert_array_equal(tensor(bystander).cpu().numpy(), pattern(3).numpy())
        del near, bystander
    x = torch.randn(512, 512, device="cuda")
    assert torch.allclose(x @ torch.eye(512, device="cuda"), x, atol=1e-2)
