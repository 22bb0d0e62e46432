"""`python -m nano.serve`: a whole system on this machine."""

from __future__ import annotations

import importlib.util
import sys

from nano.errors import InvalidInput, MissingExtra, NanoError

# What the processes that run together import; each is asked for by its module's name.
NEEDED = (
    "msgspec", "redis", "hiredis", "granian", "zmq", "torch", "safetensors", "huggingface_hub", "tokenizers", "jinja2",
    "prometheus_client",
)  # fmt: skip


def missing() -> list[str]:
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def main(arguments: list[str]) -> int:
    from nano.serve.options import parse

    try:
        options = parse(arguments)
        absent = missing()
        if absent:
            raise MissingExtra(f"packages are missing ({', '.join(absent)}): pip install 'nano-serve[all]'")
        from nano.serve.launcher import Launcher

        return Launcher(options).run()
    except (InvalidInput, MissingExtra) as error:
        print(f"python -m nano.serve: {error}", file=sys.stderr)
        return 2
    except NanoError as error:
        print(f"python -m nano.serve: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
