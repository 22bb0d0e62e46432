"""Throughput against concurrency and histograms of the gaps between tokens, as PNG, of JSON that a benchmark wrote.

    python bench/engine/plot.py bench/results/engine_gpu.json [more.json …] [--out DIR]

Benchmarks where GPUs are often have no matplotlib; this can run elsewhere, later.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from nano.errors import InvalidInput, MissingExtra
from nano.transfer.plot import require_matplotlib

COLUMNS = 3  # of histograms side by side


def points_of(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Every point of a file: those of bench/engine/gpu_disagg.py lie at its top, those of gpu.py under each model."""
    found = list(results.get("points", []))
    for value in results.values():
        if isinstance(value, dict):
            found += value.get("points", [])
    return found


def throughput(pyplot: Any, points: list[dict[str, Any]], title: str) -> Any:
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for series in dict.fromkeys(p["series"] for p in points):
        mine = sorted((p["concurrency"], p["tok_s"]) for p in points if p["series"] == series)
        axes.plot(*zip(*mine, strict=True), marker="o", label=series)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("requests at a time")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_minor_formatter("{x:,.0f}")
    axes.tick_params(axis="y", which="minor", labelsize=7)
    axes.set_ylabel("output tokens a second")
    axes.set_title(title)
    axes.grid(True, which="both", alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def histograms(pyplot: Any, points: list[dict[str, Any]], title: str) -> Any:
    """A panel for each concurrency (or rate); in it a line for each series, as shares of its gaps."""
    panels = sorted({(p["rate"], p["concurrency"]) for p in points})
    rows = -(-len(panels) // COLUMNS)
    figure, grid = pyplot.subplots(
        rows, min(COLUMNS, len(panels)), figsize=(4 * min(COLUMNS, len(panels)), 3 * rows), squeeze=False
    )
    for axes, (rate, concurrency) in zip(grid.flat, panels, strict=False):
        used: list[float] = []
        for p in points:
            if (p["rate"], p["concurrency"]) != (rate, concurrency):
                continue
            edges, counts = p["itl_edges_ms"], p["itl_counts"]
            share = [count / max(sum(counts), 1) for count in counts]
            axes.stairs(share, edges, label=p["series"])
            used += [edge for edge, count in zip(edges, counts, strict=False) if count]
        axes.set_xscale("log")
        axes.set_yscale("log")
        if used:
            axes.set_xlim(min(used) / 1.5, max(used) * 1.5)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_title(f"{concurrency} at a time" if concurrency else f"{rate:g} a second", fontsize=9)
        axes.grid(True, alpha=0.3)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    grid[0][0].legend(fontsize=7)
    figure.supxlabel("ms between tokens")
    figure.supylabel("share of the gaps")
    figure.suptitle(title)
    figure.tight_layout()
    return figure


def draw(file: Path, out: Path) -> list[Path]:
    """Writes NAME_throughput.png and NAME_itl.png. Raises MissingExtra, or InvalidInput where there is no point."""
    require_matplotlib()
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    results = json.loads(file.read_text(encoding="utf-8"))
    points = points_of(results)
    if not points:
        raise InvalidInput(
            f'{file}: no points to draw: run bench/engine/gpu.py with the cell "sweep", or gpu_disagg.py'
        )
    out.mkdir(parents=True, exist_ok=True)
    title = str(results.get("device", ""))
    figures = {"itl": histograms(pyplot, points, title)}
    if closed := [p for p in points if p["concurrency"]]:
        figures["throughput"] = throughput(pyplot, closed, title)
    written = []
    for kind, figure in figures.items():
        written.append(out / f"{file.stem}_{kind}.png")
        figure.savefig(written[-1], dpi=80)
        pyplot.close(figure)
        print(f"written: {written[-1]}")
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("."))
    flags = parser.parse_args()
    try:
        for file in flags.results:
            draw(file, flags.out)
    except (MissingExtra, InvalidInput) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
