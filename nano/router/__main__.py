"""python -m nano.router"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Sequence

from nano.errors import NanoError
from nano.router.config import RouterConfig, parse_args


async def _run(config: RouterConfig) -> None:
    from nano.router.server import Router

    router = Router(config)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, router.stop)
    await router.run()


def main(arguments: Sequence[str]) -> int:
    config = parse_args(arguments)
    logging.basicConfig(
        level=config.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    try:
        try:
            import uvloop
        except ImportError:
            asyncio.run(_run(config))
        else:
            uvloop.run(_run(config))
    except NanoError as error:
        print(f"nano.router: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
