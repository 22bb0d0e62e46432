"""Weights on disk: a Hugging Face directory or hub id, safetensors, sharded or not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nano.errors import InvalidInput

if TYPE_CHECKING:
    import torch

KV_SCALES = (".k_scale", ".v_scale")  # how names end that belong to no weight, but to an fp8 KV cache


def locate(model: str) -> Path:
    """The directory of `model`: itself, or the hub's snapshot of that id (its cache and HF_HUB_OFFLINE hold)."""
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.exists() or model.startswith(("/", ".", "~")):
        raise InvalidInput(f"model: expected a directory or a hub id, got {model!r}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.txt"]))
    except (HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError) as error:
        raise InvalidInput(f"model: {model!r} is neither a directory nor a hub id in reach: {error}") from None


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies on disk."""

    file: Path
    offset: int  # bytes from the file's start
    nbytes: int
    dtype: str  # safetensors' name
    shape: tuple[int, ...]


class Checkpoint:
    """Tensors by name: weights in `entries`, and `kv_scales`. Only headers are read until a tensor is asked for."""

    def __init__(self, directory: Path) -> None:
        index = directory / "model.safetensors.index.json"
        if index.is_file():
            weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            files = sorted({directory / file for file in weight_map.values()})
            missing = [str(file) for file in files if not file.is_file()]
            if missing:
                raise InvalidInput(f"{directory}: missing weight files {', '.join(missing)}")
        else:
            files = sorted(directory.glob("*.safetensors"))
            if not files:
                raise InvalidInput(f"{directory}: no *.safetensors files")
        self.directory = directory
        self.entries: dict[str, Entry] = {}
        for file in files:
            self.entries |= read_header(file)
        self.kv_scales = {name: self.entries.pop(name) for name in list(self.entries) if name.endswith(KV_SCALES)}

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    @property
    def total_bytes(self) -> int:
        return sum(os.path.getsize(file) for file in {entry.file for entry in self.entries.values()})

    def tensors(
        self, progress: Callable[[int], None] | None = None, names: Container[str] | None = None
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, tensor) in file order, memory-mapped; only `names`, when they are given.

        `progress` is told each tensor's bytes once it has been consumed.
        """
        from safetensors import safe_open

        for file in sorted({entry.file for entry in self.entries.values()}):
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118  (not a dict)
                    if names is not None and name not in names:
                        continue
                    tensor = opened.get_tensor(name)
                    yield name, tensor
                    if progress is not None:
                        progress(tensor.numel() * tensor.element_size())


def read_header(file: Path) -> dict[str, Entry]:
    """The tensors of a safetensors file. Raises InvalidInput for one that is cut short or not of this format."""
    with file.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or length > size - 8:
            raise InvalidInput(f"{file}: not a safetensors file: {size} bytes, a header of {length}")
        try:
            header: dict[str, Any] = json.loads(opened.read(length))
            header.pop("__metadata__", None)
            begin = 8 + length
            entries = {
                name: Entry(file, begin + at[0], at[1] - at[0], str(info["dtype"]), tuple(info["shape"]))
                for name, info in header.items()
                for at in [info["data_offsets"]]
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidInput(f"{file}: not a safetensors header: {error!r}") from None
    for name, entry in entries.items():
        if entry.nbytes < 0 or entry.offset + entry.nbytes > size:
            raise InvalidInput(
                f"{file}: {name}: bytes {entry.offset} to {entry.offset + entry.nbytes} of a file of {size}"
            )
    return entries
