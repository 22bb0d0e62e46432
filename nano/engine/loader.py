"""Weights into a model: read in parallel from a checkpoint, or made up.

Tensors go from the file to their places; those that are converted, or whose places are no single run of memory, are
first brought to staging memory of the same device.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from nano._core.load import Loading
from nano.engine.checkpoint import Checkpoint, Entry
from nano.errors import InvalidInput

READERS = 8
PIECE_BYTES = 2 << 20
SLOTS = 2
STAGING_BYTES = 256 << 20
PROGRESS_SECONDS = 0.1
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
class _Rows:
    """Rows of a tensor in a file, and the rows of its target."""

    file: Path
    offset: int
    nbytes: int
    dtype: torch.dtype
    to: torch.Tensor


def load(
    directory: Path, targets: Mapping[str, torch.Tensor], progress: Callable[[str, int, int], None] | None = None
) -> None:
    """Copies each tensor of the checkpoint into its target (all on one device, possibly slices), converting the dtype.

    `progress("weights", bytes done, bytes in all)` is called in this thread. Raises InvalidInput, before anything is
    read, naming weights that are missing, unknown (rotary inv_freq and an lm_head that nothing asks for are ignored),
    of another shape, or of a dtype that is not converted.
    """
    wanted = _match(Checkpoint(directory), targets)
    devices = {targets[name].device for name in wanted}
    if len(devices) != 1:
        raise InvalidInput(f"load: expected targets on one device, got {sorted(map(str, devices))}")
    device = devices.pop()
    total = sum(entry.nbytes for entry in wanted.values())
    straight: list[_Rows] = []
    others: list[_Rows] = []
    for name, entry in wanted.items():
        target, dtype = targets[name], DTYPES[entry.dtype]
        if target.dtype == dtype and target.is_contiguous():
            straight.append(_Rows(entry.file, entry.offset, entry.nbytes, dtype, target))
        else:
            others += _rows(entry, target)
    loadings = [_start(straight, device)]

    def wait(loading: Loading) -> None:
        while not loading.wait(PROGRESS_SECONDS):
            told()

    def told() -> None:
        if progress is not None:
            progress("weights", sum(loading.done for loading in loadings), total)

    try:
        for batch in _batches(others):
            staging = _Staging(device, batch)
            loadings.append(_start(staging.rows, device))
            wait(loadings[-1])
            staging.convert()
        wait(loadings[0])
        told()
    finally:
        for loading in loadings:
            loading.close()


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


def _rows(entry: Entry, target: torch.Tensor) -> Iterator[_Rows]:
    """A tensor, in runs of whole rows of about STAGING_BYTES (one row at least) when it is larger."""
    dtype = DTYPES[entry.dtype]
    if entry.nbytes <= STAGING_BYTES or target.ndim == 0:
        yield _Rows(entry.file, entry.offset, entry.nbytes, dtype, target)
        return
    row_bytes = entry.nbytes // target.shape[0]
    for to in torch.split(target, max(STAGING_BYTES // row_bytes, 1)):
        nbytes = to.shape[0] * row_bytes
        yield _Rows(entry.file, entry.offset, nbytes, dtype, to)
        entry = replace(entry, offset=entry.offset + nbytes)


def _batches(rows: list[_Rows]) -> Iterator[list[_Rows]]:
    """In the order of the files, as many at a time as fit in STAGING_BYTES (one at least)."""
    batch: list[_Rows] = []
    nbytes = 0
    for one in sorted(rows, key=lambda rows: (rows.file, rows.offset)):
        if batch and nbytes + one.nbytes > STAGING_BYTES:
            yield batch
            batch, nbytes = [], 0
        batch.append(one)
        nbytes += one.nbytes
    if batch:
        yield batch


class _Staging:
    """Memory for rows as they are in the file."""

    def __init__(self, device: torch.device, rows: list[_Rows]) -> None:
        self._targets = [one.to for one in rows]
        sizes: dict[torch.dtype, list[int]] = {}
        for one in rows:
            sizes.setdefault(one.dtype, []).append(one.to.numel())
        parts = {
            dtype: iter(torch.empty(sum(counts), dtype=dtype, device=device).split_with_sizes(counts))
            for dtype, counts in sizes.items()
        }
        self.rows = [
            _Rows(one.file, one.offset, one.nbytes, one.dtype, next(parts[one.dtype]).view(one.to.shape))
            for one in rows
        ]

    def convert(self) -> None:
        for target, staged in zip(self._targets, self.rows, strict=True):
            target.copy_(staged.to, non_blocking=True)


def _start(rows: list[_Rows], device: torch.device) -> Loading:
    """Begins to read rows into the memory of their targets, contiguous and of the file's dtype."""
    files = {file: index for index, file in enumerate(sorted({one.file for one in rows}))}
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()  # whatever was to be done with that memory is done
    return Loading(
        [os.fspath(file) for file in files],
        [(files[one.file], one.offset, one.nbytes, one.to.data_ptr()) for one in rows],
        device=device.index if device.type == "cuda" else None,
        threads=READERS,
        piece_bytes=PIECE_BYTES,
        slots=SLOTS,
    )


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
