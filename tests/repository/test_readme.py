"""lib/tools/readme.py: what stands between the README's markers, and that it is what the results say."""

import re

import pytest

from lib.common import claims, files, params
from lib.common.params import UserError
from lib.tools import readme

ROOT = params.root()
README = ROOT / "README.md"
LEDGER = """
claims:
  - {id: some-claim, system: mixture, announced: gains 2 dB, test: mean gain, metric: gain_db, rule: {at_least: 2}}
"""


def test_fill_replaces_what_stands_between_markers_and_nothing_else():
    text = "a <!-- begin t -->old\nold<!-- end t --> b <!-- n gain .2f -->9<!-- /n --> c <!-- n gain .0f --><!-- /n -->"
    filled = readme.fill(text, {"t": "new \\1 text"}, {"gain": {"value": 1.256}})
    assert filled == (
        "a <!-- begin t -->\nnew \\1 text\n<!-- end t --> b <!-- n gain .2f -->1.26<!-- /n --> "
        "c <!-- n gain .0f -->1<!-- /n -->"
    )
    assert readme.fill(filled, {"t": "new \\1 text"}, {"gain": {"value": 1.256}}) == filled


def test_a_number_comes_with_its_interval_or_its_profile():
    entry = {"value": 1.256, "low": 1.1, "high": 1.4, "unit": "dB", "n": 7, "profile": "full"}
    filled = readme.fill(
        "<!-- n gain all --><!-- /n --> <!-- n gain on --><!-- /n -->", {}, {"gain": entry}
    )
    assert (
        filled
        == "<!-- n gain all -->1.26 [1.10, 1.40] dB (n = 7)<!-- /n --> <!-- n gain on -->full<!-- /n -->"
    )


def test_the_notebook_table_links_the_copies_that_are_there():
    table = readme.notebook_table(ROOT)
    assert table.count("\n") == 1 + len(list((ROOT / "notebooks").glob("*.ipynb")))
    assert "| 01 Data verification | Are the images" in table
    assert all((ROOT / link).is_file() for link in re.findall(r"\]\((.+?)\)", table))


def test_the_time_of_the_full_profile_is_told_by_part(tmp_path):
    assert readme.full_table(tmp_path).count("\n") == 1  # nothing but the head
    noted = {
        "train@full-attention-0": 60,
        "data@full": 30,
        "train@full-attention-1": 150,
        "train@full-lstm-0": 90,
    }
    files.write_json(tmp_path / "results" / "full" / "seconds.json", noted)
    rows = [
        "| `data` | 1 | 0.5 |",
        "| `train` `attention` | 2 | 1.0 to 2.5 |",
        "| `train` `lstm` | 1 | 1.5 |",
    ]
    assert sorted(readme.full_table(tmp_path).splitlines()[2:]) == rows


def test_every_link_and_picture_of_the_page_leads_somewhere():
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README.read_text(encoding="utf-8"))
    assert len(links) > 10 and not [link for link in links if not (ROOT / link).exists()]


def test_two_blocks_keep_what_lies_between():
    text = "<!-- begin a --><!-- end a -->keep<!-- begin b --><!-- end b -->"
    assert "keep" in readme.fill(text, {"a": "1", "b": "2"}, {})


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("<!-- begin nothing --><!-- end nothing -->", "marker 'nothing' is unknown"),
        ("<!-- n nothing .2f -->1<!-- /n -->", "marker 'nothing' is unknown"),
        ("<!-- begin t -->", "marker"),
        ("<!-- begin t --> <!-- end s -->", "marker"),
        ("<!-- n gain -->1<!-- /n -->", "marker"),
        ("<!-- n gain .2f -->1", "marker"),
        ("<!-- n gain .2f -->1 and prose <!-- n gain .2f -->1<!-- /n -->", "marker"),
        ("<!-- begin t --> prose <!-- begin t --> <!-- end t -->", "marker"),
        ("<!-- n gain .2q -->1<!-- /n -->", "marker"),
    ],
)
def test_a_marker_that_cannot_be_filled_is_an_error(text, wanted):
    with pytest.raises(UserError, match=wanted):
        readme.fill(text, {"t": "x"}, {"gain": {"value": 1.0}})


def test_the_page_is_written_only_when_something_changed(monkeypatch, tmp_path):
    monkeypatch.setattr(params, "root", lambda: tmp_path)
    (tmp_path / "claims.yaml").write_text(LEDGER)
    gain = {"value": 2.53, "n": 3, "unit": "dB", "what": "mean gain", "band": 0.1, "headline": True}
    speed = {
        "value": 7,
        "n": 1,
        "what": "speed",
        "band": 0,
        "headline": True,
        "profile": "benchmark",
    }
    other = {"value": 7, "n": 1, "what": "not shown", "band": 0}
    found = {"gain_db": {**gain, "profile": "sample"}, "speed": speed, "other": other}
    files.write_json(tmp_path / "results" / "sample" / "metrics.json", {"metrics": found})
    path = tmp_path / "README.md"
    blocks = "".join(
        f"<!-- begin {name} -->\n<!-- end {name} -->\n"
        for name in ("tally", "verdicts", "headline")
    )
    path.write_text(f"{blocks}It gains <!-- n gain_db .1f --><!-- /n --> dB.\n")
    assert readme.update() is True
    written = path.stat().st_mtime_ns, path.stat().st_ino
    text = path.read_text()
    assert text.endswith("It gains <!-- n gain_db .1f -->2.5<!-- /n --> dB.\n")
    assert "1 announced claims: 1 reproduced." in text
    assert "| gains 2 dB | 2.53 dB  | ✓ reproduced |" in text
    assert (
        "| `gain_db` | mean gain | 2.53 dB (n = 3) | sample | – | ± 0.1 dB |" in text
        and "not shown" not in text
    )
    assert "| `speed` | speed | 7 (n = 1) | benchmark | – | recorded |" in text
    assert readme.update() is False
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == written
    full = {"gain_db": {**gain, "value": 1.5, "n": 9, "profile": "full"}}
    files.write_json(tmp_path / "results" / "full" / "metrics.json", {"metrics": full})
    assert readme.update() is True
    text = path.read_text()
    assert "1 announced claims: 1 refuted." in text and text.endswith("-->1.5<!-- /n --> dB.\n")
    assert "| `gain_db` | mean gain | 1.50 dB (n = 9) | full | 2.53 dB (n = 3) | ± 0.1 dB |" in text
    assert claims.read_best()["claims_refuted"]["value"] == 1


def test_the_readmes_numbers_are_the_committed_ones():
    if not README.is_file():
        pytest.skip("README.md is not written yet")
    text = README.read_text(encoding="utf-8")
    assert "<!-- begin verdicts -->" in text
    assert readme.fill(text, *readme.parts()) == text, "run `make readme`"
