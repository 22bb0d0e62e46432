"""nano: disaggregated LLM serving. Each part is a subpackage and is imported only when it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from nano.llm import LLM as LLM
    from nano.sampling import SamplingParams as SamplingParams

_LAZY = {"LLM": "nano.llm", "SamplingParams": "nano.sampling"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'nano' has no attribute {name!r}")
