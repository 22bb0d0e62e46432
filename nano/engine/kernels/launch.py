"""How kernels are launched: the device's size and programmatic dependent launch.

A kernel launched dependently starts while those before it on the stream still run, and fetches what it can before it
waits for them in `gdc_wait`: then the kernel before has ended, and so have all before that, which waited as well. A
kernel lets its follower start after its own wait (`prefetch.start`), so that all but that kernel have ended by then; or
as soon as all its own programs have started (`prefetch.start_early`), as those of one row do, which wait more than they
work. These rules make that safe, also when captured in a CUDA graph: before `gdc_wait` a kernel writes nothing, and
reads only what no kernel of the step writes (weights, the step's arrays). One that reads more follows a kernel that
lets it start after its wait.
"""

from __future__ import annotations

from functools import cache

import torch

_enabled = True


def enable_dependent_launch(enabled: bool) -> None:
    """Turns programmatic dependent launch on or off for every later launch (on at start; needs sm_90)."""
    global _enabled
    _enabled = enabled


@cache
def _capable(index: int) -> bool:
    return torch.version.hip is None and torch.cuda.get_device_capability(index) >= (9, 0)


def dependent_launch(device: torch.device) -> bool:
    """Whether kernels on `device` are to be launched dependently."""
    return _enabled and device.type == "cuda" and _capable(device.index or 0)


@cache
def processors(device: torch.device) -> int:
    """Multiprocessors of a CUDA device; 4 stand for them on a CPU, where kernels run interpreted."""
    if device.type != "cuda":
        return 4
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
