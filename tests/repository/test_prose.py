"""The prose of the notebooks: a number with the unit of a result is one that was announced or set, never a measured one.

What is measured is shown by cells, which compute it again. What was announced stands in claims.yaml, what was set in
params.yaml or in the code of the notebook.
"""

import ast
import re

import pytest
import yaml
from imports import NOTEBOOKS, ROOT, cells, tree

UNITS = r"dB|bpc|bits|nats|ms|%|seconds|minutes|hours|steps|epochs|times"
QUANTITY = re.compile(rf"(?<![\w.,])(\d[\d,]*(?:\.\d+)?) (?:{UNITS})(?!\w)")
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")
# Intervals of 95 %, a whole of 100 %, and less than 1 % of repeated runs, which is the limit that lib/language sets.
FIXED = {95.0, 100.0, 1.0}
# -20 log10(0.18) = 14.9, arithmetic that stands in the sentence.
DERIVED = {"01_data_verification": {15.0}}


def value(text: str) -> float:
    return float(text.replace(",", ""))


def numbers_of(text: str) -> set[float]:
    return {value(found) for found in NUMBER.findall(text)}


def announced() -> set[float]:
    """Every number of the ledger: in an announcement, in the text of a test, or as a bound of a rule."""
    found = set()
    for claim in yaml.safe_load((ROOT / "claims.yaml").read_text(encoding="utf-8"))["claims"]:
        found |= numbers_of(f"{claim['announced']} {claim['test']} {claim['rule']}")
    return found


def set_in_params() -> set[float]:
    return numbers_of((ROOT / "params.yaml").read_text(encoding="utf-8"))


def set_in_code(path) -> set[float]:
    """Every number that the notebook's own code names."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            found.add(float(node.value))
    return found


def typed(text: str) -> list[str]:
    """Numbers with the unit of a result, outside of code, formulas and tables of what is cited."""
    if "Cited" in text:
        text = re.sub(r"^\|.*\|$", "", text, flags=re.MULTILINE)
    text = re.sub(r"`[^`]*`|\$[^$]*\$", "", text)
    return QUANTITY.findall(text)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_measured_number_is_typed_into_prose(path):
    known = announced() | set_in_params() | set_in_code(path) | FIXED
    known |= DERIVED.get(path.stem, set())
    found = []
    for text in cells(path, "markdown"):
        found += [number for number in typed(text) if value(number) not in known]
    assert not found


def test_what_this_looks_for_is_found():
    assert typed("It took 1,200 steps and gave 25.13 dB, `3 dB` of them.") == ["1,200", "25.13"]
    assert typed("Cited:\n| a network | 25.93 dB |\nand ours 24.1 dB") == ["24.1"]
    assert 2400.0 in set_in_params()
    assert 25.12 in announced()
