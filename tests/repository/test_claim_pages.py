"""The page of a claim (docs/site/pages.py), written from the committed results; no site is built.

tests/repository/test_site.py reads the built pages, where the tools that build them are installed.
"""

import importlib.util
import re

import pytest

from lib.common import claims, params

ROOT = params.root()
METRICS = claims.read_best()
VERDICTS = claims.judge_all(METRICS)
LEDGER = {verdict.claim.id for verdict in VERDICTS}


@pytest.fixture(scope="module")
def pages():
    """The module docs/site/pages.py, which no package holds."""
    place = ROOT / "docs" / "site" / "pages.py"
    spec = importlib.util.spec_from_file_location("site_pages", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def written(pages):
    """The Markdown of each claim's page, id -> text."""
    texts = {}
    for verdict in VERDICTS:
        texts[verdict.claim.id] = pages.claim_page(ROOT, verdict, VERDICTS, METRICS)
    return texts


def headings(stem: str, pages) -> set[str]:
    """The anchors of all headings of a notebook's executed copy."""
    copy, _ = pages.executed(ROOT, stem)
    found = set()
    for cell in pages.load(copy)["cells"]:
        if cell["cell_type"] == "markdown":
            titles = re.findall(r"^#+ (.+)$", "".join(cell["source"]), re.MULTILINE)
            found |= {pages.anchor(title) for title in titles}
    return found


def test_links_of_a_page_lead_to_claims_and_to_headings_of_notebooks(written, pages):
    anchors = {
        path.stem: headings(path.stem, pages) for path in (ROOT / "notebooks").glob("*.ipynb")
    }
    for name, text in written.items():
        for link in re.findall(r'href="([^"]+)"', text):
            if link.startswith("../notebooks/"):
                page, _, fragment = link.removeprefix("../notebooks/").partition("#")
                stem = page.removesuffix(".html")
                assert stem in anchors, (name, link)
                assert not fragment or fragment in anchors[stem], (name, link)
            else:
                assert link.removesuffix(".html") in LEDGER, (name, link)


def test_a_measured_claim_of_a_notebook_links_to_it(written):
    """A claim whose study is a notebook names that notebook, not another one."""
    studies = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    linked = 0
    for verdict in VERDICTS:
        study = verdict.entry.get("study")
        if study in studies:
            assert f"../notebooks/{study}.html" in written[verdict.claim.id]
            linked += 1
    assert linked > 30


def test_a_page_has_one_verdict_and_the_command_that_tries_again(written):
    for verdict in VERDICTS:
        text = written[verdict.claim.id]
        assert text.count('<span class="verdict') == 1
        assert f"{verdict.verdict}</span>" in text
        assert f"`python -m lib retry {verdict.claim.id}`" in text


@pytest.mark.parametrize(
    "heading, wanted",
    [
        ("Memory and operations, counted", "memory-and-operations-counted"),
        ("What the router's gain is", "what-the-router-s-gain-is"),
        ("EM: the E step", "em-the-e-step"),
        ("05 Attention against an LSTM", "attention-against-an-lstm"),
        ("at 0.5 nats?", "at-0-5-nats"),
        ("a snake_case name", "a-snake-case-name"),
    ],
)
def test_an_anchor_is_made_as_docutils_makes_it(pages, heading, wanted):
    assert pages.anchor(heading) == wanted
