"""What the machine can do: the smallest program for each transport that only moves those bytes."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Callable

import numpy as np
from blocks import median, places

from nano._core.transfer import copy_limit, streaming_copy_name

VECTORS = 64  # of one sendmsg or recvmsg
IOVECS = 1024  # of one process_vm_readv: the kernel's most


def copy_seconds(src: np.ndarray, dst: np.ndarray, n: int, length: int, rounds: int) -> tuple[float, str]:
    """The better of memcpy and non-temporal stores, in one thread."""
    a, b = places(n, length, 1), places(n, length, 2)
    plain = median(lambda: copy_limit(dst, src, b, a, length, False), rounds)
    streaming = median(lambda: copy_limit(dst, src, b, a, length, True), rounds)
    return (plain, "memcpy") if plain < streaming else (streaming, streaming_copy_name())


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def attach_seconds(dst: np.ndarray, pid: int, address: int, n: int, length: int, rounds: int) -> tuple[float, str]:
    """process_vm_readv out of process `pid`, as few calls as the kernel lets."""
    libc = ctypes.CDLL(None, use_errno=True)
    base = dst.ctypes.data
    local = (_Iovec * n)(*[(base + at, length) for at in places(n, length, 2).tolist()])
    far = (_Iovec * n)(*[(address + at, length) for at in places(n, length, 1).tolist()])
    calls = [
        (ctypes.byref(local, at * ctypes.sizeof(_Iovec)), ctypes.byref(far, at * ctypes.sizeof(_Iovec)), count)
        for at in range(0, n, IOVECS)
        for count in [min(IOVECS, n - at)]
    ]
    readv = libc.process_vm_readv

    def move() -> None:
        for to, source, count in calls:
            got = readv(pid, to, count, source, count, 0)
            if got != count * length:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    return median(move, rounds), "process_vm_readv"


def views(data: np.ndarray, offsets: np.ndarray, length: int) -> list[memoryview]:
    whole = memoryview(data)
    return [whole[offset : offset + length] for offset in offsets.tolist()]


def spin(blocks: list[memoryview], move: Callable[[list[memoryview]], int]) -> None:
    """Moves all blocks over a non-blocking socket, never sleeping."""
    at, total = 0, len(blocks)
    pending = blocks[:VECTORS]
    while at < total:
        try:
            moved = move(pending)
        except BlockingIOError:
            continue
        while moved and moved >= len(pending[0]):
            moved -= len(pending.pop(0))
            at += 1
        if moved:
            pending[0] = pending[0][moved:]
        if not pending:
            pending = blocks[at : at + VECTORS]


def receive_all(sock: socket.socket, blocks: list[memoryview]) -> None:
    spin(blocks, lambda pending: sock.recvmsg_into(pending)[0])


def send_all(sock: socket.socket, blocks: list[memoryview]) -> None:
    spin(blocks, sock.sendmsg)


def socket_seconds(sock: socket.socket, src: np.ndarray, n: int, length: int, rounds: int) -> tuple[float, str]:
    """Those blocks through a bare TCP socket, and one byte back. Its other end is serve_socket."""
    blocks = views(src, places(n, length, 1), length)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setblocking(False)
    answer = [memoryview(bytearray(1))]

    def round_() -> None:
        send_all(sock, blocks)
        receive_all(sock, list(answer))

    return median(round_, rounds), "spinning sockets"


def serve_socket(sock: socket.socket, dst: np.ndarray, n: int, length: int, rounds: int) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setblocking(False)
    blocks = views(dst, places(n, length, 2), length)
    answer = [memoryview(b"x")]
    for _ in range(rounds):
        receive_all(sock, blocks)
        send_all(sock, list(answer))
