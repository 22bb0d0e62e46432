"""What this host lets transfers use, and what to change where it does not. Every check really tries what it reports."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nano._core.transfer import Endpoint
from nano.errors import NanoError
from nano.transfer import topology


@dataclass
class Finding:
    """ok; note: works, slower or with less; missing: hardware or a library is not there; failed: it should work."""

    check: str
    state: Literal["ok", "note", "missing", "failed"]
    found: str
    advice: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def examine() -> list[Finding]:
    checks: list[Callable[[], Finding]] = [
        check_loopback, check_memory, check_huge_pages, check_cma, check_files, check_memlock, check_verbs,
        check_rdma_access, check_cuda, check_gpu_direct,
    ]  # fmt: skip
    return [check() for check in checks]


def check_loopback() -> Finding:
    """Moves 64 KiB between two endpoints of this process by every transport that two processes of this host can use."""
    moved = []
    try:
        with Endpoint("doctor-a") as a, Endpoint("doctor-b") as b:
            reasons = dict(a.connect(b.descriptor()).transports[:-1])
        for transport in [*(name for name, why_not in reasons.items() if not why_not), "tcp"]:
            if not verified(transport):
                return Finding("transfers", "failed", f"{transport} delivered other bytes", "please report this")
            moved.append(transport)
    except NanoError as error:
        advice = "unix sockets, memfd_create and 127.0.0.1 must be usable in this container"
        return Finding("transfers", "failed", f"{type(error).__name__}: {error}", advice)
    not_used = "".join(f"; not by {name}: {why}" for name, why in reasons.items() if why)
    return Finding("transfers", "ok", f"64 KiB moved and verified by {', '.join(moved)}{not_used}")


def verified(transport: str) -> bool:
    with Endpoint("doctor-a", transports=(transport,)) as a, Endpoint("doctor-b", transports=(transport,)) as b:
        source, target = a.allocate(1 << 16, "source"), b.allocate(1 << 16, "target")
        source.array[:] = np.arange(1 << 14, dtype=np.uint32).view(np.uint8)
        a.connect(b.descriptor()).write(source, "target", [0], [0], 1 << 16).wait(5)
        return bool(np.array_equal(source.array, target.array))


def check_memory() -> Finding:
    """Pools are memfds: /dev/shm's size does not bound them, free memory and the cgroup's limit do."""
    available = field_of(Path("/proc/meminfo"), "MemAvailable") << 10
    limit = topology.text_of(Path("/sys/fs/cgroup/memory.max"))
    used = topology.text_of(Path("/sys/fs/cgroup/memory.current"))
    if limit.isdigit() and used.isdigit():
        available = min(available, max(0, int(limit) - int(used)))
    status = os.statvfs("/dev/shm") if os.path.isdir("/dev/shm") else None
    shm = f"; /dev/shm has {status.f_bavail * status.f_frsize / 1e9:.1f} GB (not used by pools)" if status else ""
    found = f"{available / 1e9:.1f} GB for shared pools{shm}"
    if available < 1 << 30:
        return Finding("shared memory", "note", found, "free memory or raise the container's memory limit")
    return Finding("shared memory", "ok", found)


def check_huge_pages() -> Finding:
    """Shared pools use transparent huge pages of shmem, or reserved ones."""
    shmem = chosen(topology.text_of(Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")))
    private = chosen(topology.text_of(Path("/sys/kernel/mm/transparent_hugepage/enabled")))
    reserved = sum(
        int(topology.text_of(file) or 0) for file in Path("/sys/kernel/mm/hugepages").glob("*/free_hugepages")
    )
    modes = f"shared memory {shmem or 'unknown'}, private {private or 'unknown'}"
    found = f"transparent: {modes}; reserved and free: {reserved}"
    if shmem in ("always", "within_size", "advise", "force") or reserved:
        return Finding("huge pages", "ok", found)
    advice = "echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled (as root)"
    return Finding("huge pages", "note", found, advice)


def check_cma() -> Finding:
    """Reads a child's memory by process_vm_readv, and says whether processes that are no relatives may."""
    error = read_from_child()
    scope = topology.text_of(Path("/proc/sys/kernel/yama/ptrace_scope"))
    if error:
        advice = "containers: allow the system call in the seccomp profile, or --cap-add=SYS_PTRACE"
        return Finding("process_vm_readv", "missing", f"refused: {error}", advice)
    if scope in ("", "0") or privileged():
        return Finding("process_vm_readv", "ok", f"works; ptrace_scope {scope or 'absent'}")
    advice = "sysctl kernel.yama.ptrace_scope=0, or give the processes CAP_SYS_PTRACE"
    return Finding("process_vm_readv", "note", f"works on children only: ptrace_scope {scope}", advice)


