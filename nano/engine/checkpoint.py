"""Weights on disk: a Hugging Face directory or hub id, safetensors, sharded or not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nano.errors import InvalidInput

if TYPE_CHECKING:
    import torch


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


class Checkpoint:
    """Tensors by name; each is read (memory-mapped) when it is asked for."""

    def __init__(self, directory: Path) -> None:
        index = directory / "model.safetensors.index.json"
        if index.is_file():
            files = {name: directory / file for name, file in json.loads(index.read_text())["weight_map"].items()}
        else:
            from safetensors import safe_open

            shards = sorted(directory.glob("*.safetensors"))
            if not shards:
                raise InvalidInput(f"{directory}: no *.safetensors files")
            files = {}
            for shard in shards:
                with safe_open(shard, framework="pt") as opened:
                    files |= dict.fromkeys(opened.keys(), shard)
        missing = sorted({str(file) for file in files.values() if not file.is_file()})
        if missing:
            raise InvalidInput(f"{directory}: missing weight files {', '.join(missing)}")
        self._files = files
        self.directory = directory

    def __contains__(self, name: str) -> bool:
        return name in self._files

    @property
    def total_bytes(self) -> int:
        return sum(os.path.getsize(file) for file in set(self._files.values()))

    def tensors(self, progress: Callable[[int], None] | None = None) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, tensor) in file order; `progress` is told each tensor's bytes once it has been consumed."""
        from safetensors import safe_open

        for file in sorted(set(self._files.values())):
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118  (not a dict)
                    tensor = opened.get_tensor(name)
                    yield name, tensor
                    if progress is not None:
                        progress(tensor.numel() * tensor.element_size())
