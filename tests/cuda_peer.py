"""Another process with an endpoint and a region of any kind of memory, for the tests of GPU memory in nano.transfer."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from nano.transfer import Endpoint, Region

SIZE = 4 << 20
TIMEOUT = 60.0


def tensor(region: Region) -> torch.Tensor:
    """The region's bytes as a tensor, whatever memory it is."""
    return torch.from_numpy(region.array) if region.device is None else torch.as_tensor(region, device="cuda")


def pattern(seed: int, nbytes: int = SIZE) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, nbytes, dtype=np.uint8))


def make_region(endpoint: Endpoint, kind: str, name: str, seed: int | None = None) -> Region:
    """SIZE bytes of a kind of memory: random when there is a seed, else zeros."""
    if kind == "host":
        region = endpoint.allocate(SIZE, name)
    elif kind == "device":
        region = endpoint.allocate(SIZE, name, device="cuda")
    elif kind == "torch":
        region = endpoint.register(torch.zeros(SIZE + 512, dtype=torch.uint8, device="cuda")[512:], name)
    elif kind == "cupy":
        import cupy

        region = endpoint.register(cupy.zeros(SIZE // 4, dtype=cupy.float32), name)
    else:
        region = endpoint.register(np.zeros(SIZE, np.uint8), name)
    if seed is not None:
        tensor(region).copy_(pattern(seed))
    torch.cuda.synchronize()
    return region


class _Child:
    """What the other process does when it is asked."""

    def open(self, kind: str, seed: int | None, transports: list[str] | None) -> bytes:
        self.endpoint = Endpoint("child", transports=transports or ["cuda_ipc", "shm", "cma", "tcp"])
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
