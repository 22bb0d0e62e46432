"""Plain text for the command line: tables, and sizes with their units."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Left-aligned text, right-aligned numbers; every column as wide as its widest cell."""
    cells = [[f"{value:,.2f}" if isinstance(value, float) else str(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    right = [
        bool(rows) and all(isinstance(row[i], int | float) or row[i] == "-" for row in rows)
        for i in range(len(columns))
    ]

    def line(row: Sequence[str]) -> str:
        pairs = zip(row, widths, right, strict=True)
        return "  ".join(cell.rjust(width) if end else cell.ljust(width) for cell, width, end in pairs).rstrip()

    return "\n".join(map(line, [list(columns), *cells]))


def size(nbytes: int) -> str:
    """4096 as "4 KiB"; what is no round number stays in bytes."""
    for unit in ("G", "M", "K"):
        if nbytes >= UNITS[unit] and nbytes % UNITS[unit] == 0:
            return f"{nbytes // UNITS[unit]} {unit}iB"
    return f"{nbytes} B"


def parse_size(text: str) -> int:
    """ "4K", "64KiB", "1M" or "4096" in bytes. Raises argparse.ArgumentTypeError."""
    stripped = text.strip().upper().removesuffix("IB").removesuffix("B")
    unit = stripped[-1:] if stripped[-1:] in ("K", "M", "G") else ""
    digits = stripped.removesuffix(unit)
    if not digits.isascii() or not digits.isdigit() or int(digits) == 0:
        raise argparse.ArgumentTypeError(f"expected a size such as 4096, 64K or 1M, got {text!r}")
    return int(digits) * UNITS[unit]


def parse_sizes(text: str) -> list[int]:
    """Comma-separated sizes."""
    return [parse_size(part) for part in text.split(",")]
