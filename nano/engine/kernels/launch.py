"""How kernels are launched: the device's size and programmatic dependent launch.

A kernel launched dependently starts while the one before it on the stream still runs. Two rules make that safe, also
when captured in a CUDA graph: whatever the kernel before may write is read only after `gdc_wait`, and a kernel lets its
follower start only after its own `gdc_wait`. So when a kernel starts, all but the one just before it have finished:
before `gdc_wait` it may read what was written two or more kernels ago, and it writes nothing.
"""

from __future__ import annotations

from functools import cache

import torch

_enabled = True
EARLY = True
FUSE_NORM = True
FUSE_SILU = True
FUSE_ROUTE = True


def enable_dependent_launch(enabled: bool) -> None:
    """Turns programmatic dependent launch on or off for every later launch (on at start; needs sm_90)."""
    global _enabled
    _enabled = enabled


@cache
def _capable(index: int) -> bool:
    return torch.version.hip is None and torch.cuda.get_device_capability(index) >= (9, 0)


def dependent_launch(device: torch.device) -> int:
    """Whether kernels on `device` are to be launched dependently."""
    if not (_enabled and device.type == "cuda" and _capable(device.index or 0)):
        return 0
    return 2 if EARLY else 1


@cache
def processors(device: torch.device) -> int:
    """Multiprocessors of a CUDA device; 4 stand for them on a CPU, where kernels run interpreted."""
    if device.type != "cuda":
        return 4
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
