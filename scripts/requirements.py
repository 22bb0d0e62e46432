"""Prints what the `dev` extra of pyproject.toml needs, with nano-serve's references to its own extras resolved."""

from __future__ import annotations

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]


def resolve(extra: str) -> set[str]:
    out: set[str] = set()
    for requirement in project["optional-dependencies"][extra]:
        own = re.fullmatch(r"nano-serve\[(.*)\]", requirement)
        if own:
            for name in own[1].split(","):
                out |= resolve(name)
        else:
            out.add(requirement)
    return out


wanted = set(project["dependencies"]) | resolve("dev")
print("\n".join(sorted(r for r in wanted if not r.startswith("torch>"))))
