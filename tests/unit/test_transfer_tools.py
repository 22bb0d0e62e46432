"""`python -m nano.transfer`: the real commands, and topologies of machines that are not this one."""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transfer_child import ENVIRONMENT

from nano.errors import InvalidInput
from nano.transfer.__main__ import target_descriptor
from nano.transfer.responder import needed, places
from nano.transfer.text import parse_size, size, table
from nano.transfer.topology import distance, read_topology


def run(*arguments: str, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "nano.transfer", *arguments],
        capture_output=True, text=True, timeout=60, check=False, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")


def pci_device(root: Path, path: str, **files: str) -> None:
    """/sys/devices/PATH with these files, and its link in /sys/bus/pci/devices."""
    folder = root / "sys/devices" / path
    write(folder, files)
    link = root / "sys/bus/pci/devices" / folder.name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(folder, link.parent))


@pytest.fixture
def two_sockets(tmp_path: Path) -> Path:
    """Two NUMA nodes: on the first a switch with a GPU and mlx5_0, and a GPU by itself; on the second mlx5_1."""
    gpu = {"vendor": "0x10de", "class": "0x030200", "device": "0x2330"}
    switch = "pci0000:00/0000:00:01.0/0000:01:00.0"
    pci_device(tmp_path, f"{switch}/0000:02:00.0/0000:03:00.0", **gpu, numa_node="0")
    pci_device(tmp_path, f"{switch}/0000:02:01.0/0000:04:00.0", vendor="0x15b3", numa_node="0", **{"class": "0x020000"})
    pci_device(tmp_path, "pci0000:00/0000:00:02.0/0000:05:00.0", **gpu, numa_node="0")
    pci_device(
        tmp_path, "pci0000:80/0000:80:01.0/0000:81:00.0", vendor="0x15b3", numa_node="1", **{"class": "0x020000"}
    )
    for name, address in (("mlx5_0", "0000:04:00.0"), ("mlx5_1", "0000:81:00.0")):
        port = f"sys/class/infiniband/{name}/ports/1"
        write(tmp_path, {
            f"sys/class/infiniband/{name}/fw_ver": "28.39.1002",
            f"{port}/state": "4: ACTIVE", f"{port}/rate": "400 Gb/sec (4X NDR)", f"{port}/link_layer": "Ethernet",
            f"{port}/gids/0": "fe80:0000:0000:0000:0000:00ff:fe00:0001", f"{port}/gid_attrs/types/0": "RoCE v2",
            f"{port}/gids/1": "0000:0000:0000:0000:0000:ffff:0a00:0001", f"{port}/gid_attrs/types/1": "IB/RoCE v1",
            f"{port}/gids/3": "0000:0000:0000:0000:0000:ffff:0a00:0001", f"{port}/gid_attrs/types/3": "RoCE v2",
            f"{port}/gid_attrs/ndevs/3": "eth2",
            f"{port}/gids/4": "0000:0000:0000:0000:0000:0000:0000:0000",
        })  # fmt: skip
        link = tmp_path / f"sys/class/infiniband/{name}/device"
        link.symlink_to(os.path.relpath((tmp_path / "sys/bus/pci/devices" / address).resolve(), link.parent))
    write(tmp_path, {"sys/class/infiniband/rxe0/ports/1/state": "1: DOWN"})
    for node, cpus in (("0", "0-63"), ("1", "64-127")):
        write(tmp_path, {
            f"sys/devices/system/node/node{node}/cpulist": cpus,
            f"sys/devices/system/node/node{node}/meminfo": f"Node {node} MemTotal:       1056768000 kB",
            f"sys/devices/system/node/node{node}/distance": "10 21" if node == "0" else "21 10",
        })  # fmt: skip
    write(tmp_path, {"proc/driver/nvidia/gpus/0000:03:00.0/information": "Model: \t\t NVIDIA H100\nIRQ: 1"})
    return tmp_path


