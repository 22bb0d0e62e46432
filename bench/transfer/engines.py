"""nano, NIXL, Mooncake and DLSlime behind one small interface, for peers.py. Each is imported where it is used alone.

A far side opens a buffer to others and says how to reach it; a near side moves blocks between its own buffer and that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]
SECONDS = 30.0  # that one operation may take


class Far(Protocol):
    data: Bytes

    def info(self) -> dict[str, Any]:
        """What the near side needs, as JSON."""


class Near(Protocol):
    data: Bytes

    def prepare(self, op: str, here: Offsets, there: Offsets, length: int) -> Callable[[], None]:
        """A call that moves these blocks once, and returns when they are there: "write" is from near to far."""


def nano_region(endpoint: Any, transport: str, nbytes: int, name: str) -> Any:
    """Allocated memory, or, for cma, memory that somebody else allocated, as the other engines have."""
    if transport == "cma":
        return endpoint.register(np.zeros(nbytes, np.uint8), name)
    return endpoint.allocate(nbytes, name)


class NanoFar:
    def __init__(self, transport: str, nbytes: int) -> None:
        from nano.transfer import Endpoint

        self.endpoint = Endpoint("far", transports=(transport,))
        self.region = nano_region(self.endpoint, transport, nbytes, "kv")
        self.data = self.region.array

    def info(self) -> dict[str, Any]:
        return {"descriptor": self.endpoint.descriptor().hex()}


class NanoNear:
    def __init__(self, transport: str, nbytes: int, info: dict[str, Any]) -> None:
        from nano.transfer import Endpoint

        self.endpoint = Endpoint("near", transports=(transport,))
        self.region = nano_region(self.endpoint, transport, nbytes, "near")
        self.data = self.region.array
        self.peer = self.endpoint.connect(bytes.fromhex(info["descriptor"]))
        if transport != "tcp" and self.peer.transport != transport:
            raise RuntimeError(f"{transport}: {dict(self.peer.transports)}")

    def prepare(self, op: str, here: Offsets, there: Offsets, length: int) -> Callable[[], None]:
        make = self.peer.prepare_write if op == "write" else self.peer.prepare_read
        request = make(self.region, "kv", here, there, length, timeout=SECONDS)
        return lambda: request.post().wait()


class Nixl:
    """UCX with its error handling off, which is its fastest; UCX_TLS names the transport."""

    def __init__(self, name: str, nbytes: int, progress: bool) -> None:
        from nixl._api import nixl_agent, nixl_agent_config

        self.data = np.zeros(nbytes, np.uint8)
        self.agent = nixl_agent(name, nixl_agent_config(enable_prog_thread=progress, backends=[]))
        self.agent.create_backend("UCX", {"ucx_error_handling_mode": "none"})
        self.agent.register_memory([(self.data.ctypes.data, nbytes, 0, "")], "DRAM")


class NixlFar(Nixl):
    def __init__(self, transport: str, nbytes: int) -> None:
        super().__init__("far", nbytes, progress=True)

    def info(self) -> dict[str, Any]:
        return {"metadata": self.agent.get_agent_metadata().hex(), "address": self.data.ctypes.data}


class NixlNear(Nixl):
    def __init__(self, transport: str, nbytes: int, info: dict[str, Any]) -> None:
        super().__init__("near", nbytes, progress=False)
        self.remote = self.agent.add_remote_agent(bytes.fromhex(info["metadata"]))
        self.address = info["address"]

    def prepare(self, op: str, here: Offsets, there: Offsets, length: int) -> Callable[[], None]:
        def described(address: int, offsets: Offsets) -> Any:
            return self.agent.get_xfer_descs([(address + at, length, 0) for at in offsets.tolist()], "DRAM")

        local, far = described(self.data.ctypes.data, here), described(self.address, there)
        handle = self.agent.initialize_xfer(op.upper(), local, far, self.remote)

        def move() -> None:
            state = self.agent.transfer(handle)
            deadline = time.monotonic() + SECONDS
            while state == "PROC":
                state = self.agent.check_xfer_state(handle)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"NIXL: {op} not done within {SECONDS} s")
            if state != "DONE":
                raise RuntimeError(f"NIXL: {op} ended with {state}")

        return move


class Mooncake:
    def __init__(self, nbytes: int) -> None:
        from mooncake.engine import TransferEngine

        self.data = np.zeros(nbytes, np.uint8)
        self.engine = TransferEngine()
        if self.engine.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", "") != 0:
            raise RuntimeError("Mooncake: initialize failed")
        if self.engine.register_memory(self.data.ctypes.data, nbytes) != 0:
            raise RuntimeError("Mooncake: register_memory failed")


class MooncakeFar(Mooncake):
    def __init__(self, transport: str, nbytes: int) -> None:
        super().__init__(nbytes)

    def info(self) -> dict[str, Any]:
        return {"host": f"127.0.0.1:{self.engine.get_rpc_port()}", "address": self.data.ctypes.data}


class MooncakeNear(Mooncake):
    def __init__(self, transport: str, nbytes: int, info: dict[str, Any]) -> None:
        super().__init__(nbytes)
        self.host, self.address = info["host"], info["address"]

    def prepare(self, op: str, here: Offsets, there: Offsets, length: int) -> Callable[[], None]:
        move = self.engine.batch_transfer_sync_write if op == "write" else self.engine.batch_transfer_sync_read
        local, far = (self.data.ctypes.data + here).tolist(), (self.address + there).tolist()
        lengths = [length] * len(local)

        def once() -> None:
            if (status := move(self.host, local, far, lengths)) != 0:
                raise RuntimeError(f"Mooncake: {op} returned {status}")

        return once


class Slime:
    def __init__(self, nbytes: int) -> None:
        from dlslime import TcpEndpoint

        self.data = np.zeros(nbytes, np.uint8)
        self.endpoint = TcpEndpoint("127.0.0.1", 0)
        self.handle = self.endpoint.register_memory_region("kv", self.data.ctypes.data, 0, nbytes)


class SlimeFar(Slime):
    def __init__(self, transport: str, nbytes: int) -> None:
        super().__init__(nbytes)

    def info(self) -> dict[str, Any]:
        return {"endpoint": self.endpoint.endpoint_info(), "region": self.endpoint.mr_info()["kv"]}


class SlimeNear(Slime):
    def __init__(self, transport: str, nbytes: int, info: dict[str, Any]) -> None:
        super().__init__(nbytes)
        self.remote = self.endpoint.register_remote_memory_region("kv", info["region"])
        self.endpoint.connect(info["endpoint"])

    def prepare(self, op: str, here: Offsets, there: Offsets, length: int) -> Callable[[], None]:
        move = self.endpoint.write if op == "write" else self.endpoint.read
        pairs = zip(there.tolist(), here.tolist(), strict=True)
        blocks = [(self.handle, self.remote, far, near, length) for far, near in pairs]

        def once() -> None:
            if (status := move(blocks).wait()) != 0:
                raise RuntimeError(f"DLSlime: {op} returned {status}")
            # A write ends before its bytes are there: a read behind it of the last byte waits for them.
            if op == "write" and (status := self.endpoint.read([last]).wait()) != 0:
                raise RuntimeError(f"DLSlime: the read behind a write returned {status}")

        last = (self.handle, self.remote, int(there[-1]) + length - 1, int(here[-1]) + length - 1, 1)
        return once


# By name: what its package is, the two sides, and its transports with the environment that chooses each.
ENGINES: dict[str, tuple[str, Any, Any, dict[str, dict[str, str]]]] = {
    "nano": ("nano.transfer", NanoFar, NanoNear, {"shm": {}, "cma": {}, "tcp": {}}),
    "nixl": ("nixl", NixlFar, NixlNear, {
        "shm": {"UCX_TLS": "posix,sysv,self"}, "cma": {"UCX_TLS": "cma,posix,self"}, "tcp": {"UCX_TLS": "tcp"},
    }),
    "mooncake": ("mooncake.engine", MooncakeFar, MooncakeNear, {"tcp": {}}),
    "dlslime": ("dlslime", SlimeFar, SlimeNear, {"tcp": {}}),
}  # fmt: skip
