"""The pages that readers see first: their numbers are the committed ones, their links lead somewhere."""

import re

import pytest
from imports import ROOT

from lib.tools import readme

PAGES = [ROOT / name for name in readme.PAGES]
OTHERS = [*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "models").glob("*.md"))]
README = ROOT / "README.md"

each_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
each_text = pytest.mark.parametrize(
    "path", sorted({*PAGES, *OTHERS}), ids=lambda path: path.relative_to(ROOT).as_posix()
)


def prose(text: str) -> str:
    """What stands on a page as it is shown, without its comments and without code."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)


@each_page
def test_the_numbers_of_a_page_are_the_committed_ones(path):
    text = path.read_text(encoding="utf-8")
    facts = readme.collect(ROOT, readme.repository_on(text))
    assert readme.fill(text, facts) == text, "run `make readme`"


@each_page
def test_no_measured_number_is_typed(path):
    """A number with the unit of a measurement stands in a marked place, or was announced, or is cited."""
    text = path.read_text(encoding="utf-8").partition("## Sources")[0]
    for mark in (readme.BLOCK, readme.NUMBER, readme.VERDICT):
        text = mark.sub("", text)
    units = r"dB|bpc|nats|ms|%|seconds"
    typed = set(re.findall(rf"\d[\d.,]* (?:{units})(?!\w)", prose(text)))
    announced = {"25.12 dB", "7 dB", "39 %", "35 ms", "30 %", "25 %", "20 dB"}
    certain = {"95 %", "5 %"}  # of intervals, and of true claims that they wrong
    assert typed <= announced | certain


@each_text
def test_every_link_and_picture_of_a_page_leads_somewhere(path):
    text = prose(path.read_text(encoding="utf-8"))
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert not [link for link in links if not (path.parent / link).exists()]


def test_the_page_links_an_executed_copy_of_every_notebook():
    text = README.read_text(encoding="utf-8")
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"(results/sample/{path.stem}/notebook.ipynb)" in text


def test_the_page_names_what_the_first_commands_print():
    text = README.read_text(encoding="utf-8")
    program = (ROOT / "lib" / "tools" / "reproduce.py").read_text(encoding="utf-8")
    assert "REPRODUCED" in program and "`REPRODUCED in" in text
    for command in ("make reproduce", "make test"):
        assert f"`{command}`" in text


def test_the_announced_systems_are_cited():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    sources = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8").partition("## Sources")[2]
    repositories = re.findall(r"\(https://(github\.com/[\w.-]+/[\w.-]+)\)", sources)
    assert len(repositories) == 3
    for repository in repositories:
        assert f"repository-code: https://{repository}\n" in citation
