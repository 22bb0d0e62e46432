"""Emulated cables between two RDMA devices, which can be cut and slowed; and what a device has sent."""

from __future__ import annotations

import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parent / "guest" / "wire.sh"


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)


class Wire:
    """Devices `rxe_<name>a` and `rxe_<name>b` on the two ends of one cable, 10.<subnet>.0.1 and .2."""

    def __init__(self, name: str, subnet: int) -> None:
        self.netdevs = f"{name}a", f"{name}b"
        self.left, self.right = (f"rxe_{netdev}" for netdev in self.netdevs)
        if not Path(f"/sys/class/infiniband/{self.left}").exists():
            run("sh", str(SCRIPT), *self.netdevs, f"10.{subnet}.0")

    def rule(self, *netem: str, ends: tuple[int, ...] = (0, 1)) -> None:
        """What tc's netem does to the packets that leave these ends: "loss", "100%"."""
        for end in ends:
            run("tc", "qdisc", "replace", "dev", self.netdevs[end], "root", "netem", *netem)

    def cut(self) -> None:
        """Silently: nothing arrives any more, and nobody is told."""
        self.rule("loss", "100%")

    def heal(self) -> None:
        for netdev in self.netdevs:
            subprocess.run(["tc", "qdisc", "del", "dev", netdev, "root"], capture_output=True, check=False, timeout=30)


def packets(device: str) -> int:
    """How many the device has sent so far."""
    return int(Path(f"/sys/class/infiniband/{device}/ports/1/hw_counters/sent_pkts").read_text())
