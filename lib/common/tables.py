"""How readers see numbers and tables: digits follow the size of the interval, tables are Markdown."""

import math
from collections.abc import Iterable, Sequence
from typing import Any


class Table:
    """A table that shows itself as Markdown in a notebook, and as the same aligned text in a terminal.

    Args:
        columns: C titles.
        rows: rows of C cells each; a cell is text already, or anything that `str` writes well.

    Raises:
        ValueError: a row has more or fewer cells than there are columns.
    """

    def __init__(self, columns: Sequence[str], rows: Iterable[Sequence[Any]]):
        self.columns = [str(column) for column in columns]
        self.rows = []
        for row in rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"a row of {len(row)} cells under {len(self.columns)} columns: {row}"
                )
            self.rows.append([str(cell) for cell in row])

    def __str__(self) -> str:
        lines = [_escape(row) for row in [self.columns, *self.rows]]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        rule = ["-" * width for width in widths]
        lines.insert(1, rule)
        return "\n".join(_align(line, widths) for line in lines)

    __repr__ = __str__  # text/plain of an executed cell: what nbval compares

    def _repr_markdown_(self) -> str:
        return str(self)


def number(entry: dict[str, Any]) -> str:
    """A metric as readers see it, alone: value, interval, unit and n. An empty entry is a dash."""
    if not entry:
        return "–"
    return f"{measured(entry)} (n = {entry['n']:,})"


def measured(entry: dict[str, Any]) -> str:
    """Value, 95 % interval where there is one, and unit: `25.12 [25.09, 25.15] dB`."""
    value = entry["value"]
    low, high = entry.get("low", value), entry.get("high", value)
    if high > low:
        digits = digits_for(high - low)
        text = f"{value:,.{digits}f} [{low:,.{digits}f}, {high:,.{digits}f}]"
    else:
        text = single(value)
    unit = entry.get("unit", "")
    return f"{text} {unit}" if unit else text


def digits_for(width: float) -> int:
    """Decimals that show two digits of an interval's width, at least 2 and at most 4."""
    wanted = 1 - math.floor(math.log10(width))
    return min(4, max(2, wanted))


def single(value: float) -> str:
    """A number without an interval: whole numbers bare, else 2 decimals, 4 below one, a power of ten if tiny."""
    if float(value).is_integer():
        return f"{value:,.0f}"
    if abs(value) < 5e-5:
        return f"{value:.1e}"
    if abs(value) < 1:
        return f"{value:,.4f}"
    return f"{value:,.2f}"


def _escape(row: Sequence[str]) -> list[str]:
    return [cell.replace("\n", " ").replace("|", r"\|") for cell in row]


def _align(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
    return f"| {' | '.join(padded)} |"
