"""Frames of nano.transfer's sockets, made and read by hand."""

from __future__ import annotations

import socket
import struct

MAGIC = 0x6F6E616E
VERSION = 3
# magic, kind, flags, count, check, body, op, chunk, tag, region, length, status, blocks
HEAD = struct.Struct("<IBBHII5QII")
KINDS = {
    "hello": 1, "challenge": 2, "proof": 3, "ready": 4, "refuse": 5, "sync": 10, "synced": 11,
    "message": 13, "write": 14, "read": 15, "data": 16, "ack": 17, "immediate": 18, "attach": 19, "attached": 20,
}  # fmt: skip
PAYLOAD = (KINDS["write"], KINDS["data"])


def crc32c(data: bytes) -> int:
    total = 0xFFFFFFFF
    for byte in data:
        total ^= byte
        for _ in range(8):
            total = total >> 1 ^ (0x82F63B78 if total & 1 else 0)
    return total ^ 0xFFFFFFFF


def frame(
    kind: int, body: bytes = b"", payload: bytes = b"", *, magic: int = MAGIC, flags: int = 0, count: int = 0,
    size: int | None = None, op: int = 0, chunk: int = 0, tag: int = 0, region: int = 0, length: int = 0,
    status: int = 0, blocks: int = 0,
) -> bytes:  # fmt: skip
    """A whole frame whose check is right; `size`: what it says of its body, where that is not so."""
    said = len(body) if size is None else size
    rest = said, op, chunk, tag, region, length, status, blocks
    check = crc32c(HEAD.pack(magic, kind, flags, count, 0, *rest) + body)
    return HEAD.pack(magic, kind, flags, count, check, *rest) + body + payload


def text(value: bytes) -> bytes:
    return struct.pack("<I", len(value)) + value


def receive(source: socket.socket, size: int) -> bytes:
    out = bytearray()
    while len(out) < size and (part := source.recv(min(size - len(out), 1 << 20))):
        out += part
    return bytes(out)


def receive_frame(source: socket.socket) -> bytes:
    """One whole frame with body and payload; empty at the end of the stream."""
    head = receive(source, HEAD.size)
    if len(head) < HEAD.size:
        return head
    _, kind, _, count, _, body, _, _, _, _, length, _, blocks = HEAD.unpack(head)
    rest = body + ((blocks or count) * length + 8 if kind in PAYLOAD else 0)
    return head + receive(source, rest)
