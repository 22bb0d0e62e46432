"""Weights into a model: read in parallel from a checkpoint, or made up.

A file is cut into spans of whole rows. Each reader thread has two buffers, pinned when the weights go to a GPU: while
one is on its way up, the next span is read into the other, so that disk and bus are busy at once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import torch

from nano.engine.checkpoint import Checkpoint, Entry
from nano.errors import InvalidInput

SPAN_BYTES = 8 << 20
READERS = 8
DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
}
FP8 = torch.float8_e4m3fn
DUMMY_SPREAD = 0.02  # standard deviation of made-up weights
FP8_SPREAD = 0.598  # of float8_e4m3fn bit patterns without the exponent's top bit


@dataclass(frozen=True)
class _Piece:
    offset: int  # in its file
    nbytes: int
    dtype: torch.dtype
    to: torch.Tensor  # the rows that these bytes are


@dataclass
class _Span:
    """Pieces that lie one after the other in a file."""

    file: Path
    offset: int
    nbytes: int = 0
    pieces: list[_Piece] = field(default_factory=list)


def load(
    directory: Path, targets: Mapping[str, torch.Tensor], progress: Callable[[str, int, int], None] | None = None
) -> None:
    """Copies each tensor of the checkpoint into its target (all on one device, possibly slices), converting the dtype.

    `progress("weights", bytes done, bytes in all)` is called in this thread. Raises InvalidInput, before anything is
    read, naming weights that are missing, unknown (rotary inv_freq and an lm_head that nothing asks for are ignored),
    of another shape, or of a dtype that is not converted.
    """
    wanted = _match(Checkpoint(directory), targets)
    total = sum(entry.nbytes for entry in wanted.values())
    done = 0
    for nbytes in _read(list(_spans([(entry, targets[name]) for name, entry in wanted.items()]))):
        done += nbytes
        if progress is not None:
            progress("weights", done, total)


def _match(checkpoint: Checkpoint, targets: Mapping[str, torch.Tensor]) -> dict[str, Entry]:
    where = checkpoint.directory
    wanted: dict[str, Entry] = {}
    for name, entry in checkpoint.entries.items():
        target = targets.get(name)
        if target is None:
            if name == "lm_head.weight" or name.endswith("rotary_emb.inv_freq"):
                continue
            raise InvalidInput(f"{where}: unknown weight {name}")
        if entry.shape != tuple(target.shape):
            raise InvalidInput(f"{where}: {name}: expected {tuple(target.shape)}, got {entry.shape}")
        dtype = DTYPES.get(entry.dtype)
        if dtype is None or (dtype == FP8) != (target.dtype == FP8):
            raise InvalidInput(f"{where}: {name}: expected {target.dtype}, got {entry.dtype}")
        if entry.nbytes != dtype.itemsize * target.numel():
            raise InvalidInput(f"{where}: {name}: {entry.nbytes} bytes for {entry.shape} of {entry.dtype}")
        wanted[name] = entry
    missing = sorted(set(targets) - set(wanted))
    if missing:
        raise InvalidInput(f"{where}: {len(missing)} weights are missing: {', '.join(missing[:3])}, …")
    return wanted


def _spans(places: list[tuple[Entry, torch.Tensor]]) -> Iterator[_Span]:
    span: _Span | None = None
    for entry, view in sorted(places, key=lambda place: (place[0].file, place[0].offset)):
        for piece in _pieces(entry, view):
            if span is not None and (
                span.file != entry.file
                or span.offset + span.nbytes != piece.offset
                or span.nbytes + piece.nbytes > SPAN_BYTES
                or span.nbytes % piece.dtype.itemsize
            ):
                yield span
                span = None
            if span is None:
                span = _Span(entry.file, piece.offset)
            span.pieces.append(piece)
            span.nbytes += piece.nbytes
    if span is not None:
        yield span


def _pieces(entry: Entry, view: torch.Tensor) -> Iterator[_Piece]:
    """A tensor in runs of whole rows of about SPAN_BYTES (one row at least)."""
    dtype = DTYPES[entry.dtype]
    view = view if view.ndim else view.view(1)
    rows = view.shape[0]
    row_bytes = entry.nbytes // max(rows, 1)
    step = max(SPAN_BYTES // max(row_bytes, 1), 1)
    for row in range(0, rows, step):
        to = view[row : row + step]
        yield _Piece(entry.offset + row * row_bytes, to.shape[0] * row_bytes, dtype, to)


class _Reader:
    """One thread's two buffers and, for a GPU, its stream."""

    def __init__(self, device: torch.device, nbytes: int) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        self._events: list[torch.cuda.Event] = []
        pinned = device.type == "cuda"
        self._buffers = [torch.empty(nbytes, dtype=torch.uint8, pin_memory=pinned) for _ in range(2)]
        self._memory = [buffer.numpy().data for buffer in self._buffers]
        self._turn = 0
        if pinned:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._stream.wait_stream(torch.cuda.current_stream(device))  # the targets may still be being made
            self._events = [torch.cuda.Event() for _ in range(2)]  # type: ignore[no-untyped-call]

    def move(self, file: int, span: _Span) -> int:
        turn = self._turn = 1 - self._turn
        if self._stream is not None:
            self._events[turn].synchronize()
        done = 0
        while done < span.nbytes:
            got = os.preadv(file, [self._memory[turn][done : span.nbytes]], span.offset + done)
            if got == 0:
                raise InvalidInput(f"{span.file}: ends at {span.offset + done}, before its tensors do")
            done += got
        if self._stream is None:
            self._place(self._buffers[turn], span)
        else:
            with torch.cuda.stream(self._stream):
                self._place(self._buffers[turn], span)
                self._events[turn].record()
        return span.nbytes

    def _place(self, buffer: torch.Tensor, span: _Span) -> None:
        for piece in span.pieces:
            begin = piece.offset - span.offset
            values = buffer[begin : begin + piece.nbytes].view(piece.dtype).view(piece.to.shape)
            if self._stream is not None and (piece.dtype != piece.to.dtype or not piece.to.is_contiguous()):
                values = values.to(self._device, non_blocking=True)  # converted there
            piece.to.copy_(values, non_blocking=True)

    def finish(self) -> None:
        if self._stream is not None:
            self._stream.synchronize()


