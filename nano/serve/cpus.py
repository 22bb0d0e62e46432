"""How many CPUs this process may keep busy."""

from __future__ import annotations

import os
from pathlib import Path


def allowed(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """CPUs of the affinity mask, at most what a container's quota (cgroup v2) pays for, at least 1."""
    cpus = len(os.sched_getaffinity(0))
    try:
        limit, period = quota.read_text("ascii").split()
    except (OSError, ValueError):
        return cpus
    return cpus if limit == "max" else max(1, min(cpus, int(limit) // int(period)))


def threads_each(cpus: int, engines: int) -> int:
    return max(1, cpus // engines)
