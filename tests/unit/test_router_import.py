"""`import nano.router` is light."""

from __future__ import annotations

import subprocess
import sys


def test_the_router_and_the_tokenizer_import_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, nano.router.server, nano.router.__main__, nano.tokenizer\n"
        "heavy = [m for m in sys.modules if m.split('.')[0] in ('torch', 'transformers')]\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