def test_topology_reads_nodes_ports_gids_and_gpus(two_sockets: Path) -> None:
    found = read_topology(two_sockets)
    assert [(node.number, node.cpus, node.distances) for node in found.nodes] == [
        (0, "0-63", [10, 21]), (1, "64-127", [21, 10])
    ]  # fmt: skip
    assert [(nic.name, nic.pci, nic.numa) for nic in found.nics] == [
        ("mlx5_0", "0000:04:00.0", 0), ("mlx5_1", "0000:81:00.0", 1), ("rxe0", None, None)
    ]  # fmt: skip
    [port] = found.nics[0].ports
    assert (port.state, port.rate, port.link) == ("ACTIVE", "400 Gb/sec (4X NDR)", "Ethernet")
    assert [gid.index for gid in port.gids] == [0, 1, 3]
    best = port.best_gid
    assert best is not None
    assert (best.index, best.address, best.kind, best.interface) == (3, "10.0.0.1", "RoCE v2", "eth2")
    assert [(gpu.index, gpu.name, gpu.pci) for gpu in found.gpus] == [
        (0, "NVIDIA H100", "0000:03:00.0"), (1, "NVIDIA GPU 0x2330", "0000:05:00.0")
    ]  # fmt: skip
    json.dumps(found.to_json())


def test_distances_count_the_bridges_between_two_devices(two_sockets: Path) -> None:
    def between(a: str, b: str | None) -> str:
        return distance(two_sockets, a, b)

    # 02:00.0 and 02:01.0 below the switch's own 01:00.0
    assert between("0000:03:00.0", "0000:04:00.0") == "same switch, 3 bridges"
    assert between("0000:05:00.0", "0000:04:00.0") == "same root, 4 bridges"
    assert between("0000:03:00.0", "0000:81:00.0") == "across NUMA nodes"
    assert between("0000:03:00.0", "0000:03:00.0") == "same device"
    assert between("0000:03:00.0", None) == "not on PCI"
    assert between("0000:03:00.0", "0000:99:00.0") == "unknown"


def test_a_machine_without_anything_has_an_empty_topology(tmp_path: Path) -> None:
    found = read_topology(tmp_path)
    assert (found.nodes, found.nics, found.gpus, found.distances) == ([], [], [], {})


def test_topology_says_which_transport_a_pair_uses_and_why() -> None:
    found = json.loads(run("topology", "--json"))
    assert found["pair"]["transport"] == "shm"
    assert all(entry["why"] for entry in found["pair"]["transports"])
    assert found["pair"]["transports"][:2] == [
        {"transport": "cuda_ipc", "used": True, "why": "GPU memory"},
        {"transport": "shm", "used": True, "why": "the fastest of both sides"},
    ]
    assert "To this host" in run("topology")
    assert json.loads(run("topology", "--json", "--transports", "tcp"))["pair"]["transport"] == "tcp"


def test_doctor_moves_bytes_and_ends_well_where_transfers_work() -> None:
    findings = {entry["check"]: entry for entry in json.loads(run("doctor", "--json"))}
    assert findings["transfers"]["state"] == "ok"
    assert findings["shared memory"]["state"] in ("ok", "note")
    assert all(entry["advice"] for entry in findings.values() if entry["state"] in ("note", "failed"))
    assert "transfers" in run("doctor")


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_ping_measures_messages_writes_and_reads_between_two_processes(transport: str) -> None:
    found = json.loads(run("ping", "--json", "--rounds", "20", "--blocks", "64,4K", "--transports", transport))
    assert found["transport"] == transport
    assert [(entry["operation"], entry["nbytes"]) for entry in found["latencies"]][1:] == [
        ("write", 64), ("read", 64), ("write", 4096), ("read", 4096)
    ]  # fmt: skip
    assert all(0 < entry["minimum"] <= entry["median"] <= entry["p99"] for entry in found["latencies"])


