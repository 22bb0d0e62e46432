"""GB/s against block size as a PNG; needs matplotlib, which nano.transfer does not depend on."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

from nano.errors import MissingExtra

Curve = tuple[list[int], list[float]]  # block lengths in bytes, GB/s


def require_matplotlib() -> None:
    """Raises MissingExtra where it is not installed: before anything is measured for it."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtra("--plot needs matplotlib: pip install matplotlib")


def plot(curves: dict[str, Curve], title: str, out: Path) -> None:
    """One line a name. Raises MissingExtra where matplotlib is not installed."""
    require_matplotlib()
    importlib.import_module("matplotlib").use("agg")
    pyplot = importlib.import_module("matplotlib.pyplot")

    figure, axes = pyplot.subplots(figsize=(8, 5))
    for name, (lengths, values) in curves.items():
        axes.plot(lengths, values, marker="o", label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("block size, bytes")
    axes.set_ylabel("GB/s")
    axes.set_title(title)
    axes.grid(True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(out, dpi=120, bbox_inches="tight")
    pyplot.close(figure)
