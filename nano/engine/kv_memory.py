"""The KV pool's memory: an endpoint's region when peers copy to and from it, else torch's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from nano.transfer import Endpoint, Region


class PoolMemory:
    """`nbytes` of memory at `address`; `tensor` is uint8 [nbytes] over it."""

    def __init__(self, tensor: torch.Tensor, region: Region | None) -> None:
        self.tensor = tensor
        self.region = region
        self.address = tensor.data_ptr()


def allocate_pool(endpoint: Endpoint | None, nbytes: int, device: torch.device) -> PoolMemory:
    """Region "kv" of the endpoint, if there is one: on a GPU one virtual range that other processes can map.

    Raises OutOfMemory.
    """
    if endpoint is None:
        return PoolMemory(torch.empty(nbytes, dtype=torch.uint8, device=device), None)
    region = endpoint.allocate(nbytes, "kv", device=str(device))
    if device.type == "cpu":
        return PoolMemory(torch.from_numpy(region.array), region)
    return PoolMemory(torch.as_tensor(region, device=device), region)