def test_bench_verifies_and_prints_a_table_and_json() -> None:
    flags = ["--rounds", "2", "--blocks", "1K,1M", "--count", "64", "--size", "16M"]
    found = json.loads(run("bench", "--json", *flags))
    assert [(entry["operation"], entry["length"], entry["count"]) for entry in found["rates"]] == [
        ("write", 1024, 64), ("read", 1024, 64), ("write", 1 << 20, 8), ("read", 1 << 20, 8)
    ]  # fmt: skip
    assert all(entry["gb_per_s"] > 0 for entry in found["rates"])
    assert "every byte verified" in run("bench", *flags)


def test_ping_reaches_a_listener_by_address_and_by_descriptor_with_a_secret(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("cluster\n")
    command = [sys.executable, "-m", "nano.transfer", "ping", "--listen", "--json", "--size", "1M"]
    with subprocess.Popen(
        [*command, "--secret_file", str(secret)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=ENVIRONMENT,
    ) as listener:  # fmt: skip
        try:
            assert listener.stdout is not None
            where = json.loads(listener.stdout.readline())
            flags = ["--json", "--rounds", "5", "--secret_file", str(secret)]
            by_address = json.loads(run("ping", f"127.0.0.1:{where['port']}", *flags))
            by_descriptor = json.loads(run("ping", where["descriptor"], *flags))
            assert (by_address["transport"], by_descriptor["transport"]) == ("tcp", "shm")
            assert "secret" in run("ping", where["descriptor"], "--rounds", "5", status=1)
        finally:
            listener.terminate()
            assert listener.wait(10) == 0


def test_a_listener_beyond_loopback_must_be_allowed() -> None:
    assert "--allow_remote" in run("ping", "--listen", "--host", "0.0.0.0", status=2)


def test_wrong_arguments_are_named() -> None:
    assert "host:port" in run("ping", "nonsense", status=2)
    assert "not a descriptor" in run("ping", "00ff", status=2)
    assert "PeerLost" in run("ping", "127.0.0.1:1", status=1)
    assert "does not fit" in run("ping", "--blocks", "2M", "--size", "1M", "--rounds", "1", status=2)
    with pytest.raises(InvalidInput, match="port in"):
        target_descriptor("host:70000")


def test_a_plot_needs_matplotlib_and_says_so(tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    flags = ["bench", "--rounds", "1", "--blocks", "1K,4K", "--count", "4", "--size", "1M", "--plot", str(out)]
    if importlib.util.find_spec("matplotlib"):
        run(*flags)
        assert out.read_bytes().startswith(b"\x89PNG")
    else:
        assert "pip install matplotlib" in run(*flags, status=2)


def test_sizes_are_read_and_written_with_their_units() -> None:
    for text, value in (("4096", 4096), ("4K", 4096), ("64KiB", 65536), ("1M", 1 << 20), ("2gib", 2 << 30)):
        assert parse_size(text) == value
    assert [size(n) for n in (64, 4096, 1 << 20, 3 << 30, 1025)] == ["64 B", "4 KiB", "1 MiB", "3 GiB", "1025 B"]
    for text in ("", "0", "-1", "K", "4KK", "1.5M", "٤"):
        with pytest.raises(argparse.ArgumentTypeError):
            parse_size(text)


def test_a_table_aligns_text_left_and_numbers_right() -> None:
    assert table(["name", "n"], [("a", 1), ("bcdefg", 20)]) == "name     n\na        1\nbcdefg  20"
    assert table(["name", "n"], []) == "name  n"


def test_places_do_not_overlap_and_fit_what_is_needed() -> None:
    for n in (1, 2, 7):
        offsets = sorted(places(n, 64, 1).tolist())
        assert all(b - a >= 64 for a, b in itertools.pairwise(offsets))
        assert offsets[-1] + 64 == needed(n, 64)


def test_the_example_in_the_docs_runs() -> None:
    text = (Path(__file__).parents[2] / "docs/transfer.md").read_text()
    example = text.partition("```python\n")[2].partition("```")[0]
    assert len(example.strip().splitlines()) <= 14
    done = subprocess.run(
        [sys.executable, "-c", example], capture_output=True, text=True, timeout=60, check=False, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr
