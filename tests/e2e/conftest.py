"""Systems that several tests of a module share, each started once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from launched import Serve

from nano.ctrl.ports import pick_free

Launch = Callable[..., Serve]


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    """Starts `python -m nano.serve` with the arguments given; all that it started end with the module."""
    started: list[Serve] = []

    def start(*arguments: str, port: int | None = None) -> Serve:
        serve = Serve(*arguments, port=port or pick_free("127.0.0.1"), temporary=tmp_path_factory.mktemp("t"))
        started.append(serve)
        return serve

    yield start
    for serve in started:
        serve.end()
