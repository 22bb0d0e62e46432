"""Another process with an endpoint and device memory: `with peer(...) as (endpoint's descriptor, ask)`."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

TIMEOUT = 60.0


def _child(
    pipe: Connection, transports: list[str] | None, setup: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    from nano.transfer import Endpoint

    try:
        with Endpoint("child", transports=transports) as endpoint:
            state = setup(endpoint, *arguments)
            pipe.send(("ok", endpoint.descriptor()))
            while (request := pipe.recv()) is not None:
                call, rest = request
                pipe.send(("ok", call(endpoint, state, *rest)))
    except EOFError:
        pass
    except BaseException:
        pipe.send(("error", traceback.format_exc()))


class Peer:
    def __init__(self, process: Any, pipe: Connection) -> None:
        self.process, self._pipe = process, pipe
        self.descriptor: bytes = self._answer()

    def _answer(self) -> Any:
        if not self._pipe.poll(TIMEOUT):
            raise TimeoutError("the child says nothing")
        kind, value = self._pipe.recv()
        if kind == "error":
            raise AssertionError(value)
        return value

    def ask(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """call(endpoint, state, *arguments) there."""
        self.post(call, *arguments)
        return self._answer()

    def post(self, call: Callable[..., Any], *arguments: Any) -> None:
        self._pipe.send((call, arguments))


@contextmanager
def peer(setup: Callable[..., Any], *arguments: Any, transports: list[str] | None = None) -> Iterator[Peer]:
    """A spawned process that runs state = setup(endpoint, *arguments) and then what it is asked."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_child, args=(theirs, transports, setup, arguments))
    process.start()
    theirs.close()
    try:
        child = Peer(process, mine)
        yield child
        if process.is_alive():
            mine.send(None)
    finally:
        process.join(10)
        if process.is_alive():
            process.kill()
            process.join(10)
        mine.close()
