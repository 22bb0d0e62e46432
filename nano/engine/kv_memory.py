"""The KV pool's memory: an endpoint's region when peers copy to and from it, else torch's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from nano.errors import InvalidInput

if TYPE_CHECKING:
    from nano.transfer import Endpoint, Region


class PoolMemory:
    """`nbytes` of memory at `address`; `tensor` is uint8 [nbytes] over it."""

    def __init__(self, tensor: torch.Tensor, region: Region | None) -> None:
        self.tensor = tensor
        self.region = region
        self.address = tensor.data_ptr()


def allocate_pool(endpoint: Endpoint | None, nbytes: int, device: torch.device) -> PoolMemory:
    """Region "kv" of the endpoint, if there is one. Raises OutOfMemory."""
    if endpoint is None:
        return PoolMemory(torch.empty(nbytes, dtype=torch.uint8, device=device), None)
    if device.type != "cpu":
        raise InvalidInput(f"device: {device}: KV in device memory cannot be transferred yet; use --mode hybrid")
    region = endpoint.allocate(nbytes, "kv")
    return PoolMemory(torch.from_numpy(region.array), region)
