"""Run in an environment with one extra: its part imports and works, and what must not be there is not."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

MUST_NOT_BE_INSTALLED = {
    "none": ["torch", "transformers", "zmq", "redis", "granian", "msgspec", "tokenizers"],
    "dlslime": ["torch", "transformers", "zmq", "redis", "granian", "msgspec", "tokenizers"],
    "nanoctrl": ["torch", "transformers", "zmq", "tokenizers"],
    "nanoroute": ["torch", "transformers"],
    "nanodeploy": ["transformers", "openai"],
}
# Imported by the part, though perhaps installed for another.
MUST_NOT_BE_IMPORTED = {
    "dlslime": ["torch", "redis", "zmq"],
    "nanoctrl": ["torch", "transformers", "zmq"],
    "nanoroute": ["torch", "transformers"],
    "nanodeploy": ["transformers", "zmq", "redis"],
}


def transfer() -> None:
    import numpy as np

    from nano.transfer import Endpoint

    with Endpoint("a") as a, Endpoint("b") as b:
        source, target = a.allocate(4096, "x"), b.allocate(4096, "y")
        source.array[:] = 7
        offsets = np.zeros(1, np.int64)
        a.connect(b.descriptor()).write(source, "y", offsets, offsets, 4096).wait(5.0)
        assert (np.asarray(target.array) == 7).all()
        source.close()
        target.close()


def ctrl() -> None:
    import nano.ctrl

    assert nano.ctrl.connect


def router() -> None:
    import nano.router.__main__  # noqa: F401


def engine() -> None:
    import nano.engine.engine
    from nano import LLM

    assert LLM
    assert nano.engine.engine.Engine


def none() -> None:
    import nano._core

    assert all(value == 0 for value in nano._core.counters().values())
    done = subprocess.run([sys.executable, "-m", "nano.serve"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, f"nano.serve without extras: expected exit 2, got {done.returncode}: {done.stderr}"
    assert "pip install" in done.stderr + done.stdout, done.stderr
    assert "Traceback" not in done.stderr, done.stderr


extra = sys.argv[1]
for name in MUST_NOT_BE_INSTALLED[extra]:
    assert importlib.util.find_spec(name) is None, f"extra {extra} brought {name}"
{"none": none, "dlslime": transfer, "nanoctrl": ctrl, "nanoroute": router, "nanodeploy": engine}[extra]()
loaded = [name for name in MUST_NOT_BE_IMPORTED.get(extra, []) if name in sys.modules]
assert not loaded, f"extra {extra}: importing its part imported {loaded}"
print(f"extra {extra}: ok")
