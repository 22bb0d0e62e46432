"""Two processes with an endpoint each: this one (near), and the one that this file is when it is run (far)."""

from __future__ import annotations

import mmap
import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from blocks import CORES, NBYTES, checksum, places, take_core
from limits import attach_seconds, copy_seconds, serve_socket, socket_seconds

from nano.transfer import Endpoint, Peer, Region


def open_region(endpoint: Endpoint, transport: str, name: str, seed: int) -> Region:
    """NBYTES of noise: allocated memory, or, for cma, pages that somebody else allocated."""
    if transport == "cma":
        pages = mmap.mmap(-1, NBYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        pages.madvise(mmap.MADV_HUGEPAGE)  # as numpy does
        region = endpoint.register(np.frombuffer(pages, np.uint8), name)
    else:
        region = endpoint.allocate(NBYTES, name)
    region.array[:] = np.random.default_rng(seed).integers(0, 256, NBYTES, dtype=np.uint8)
    return region


class Pair:
    """spin: how long the far worker polls before it sleeps, in seconds."""

    def __init__(self, transport: str, spin: float = 50e-6) -> None:
        self.transport = transport
        os.sched_setaffinity(0, CORES)
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), transport, str(spin)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},  # the same nano
        )
        take_core(0)
        self.near = Endpoint("near", transports=(transport,))
        self.region = open_region(self.near, transport, "near", 8)
        descriptor, port, address = self._readline().split()
        self.port, self.address = int(port), int(address)
        self.peer: Peer = self.near.connect(bytes.fromhex(descriptor))
        assert self.peer.transport == transport, self.peer.transports

    def _readline(self) -> str:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], 60)[0], "the other process is silent"
        return self.process.stdout.readline()

    def ask(self, command: str, *numbers: int) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command} {' '.join(map(str, numbers))}\n")
        self.process.stdin.flush()
        return self._readline().strip()

    def verify(self, n: int, length: int) -> None:
        """What both sides hold in the places of test cells is the same."""
        here = checksum(self.region.array, places(n, length, 1), length)
        assert int(self.ask("checksum", n, length, 2)) == here

    def limit(self, n: int, length: int, rounds: int) -> tuple[float, str]:
        """Seconds of the smallest program that moves those blocks in this way, and its name."""
        if self.transport == "shm":
            return copy_seconds(self.region.array, np.ones(NBYTES, np.uint8), n, length, rounds)
        if self.transport == "cma":
            return attach_seconds(np.ones(NBYTES, np.uint8), self.process.pid, self.address, n, length, rounds)
        assert self.ask("receive", n, length, rounds) == "ready"
        with socket.create_connection(("127.0.0.1", self.port)) as sock:
            return socket_seconds(sock, self.region.array, n, length, rounds)

    def close(self) -> None:
        self.near.close()
        self.process.communicate(timeout=30)
        os.sched_setaffinity(0, CORES)


def far(transport: str, spin: float) -> None:
    """The other process's whole life; it ends with its standard input."""
    take_core(1)
    listener = socket.create_server(("127.0.0.1", 0))
    with Endpoint("far", transports=(transport,), spin=spin) as endpoint:
        region = open_region(endpoint, transport, "kv", 7)
        print(endpoint.descriptor().hex(), listener.getsockname()[1], region.address, flush=True)
        for line in sys.stdin:
            command, *words = line.split()
            numbers = [int(word) for word in words]
            if command == "checksum":
                n, length, seed = numbers
                print(checksum(region.array, places(n, length, seed), length), flush=True)
            elif command == "cpu":  # nanoseconds of this process, so far
                print(time.process_time_ns(), flush=True)
            elif command == "receive":
                print("ready", flush=True)
                sock, _ = listener.accept()
                with sock:
                    serve_socket(sock, region.array, *numbers)


if __name__ == "__main__":
    far(sys.argv[1], float(sys.argv[2]))
