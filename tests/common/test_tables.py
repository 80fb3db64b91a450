"""lib/common/tables.py: numbers and tables as readers see them."""

import pytest
from IPython.core.formatters import DisplayFormatter

from lib.common import tables


def entry(value, low=None, high=None, unit="", n=1000):
    found = {"value": value, "unit": unit, "n": n}
    return found if low is None else found | {"low": low, "high": high}


@pytest.mark.parametrize(
    "given, text",
    [
        (entry(25.1234, 25.0, 25.2, "dB"), "25.12 [25.00, 25.20] dB"),
        (entry(25.1234, 25.09, 25.151, "dB"), "25.123 [25.090, 25.151] dB"),
        (entry(25.1234, 25.12, 25.128, "dB"), "25.1234 [25.1200, 25.1280] dB"),
        (entry(1234.5, 1000, 2000), "1,234.50 [1,000.00, 2,000.00]"),
        (entry(2.5, 2.5, 2.5, "px"), "2.50 px"),
        (entry(10_000), "10,000"),
        (entry(3.0, unit="%"), "3 %"),
        (entry(12.345), "12.35"),
        (entry(-0.12345), "-0.1235"),
        (entry(5.2e-8), "5.2e-08"),
        (entry(0), "0"),
    ],
)
def test_digits_follow_the_size_of_the_interval(given, text):
    assert tables.measured(given) == text
    assert tables.number(given) == f"{text} (n = 1,000)"


def test_no_entry_is_a_dash():
    assert tables.number({}) == "–"


def test_a_table_is_aligned_markdown():
    table = tables.Table(["method", "dB"], [["ours", 25], ["a blur", "18 to 20"]])
    assert str(table).splitlines() == [
        "| method | dB       |",
        "| ------ | -------- |",
        "| ours   | 25       |",
        "| a blur | 18 to 20 |",
    ]


def test_a_notebook_shows_it_as_markdown_and_as_the_same_text():
    table = tables.Table(["a"], [["b"]])
    shown, _ = DisplayFormatter().format(table)
    assert shown == {"text/markdown": str(table), "text/plain": str(table)}


def test_bars_and_line_ends_inside_a_cell_do_not_break_the_table():
    lines = str(tables.Table(["a"], [["x|y\nz"]])).splitlines()
    assert len(lines) == 3
    assert lines[-1] == r"| x\|y z |"


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="a row of 1 cells under 2 columns"):
        tables.Table(["a", "b"], [["only"]])
