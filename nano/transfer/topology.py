"""What moves data on this host: RDMA ports, NUMA nodes, GPUs, and how far they are apart on PCIe; from /sys and /proc.

Nothing is opened or loaded but libcuda, and that only where /proc and /sys show no GPU. `root` is where /sys and /proc
hang, so that another machine's tree can be looked at.
"""

from __future__ import annotations

import ctypes
import ipaddress
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

NVIDIA = "0x10de"
PCI_ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]")


@dataclass
class Gid:
    index: int
    address: str  # IPv6 notation; of an IPv4 network, that address
    kind: str  # "RoCE v2", "IB/RoCE v1"
    interface: str  # of the network; empty for InfiniBand


@dataclass
class Port:
    number: int
    state: str  # "ACTIVE", "DOWN", …
    rate: str
    link: str  # "Ethernet" or "InfiniBand"
    gids: list[Gid] = field(default_factory=list)

    @property
    def best_gid(self) -> Gid | None:
        """The one that a connection would pick: RoCE v2 first, then a routable address, then the lowest index."""
        return min(self.gids, key=lambda gid: (gid.kind != "RoCE v2", link_local(gid.address), gid.index), default=None)


@dataclass
class Nic:
    name: str
    pci: str | None  # None: a software device, such as Soft-RoCE
    numa: int | None
    firmware: str
    ports: list[Port] = field(default_factory=list)


@dataclass
class Gpu:
    index: int
    name: str
    pci: str
    numa: int | None


@dataclass
class Node:
    number: int
    cpus: str
    memory_gib: float
    distances: list[int]


@dataclass
class Topology:
    nodes: list[Node]
    nics: list[Nic]
    gpus: list[Gpu]
    # [gpu pci][nic name] how far, as `distance` says
    distances: dict[str, dict[str, str]]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def read_topology(root: Path = Path("/")) -> Topology:
    nics, gpus = read_nics(root), read_gpus(root)
    distances = {gpu.pci: {nic.name: distance(root, gpu.pci, nic.pci) for nic in nics} for gpu in gpus}
    return Topology(read_nodes(root), nics, gpus, distances)


def read_nodes(root: Path) -> list[Node]:
    out = []
    for folder in root.glob("sys/devices/system/node/node[0-9]*"):
        total = re.search(r"MemTotal:\s+(\d+) kB", text_of(folder / "meminfo"))
        memory = int(total.group(1)) / (1 << 20) if total else 0.0
        distances = [int(word) for word in text_of(folder / "distance").split()]
        out.append(Node(int(folder.name[4:]), text_of(folder / "cpulist"), memory, distances))
    return sorted(out, key=lambda node: node.number)


def read_nics(root: Path) -> list[Nic]:
    out = []
    for folder in sorted(root.glob("sys/class/infiniband/*")):
        pci = (folder / "device").resolve().name if (folder / "device").exists() else ""
        address = pci if PCI_ADDRESS.fullmatch(pci) else None
        nic = Nic(folder.name, address, numa_of(folder / "device"), text_of(folder / "fw_ver"))
        for port in sorted(folder.glob("ports/*"), key=lambda path: int(path.name)):
            # "4: ACTIVE"
            state = text_of(port / "state").rpartition(": ")[2]
            nic.ports.append(
                Port(int(port.name), state, text_of(port / "rate"), text_of(port / "link_layer"), read_gids(port))
            )
        out.append(nic)
    return out


def read_gids(port: Path) -> list[Gid]:
    out = []
    for file in port.glob("gids/*"):
        value = text_of(file)
        if not value or not int(value.replace(":", ""), 16):
            continue  # an empty entry of the table
        number = int(file.name)
        kind = text_of(port / "gid_attrs" / "types" / file.name)
        out.append(Gid(number, readable_gid(value), kind, text_of(port / "gid_attrs" / "ndevs" / file.name)))
    return sorted(out, key=lambda gid: gid.index)


def readable_gid(value: str) -> str:
    address = ipaddress.IPv6Address(value)
    return str(address.ipv4_mapped or address)


def link_local(address: str) -> bool:
    return ipaddress.ip_address(address).is_link_local


def read_gpus(root: Path) -> list[Gpu]:
    """NVIDIA's, in PCI order, which is the order of CUDA_DEVICE_ORDER=PCI_BUS_ID."""
    found: dict[str, str] = {}
    for folder in root.glob("proc/driver/nvidia/gpus/*"):
        model = re.search(r"^Model:\s*(.+)$", text_of(folder / "information"), re.MULTILINE)
        found[folder.name.lower()] = model.group(1).strip() if model else "NVIDIA GPU"
    for device in root.glob("sys/bus/pci/devices/*"):
        # Class 0x0300 is VGA, 0x0302 a 3D controller.
        if text_of(device / "vendor") == NVIDIA and text_of(device / "class")[:6] in ("0x0300", "0x0302"):
            found.setdefault(device.name, f"NVIDIA GPU {text_of(device / 'device')}")
    if not found and root == Path("/"):
        found = cuda_gpus()
    return [
        Gpu(index, found[pci], pci, numa_of(root / "sys/bus/pci/devices" / pci))
        for index, pci in enumerate(sorted(found))
    ]


def cuda_gpus() -> dict[str, str]:
    """PCI address and name of what libcuda shows; nothing without it or its devices."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return {}
    count = ctypes.c_int()
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return {}
    out = {}
    for index in range(count.value):
        pci, name = ctypes.create_string_buffer(32), ctypes.create_string_buffer(128)
        if cuda.cuDeviceGetPCIBusId(pci, len(pci), index) == 0 and cuda.cuDeviceGetName(name, len(name), index) == 0:
            # libcuda writes 00000000:01:00.0 or 0000:01:00.0
            domain, rest = pci.value.decode().lower().split(":", 1)
            out[f"{domain[-4:]}:{rest}"] = name.value.decode()
    return out


def distance(root: Path, first: str, second: str | None) -> str:
    """How two PCI devices reach each other: "same device", "same switch, n bridges", "same root, n bridges", "same NUMA
    node" or "across NUMA nodes"; "not on PCI" for a software device, "unknown" where /sys does not show one.
    """
    if second is None:
        return "not on PCI"
    a, b = (pci_path(root, address) for address in (first, second))
    if not a or not b:
        return "unknown"
    if a[-1].split(".")[0] == b[-1].split(".")[0]:
        return "same device"  # perhaps two functions of it
    shared = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    # Each entry is a bridge but the first (the root complex) and the last (the device).
    bridges = len(a) + len(b) - 2 * shared - 2 + (1 if shared > 1 else 0)
    if shared > 1:
        return f"same switch, {plural(bridges, 'bridge')}"
    if shared == 1:
        return f"same root, {plural(bridges, 'bridge')}"
    nodes = [numa_of(root / "sys/bus/pci/devices" / address) for address in (first, second)]
    return "same NUMA node" if nodes[0] is not None and nodes[0] == nodes[1] else "across NUMA nodes"


def pci_path(root: Path, address: str) -> list[str]:
    """["pci0000:00", bridge, …, address] from the root complex down; empty when it is not there."""
    link = root / "sys/bus/pci/devices" / address
    if not link.exists():
        return []
    parts = link.resolve().parts
    begin = next((i for i, part in enumerate(parts) if part.startswith("pci")), len(parts))
    return list(parts[begin:])


def numa_of(device: Path) -> int | None:
    """None: the machine does not say."""
    value = text_of(device / "numa_node")
    return int(value) if value.isdigit() else None


def text_of(file: Path) -> str:
    """What is in a file of /sys or /proc; nothing when it cannot be read, as when a port has no such entry."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
