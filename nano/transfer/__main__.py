"""`python -m nano.transfer topology | ping | bench | doctor`: what this host can do, and how fast it does it."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nano._core.transfer import Endpoint, Peer, address_descriptor
from nano.cli import add_flag, refuse_exposed
from nano.errors import InvalidInput, MissingExtra, NanoError
from nano.transfer.doctor import examine
from nano.transfer.measure import latencies, rates
from nano.transfer.plot import plot, require_matplotlib
from nano.transfer.responder import Far, Responder, local_responder, stop_on_signals
from nano.transfer.text import parse_size, parse_sizes, size, table
from nano.transfer.topology import read_topology


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    try:
        status: int = args.run(args)
    except (MissingExtra, InvalidInput) as error:
        print(f"python -m nano.transfer {args.command}: {error}", file=sys.stderr)
        return 2
    except NanoError as error:
        print(f"python -m nano.transfer {args.command}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return status


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m nano.transfer", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    topology = commands.add_parser(
        "topology", help="RDMA ports, NUMA nodes, GPUs, and which transport a pair would use"
    )
    topology.set_defaults(run=run_topology)
    add_target(topology, "an endpoint to say the transport to: hex descriptor or host:port (default: one of this host)")

    ping = commands.add_parser("ping", help="latency between two processes or hosts")
    ping.set_defaults(run=run_ping)
    add_target(ping, "hex descriptor or host:port of a `ping --listen` (default: a process of this host)")
    add_flag(ping, "listen", action="store_true", help="be the far side, for ping and bench, until interrupted")
    add_flag(ping, "host", default="127.0.0.1", help="with --listen: address to listen on (default 127.0.0.1)")
    add_flag(ping, "port", type=int, default=0, help="with --listen: port (default: a free one)")
    add_flag(ping, "allow_remote", action="store_true", help="with --listen: let other machines in (see --secret_file)")
    add_flag(ping, "size", type=parse_size, default=256 << 20, help="with --listen: bytes of the region (default 256M)")
    ping.add_argument("--child", action="store_true", help=argparse.SUPPRESS)  # ends with its standard input
    add_flag(ping, "blocks", type=parse_sizes, default=[64, 4096, 65536], help="block sizes (default 64,4K,64K)")
    add_flag(ping, "rounds", type=int, default=1000, help="operations a figure (default 1000)")

    bench = commands.add_parser("bench", help="bandwidth of many scattered blocks, verified")
    bench.set_defaults(run=run_bench)
    add_target(bench, "hex descriptor or host:port of a `ping --listen` (default: a process of this host)")
    blocks = [1 << 10, 4 << 10, 16 << 10, 64 << 10, 1 << 20]
    add_flag(bench, "blocks", type=parse_sizes, default=blocks, help="block sizes (default 1K,4K,16K,64K,1M)")
    add_flag(bench, "count", type=int, default=1024, help="blocks an operation, as far as they fit (default 1024)")
    add_flag(bench, "rounds", type=int, default=20, help="operations a figure (default 20)")
    add_flag(
        bench, "size", type=parse_size, default=256 << 20, help="bytes of the local far side's region (default 256M)"
    )
    add_flag(bench, "streams", type=int, help="TCP sockets of the connection (default: 1 on one host, else 4)")
    add_flag(bench, "plot", type=Path, help="write GB/s against block size to this PNG (needs matplotlib)")

    doctor = commands.add_parser("doctor", help="what works here, and what to change where it does not")
    doctor.set_defaults(run=run_doctor)
    for command in (topology, ping, bench, doctor):
        add_flag(command, "json", action="store_true", help="print JSON")
    for command in (topology, ping, bench):
        add_flag(command, "secret_file", type=Path, help="file that holds the cluster's secret")
    return parser.parse_args(argv)


def add_target(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("target", nargs="?", help=what)
    add_flag(parser, "transports", help="comma-separated, to choose among (default: all)")
    add_flag(parser, "timeout", type=float, default=10.0, help="seconds that the other side may take (default 10)")


def run_topology(args: argparse.Namespace) -> int:
    found = read_topology()
    with open_endpoint("topology", args) as endpoint:
        if args.target:
            peer = endpoint.connect(target_descriptor(args.target), args.timeout, names_of(args.transports))
            pair = describe_pair(peer)
        else:
            with Endpoint("this host", secret=secret_of(args)) as other:
                pair = describe_pair(endpoint.connect(other.descriptor(), args.timeout, names_of(args.transports)))
    if args.json:
        print(json.dumps(found.to_json() | {"pair": pair}, indent=2))
        return 0
    rows: list[Sequence[object]] = [
        (node.number, node.cpus, node.memory_gib, " ".join(map(str, node.distances))) for node in found.nodes
    ]
    section("NUMA nodes", ["node", "CPUs", "GiB", "distances"], rows)
    rows = []
    for nic in found.nics:
        for port in nic.ports:
            best = port.best_gid
            gid = f"{best.index}: {best.address} ({best.kind})" if best else "-"
            where = nic.pci or "software"
            rows.append((nic.name, where, shown(nic.numa), port.number, port.state, port.rate, port.link, gid))
    section("RDMA ports", ["device", "PCI", "node", "port", "state", "rate", "link", "GID that would be used"], rows)
    rows = [(gpu.index, gpu.name, gpu.pci, shown(gpu.numa)) for gpu in found.gpus]
    section("GPUs", ["GPU", "name", "PCI", "node"], rows)
    if found.gpus and found.nics:
        rows = [(gpu.index, *(found.distances[gpu.pci][nic.name] for nic in found.nics)) for gpu in found.gpus]
        section("GPU to RDMA device", ["GPU", *(nic.name for nic in found.nics)], rows)
    rows = [(entry["transport"], "yes" if entry["used"] else "no", entry["why"]) for entry in pair["transports"]]
    section(f"To {pair['peer']}", ["transport", "used", "why"], rows)
    return 0


def describe_pair(peer: Peer) -> dict[str, Any]:
    """Which transports the pair uses, for what, and why not the others."""
    uses = {peer.transport: "the fastest of both sides", "cuda_ipc": "GPU memory"}
    entries = []
    for name, why_not in peer.transports:
        why = why_not or uses.get(name, "what faster ones do not reach")
        entries.append({"transport": name, "used": not why_not, "why": why})
    return {"peer": peer.name, "transport": peer.transport, "transports": entries}


def run_ping(args: argparse.Namespace) -> int:
    if args.listen:
        return listen(args)
    if args.rounds < 1:
        raise InvalidInput(f"--rounds must be at least 1, got {args.rounds}")
    with far_side(args) as (endpoint, far):
        found = latencies(endpoint, far, args.blocks, args.rounds)
        transport, name = far.peer.transport, far.peer.name
    if args.json:
        print(
            json.dumps(
                {"peer": name, "transport": transport, "latencies": [entry.to_json() for entry in found]}, indent=2
            )
        )
        return 0
    rows = [(entry.operation, size(entry.nbytes), entry.minimum, entry.median, entry.p99) for entry in found]
    section(f"{name} by {transport}, us", ["operation", "size", "min", "p50", "p99"], rows)
    return 0


def listen(args: argparse.Namespace) -> int:
    refuse_exposed(args.host, args.allow_remote)
    if args.child:
        logging.getLogger("nano.transfer").setLevel(logging.ERROR)  # its one peer leaves when it is done
    with open_endpoint("responder", args, host=args.host, port=args.port, insecure=args.allow_remote) as endpoint:
        responder = Responder(endpoint, args.size)
        stop_on_signals(responder)
        descriptor = endpoint.descriptor().hex()
        if args.json:
            print(json.dumps({"host": args.host, "port": endpoint.port, "descriptor": descriptor}), flush=True)
        else:
            print(f"listening on {args.host}:{endpoint.port}; on this host: {descriptor}", flush=True)
        responder.serve(sys.stdin if args.child else None)
    return 0


def run_bench(args: argparse.Namespace) -> int:
    if args.rounds < 1 or args.count < 1:
        raise InvalidInput(f"--rounds and --count must be at least 1, got {args.rounds} and {args.count}")
    if args.plot:
        require_matplotlib()
    with far_side(args) as (endpoint, far):
        found = rates(endpoint, far, args.blocks, args.count, args.rounds)
        transport, name = far.peer.transport, far.peer.name
    if args.json:
        print(
            json.dumps({"peer": name, "transport": transport, "rates": [entry.to_json() for entry in found]}, indent=2)
        )
    else:
        rows = [
            (entry.operation, size(entry.length), entry.count, entry.microseconds, entry.gb_per_s) for entry in found
        ]
        section(f"{name} by {transport}, every byte verified", ["operation", "block", "count", "us", "GB/s"], rows)
    if args.plot:
        curves = {}
        for operation in ("write", "read"):
            chosen = [entry for entry in found if entry.operation == operation]
            curves[operation] = [entry.length for entry in chosen], [entry.gb_per_s for entry in chosen]
        plot(curves, f"nano.transfer by {transport}", args.plot)
        print(f"written: {args.plot}", file=sys.stderr)
    return 0


def run_doctor(args: argparse.Namespace) -> int:
    """Returns 1 when something failed that should work; hardware that is not there is no failure."""
    findings = examine()
    if args.json:
        print(json.dumps([finding.to_json() for finding in findings], indent=2))
    else:
        print(table(["check", "state", "found"], [(entry.check, entry.state, entry.found) for entry in findings]))
        advice = [f"{entry.check}: {entry.advice}" for entry in findings if entry.advice]
        print("\n".join(["", "what to do", *advice]) if advice else "\nnothing to do")
    return int(any(finding.state == "failed" for finding in findings))


@contextlib.contextmanager
def far_side(args: argparse.Namespace) -> Iterator[tuple[Endpoint, Far]]:
    """An endpoint of this process, connected to the responder that the flags name or to one started for it."""
    with contextlib.ExitStack() as stack:
        if args.target:
            descriptor = target_descriptor(args.target)
        else:
            descriptor = stack.enter_context(local_responder(args.size, args.secret_file))
        endpoint = stack.enter_context(open_endpoint("prober", args, streams=getattr(args, "streams", None)))
        yield endpoint, Far(endpoint, descriptor, names_of(args.transports), args.timeout)


def open_endpoint(name: str, args: argparse.Namespace, **options: Any) -> Endpoint:
    return Endpoint(name, secret=secret_of(args), **options)


def secret_of(args: argparse.Namespace) -> bytes | None:
    if args.secret_file is None:
        return None
    try:
        secret: bytes = args.secret_file.read_bytes().strip()
    except OSError as error:
        raise InvalidInput(f"--secret_file: {error}") from error
    return secret


def target_descriptor(target: str) -> bytes:
    """From a hex descriptor, or from host:port, which reaches the endpoint by its TCP port."""
    with contextlib.suppress(ValueError):
        return bytes.fromhex(target)
    host, colon, port = target.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit():
        raise InvalidInput(f"expected a hex descriptor or host:port, got {target!r}")
    return address_descriptor(host.strip("[]"), int(port))


def names_of(transports: str | None) -> list[str] | None:
    return transports.split(",") if transports else None


def section(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    print(f"\n{title}\n{table(columns, rows) if rows else 'none'}")


def shown(value: int | None) -> str:
    return "-" if value is None else str(value)


if __name__ == "__main__":
    sys.exit(main())
