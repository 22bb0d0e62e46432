"""`python -m nano.ctrl --port 3000 --redis_url redis://…`: the registry as an HTTP service."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys

from nano.cli import add_flag, refuse_exposed
from nano.errors import InvalidInput, MissingExtra, NanoError


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m nano.ctrl", description=__doc__)
    add_flag(parser, "port", type=int, default=3000, help="port to listen on (default 3000)")
    add_flag(parser, "host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    add_flag(parser, "redis_url", help="redis://, rediss:// or unix:// address; without it, a private Redis is started")
    add_flag(parser, "timeout", type=float, default=5.0, help="seconds that Redis may take to answer (default 5)")
    add_flag(parser, "log_level", default="INFO", type=str.upper, help="DEBUG, INFO, WARNING or ERROR (default INFO)")
    add_flag(
        parser,
        "allow_remote",
        action="store_true",
        help="listen beyond this machine although everybody who reaches the port may then register services",
    )
    args = parser.parse_args(argv)
    logging.basicConfig(level=args.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(_run(args))
    except MissingExtra as error:
        print(error, file=sys.stderr)
        return 2
    except InvalidInput as error:
        print(f"python -m nano.ctrl: {error}", file=sys.stderr)
        return 2
    except NanoError as error:
        print(f"python -m nano.ctrl: {error}", file=sys.stderr)
        return 1
    return 0


async def _run(args: argparse.Namespace) -> None:
    try:
        from granian.constants import Interfaces
        from granian.server.embed import Server

        from nano.ctrl.redis_errors import printable
        from nano.ctrl.service import Service
    except ImportError as error:
        raise MissingExtra(f"nano.ctrl needs more packages ({error}): pip install 'nano-serve[nanoctrl]'") from error
    from nano.ctrl.embedded import EmbeddedRedis
    from nano.ctrl.ports import check_free

    refuse_exposed(args.host, args.allow_remote)
    check_free(args.host, args.port)
    with contextlib.ExitStack() as stack:
        redis_url = args.redis_url or stack.enter_context(EmbeddedRedis()).url
        service = Service(redis_url, args.timeout)
        stack.callback(service.close)
        # One process: granian's embedded server runs on this event loop.
        server = Server(service, args.host, args.port, interface=Interfaces.RSGI, websockets=False, log_enabled=False)
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopped.set)
        serving = asyncio.ensure_future(server.serve())
        stopping = asyncio.ensure_future(stopped.wait())
        print(f"registry on http://{args.host}:{args.port}, Redis at {printable(redis_url)}", flush=True)
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        await asyncio.to_thread(service.end_watches)
        server.stop()  # type: ignore[no-untyped-call]
        stopping.cancel()
        await serving


if __name__ == "__main__":
    sys.exit(main())