def read_from_child() -> str:
    """Empty when eight bytes of a child's memory could be read, else the error."""
    program = (
        "import ctypes, sys; value = ctypes.create_string_buffer(b'nanonano', 8)\n"
        "print(ctypes.addressof(value), flush=True); sys.stdin.read()"
    )

    class Vector(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))

    libc = ctypes.CDLL(None, use_errno=True)
    with subprocess.Popen(
        [sys.executable, "-S", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        address = int(child.stdout.readline())
        buffer = ctypes.create_string_buffer(8)
        here, there = Vector(ctypes.addressof(buffer), 8), Vector(address, 8)
        got = libc.process_vm_readv(child.pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
        number = ctypes.get_errno()
        assert child.stdin is not None
        child.stdin.close()
    if got == 8 and buffer.raw == b"nanonano":
        return ""
    return errno.errorcode.get(number, str(number)) if got < 0 else f"{got} of 8 bytes"


def check_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # A peer on this host needs a socket, two doorbells, a link, and one a shared region.
    found = f"{soft} (at most {hard}): about {max(0, soft - 64) // 8} peers"
    if soft < 1024:
        return Finding("open files", "note", found, "ulimit -n 65536")
    return Finding("open files", "ok", found)


def check_memlock() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    found = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft / 1e6:.1f} MB"
    if soft == resource.RLIM_INFINITY or privileged():
        return Finding("memlock", "ok", found)
    if not topology.read_nics(Path("/")):
        return Finding("memlock", "ok", f"{found}; matters to RDMA alone, and there is no RDMA device")
    advice = "ulimit -l unlimited; /etc/security/limits.conf: memlock unlimited; containers: --ulimit memlock=-1"
    return Finding("memlock", "failed", f"{found}: larger pools cannot be registered with an RDMA device", advice)


def check_verbs() -> Finding:
    try:
        verbs = ctypes.CDLL("libibverbs.so.1", use_errno=True)
    except OSError as error:
        return Finding("libibverbs", "missing", str(error), "apt-get install libibverbs1 ibverbs-providers")
    count = ctypes.c_int()
    verbs.ibv_get_device_list.restype = ctypes.c_void_p
    devices = verbs.ibv_get_device_list(ctypes.byref(count))
    if devices:
        verbs.ibv_free_device_list(ctypes.c_void_p(devices))
    kernel = [nic.name for nic in topology.read_nics(Path("/"))]
    if not kernel:
        return Finding(
            "libibverbs",
            "missing",
            "loaded; the kernel has no RDMA device",
            "a NIC with its driver, or Soft-RoCE: modprobe rdma_rxe",
        )
    if count.value < len(kernel):
        advice = "apt-get install ibverbs-providers; containers: --device=/dev/infiniband"
        return Finding("libibverbs", "failed", f"shows {count.value} of {', '.join(kernel)}", advice)
    return Finding("libibverbs", "ok", ", ".join(kernel))


def check_rdma_access() -> Finding:
    files = sorted(Path("/dev/infiniband").glob("uverbs*"))
    nics = topology.read_nics(Path("/"))
    if not nics:
        return Finding("RDMA ports", "missing", "no RDMA device")
    closed = [file.name for file in files if not os.access(file, os.R_OK | os.W_OK)]
    if not files or closed:
        found = f"no access to {', '.join(closed) or '/dev/infiniband'}"
        return Finding(
            "RDMA ports", "failed", found, "containers: --device=/dev/infiniband; else chmod 666 /dev/infiniband/*"
        )
    ports = [f"{nic.name}/{port.number} {port.state}" for nic in nics for port in nic.ports]
    if not any(port.state == "ACTIVE" for nic in nics for port in nic.ports):
        return Finding(
            "RDMA ports", "failed", ", ".join(ports), "plug in the cable, or ip link set up; see `rdma link`"
        )
    return Finding("RDMA ports", "ok", ", ".join(ports))


def check_cuda() -> Finding:
    gpus = topology.read_gpus(Path("/"))
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        advice = "install NVIDIA's driver; containers: --gpus all" if gpus else ""
        return Finding("CUDA", "failed" if gpus else "missing", str(error), advice)
    version, count = ctypes.c_int(), ctypes.c_int()
    status = cuda.cuInit(0)
    if status != 0:
        return Finding(
            "CUDA", "failed" if gpus else "missing", f"cuInit returned {status}", "see nvidia-smi" if gpus else ""
        )
    cuda.cuDriverGetVersion(ctypes.byref(version))
    cuda.cuDeviceGetCount(ctypes.byref(count))
    driver = f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"
    return Finding("CUDA", "ok", f"{topology.plural(count.value, 'GPU')}, driver for {driver}")


def check_gpu_direct() -> Finding:
    if not topology.read_gpus(Path("/")) or not topology.read_nics(Path("/")):
        return Finding("GPUDirect RDMA", "missing", "needs a GPU and an RDMA device")
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    opened = "Open" in topology.text_of(Path("/proc/driver/nvidia/version"))
    if release >= (5, 12) and opened:
        return Finding("GPUDirect RDMA", "ok", "by dma-buf: kernel and open driver can")
    if Path("/sys/module/nvidia_peermem").exists():
        return Finding("GPUDirect RDMA", "ok", "by nvidia-peermem")
    advice = "modprobe nvidia-peermem, or the driver's open kernel modules on Linux 5.12 or later"
    return Finding("GPUDirect RDMA", "note", "GPU memory goes through host memory", advice)


def privileged() -> bool:
    """Whether this process has CAP_SYS_PTRACE and CAP_IPC_LOCK."""
    effective = next(
        (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff")), ""
    )
    value = int(effective.split()[-1], 16) if effective else 0
    return bool(value >> 19 & 1 and value >> 14 & 1)


def chosen(options: str) -> str:
    """The bracketed one of "always [madvise] never"."""
    return options.partition("[")[2].partition("]")[0]


def field_of(file: Path, name: str) -> int:
    """The number beside `name:`; 0 when it is not there."""
    for line in topology.text_of(file).splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    return 0
