"""A router over engines named on the command line, without a registry: `static_router.py NAME=ENGINE_INFO_JSON …`.

Prints its port once it listens. Ends with SIGTERM.
"""

from __future__ import annotations

import asyncio
import signal
import sys

import msgspec

from nano.router.config import RouterConfig
from nano.router.server import Router
from nano.wire import EngineInfo


async def _run(engines: dict[str, EngineInfo]) -> None:
    config = RouterConfig(port=0, log_level="warning")
    router = Router(config, engines, lambda port: print(port, flush=True))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, router.stop)
    await router.run()


def main() -> None:
    named = (argument.split("=", 1) for argument in sys.argv[1:])
    engines = {name: msgspec.json.decode(info, type=EngineInfo) for name, info in named}
    try:
        import uvloop
    except ImportError:
        asyncio.run(_run(engines))
    else:
        uvloop.run(_run(engines))


if __name__ == "__main__":
    main()
