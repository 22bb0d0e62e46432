"""The model that ships with nano, and checkpoints of random weights in any Qwen3 shape."""

from __future__ import annotations

from pathlib import Path


def path() -> Path:
    """The demo model's Hugging Face directory: config, tokenizer and bf16 safetensors."""
    return Path(__file__).resolve().parent
