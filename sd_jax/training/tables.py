"""Amounts and small tables as text, for what a run says about itself at its start."""

from __future__ import annotations

from collections.abc import Sequence


def bytes_text(count: float | int) -> str:
    """Returns "5.09 GiB"; in powers of 1024, as drivers count memory.

    Args:
      count: bytes.
    """
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(count) >= size:
            return f"{_three_digits(count / size)} {unit}"
    return f"{count:.0f} B"


def count_text(count: float | int) -> str:
    """Returns "1.37 billion" or "860 million", plain digits below a million.

    Args:
      count: of parameters.
    """
    for unit, size in (("billion", 1e9), ("million", 1e6)):
        if abs(count) >= size:
            return f"{_three_digits(count / size)} {unit}"
    return f"{count:,.0f}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Returns rows as lines of a table; the first column on the left, the others on the right.

    Args:
      rows: of as many cells each; those without a value are "".
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _three_digits(value: float | int) -> str:
    return f"{value:.{2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0}f}"