def _read(spans: list[_Span]) -> Iterator[int]:
    """Moves every span; yields the bytes of each that is done."""
    devices = {piece.to.device for span in spans for piece in span.pieces}
    if len(devices) != 1:
        raise InvalidInput(f"load: expected targets on one device, got {sorted(map(str, devices))}")
    device = devices.pop()
    nbytes = max(span.nbytes for span in spans)
    files = {span.file: -1 for span in spans}
    own = threading.local()
    readers: list[_Reader] = []

    def start() -> None:
        own.reader = _Reader(device, nbytes)
        readers.append(own.reader)

    def move(span: _Span) -> int:
        reader: _Reader = own.reader
        return reader.move(files[span.file], span)

    pool = ThreadPoolExecutor(min(READERS, len(spans)), "nano-loader", start)
    try:
        for file in files:
            files[file] = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        for moved in as_completed([pool.submit(move, span) for span in spans]):
            yield moved.result()
    finally:
        pool.shutdown(cancel_futures=True)
        for reader in readers:
            reader.finish()
        for descriptor in files.values():
            if descriptor >= 0:
                os.close(descriptor)


def dummy(targets: Mapping[str, torch.Tensor], seed: int = 0) -> None:
    """Small random weights, the same for the same seed, device and targets; norms get ones.

    fp8 weights are uniform over the bit patterns of magnitudes below 2; their scales bring them to the spread of the
    others.
    """
    generators: dict[torch.device, torch.Generator] = {}
    random: list[torch.Tensor] = []
    for name, target in targets.items():
        if target.ndim == 1:
            target.fill_(1.0)
        elif name.endswith("_scale_inv"):
            target.fill_(DUMMY_SPREAD / FP8_SPREAD)
        else:
            random.append(target)
    for flat in _runs(random):
        if flat.device not in generators:
            generators[flat.device] = torch.Generator(flat.device).manual_seed(seed)
        generator = generators[flat.device]
        if flat.dtype == FP8:
            flat.view(torch.uint8).random_(0, 256, generator=generator).bitwise_and_(0xBF)
        else:
            flat.normal_(0.0, DUMMY_SPREAD, generator=generator)


def _runs(views: list[torch.Tensor]) -> Iterator[torch.Tensor]:
    """The same memory in fewer tensors: contiguous views that touch become one."""
    run: torch.Tensor | None = None
    storages: dict[int, int] = {}  # in the order of the views: addresses change from one process to the next

    def place(view: torch.Tensor) -> tuple[int, int]:
        return storages.setdefault(view.untyped_storage().data_ptr(), len(storages)), int(view.storage_offset())

    for view in sorted(views, key=place):
        if not view.is_contiguous():
            yield view
            continue
        flat = view.view(-1)
        if run is not None and run.dtype == flat.dtype and place(flat) == (place(run)[0], place(run)[1] + run.numel()):
            run = run.as_strided((run.numel() + flat.numel(),), (1,))
            continue
        if run is not None:
            yield run
        run = flat
    if run is not None:
        yield run
