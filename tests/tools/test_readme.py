"""lib/tools/readme.py: what stands in the marked places of a page."""

import json
import subprocess

import pytest

from lib.common import files, params
from lib.common.params import UserError
from lib.common.tables import Table
from lib.tools import readme
from lib.tools.readme import Facts

GAIN = {"value": 1.256, "low": 1.1, "high": 1.4, "unit": "dB", "n": 1234}
FACTS = Facts(
    blocks={"table": "new \\1 text", "other": "second"},
    metrics={"gain": GAIN, "time": {"value": 404, "unit": "s", "n": 1}},
    verdicts={"mixture-gain": "refuted"},
)


def test_what_stands_in_marked_places_is_replaced_and_nothing_else():
    text = (
        "a <!-- begin table -->old\nold<!-- end table --> b <!-- n gain .2f -->9<!-- /n --> "
        "c <!-- v mixture-gain --><!-- /v --> d"
    )
    filled = readme.fill(text, FACTS)
    assert filled == (
        "a <!-- begin table -->\nnew \\1 text\n<!-- end table --> b <!-- n gain .2f -->1.26<!-- /n --> "
        "c <!-- v mixture-gain -->refuted<!-- /v --> d"
    )
    assert readme.fill(filled, FACTS) == filled


def test_two_blocks_keep_what_lies_between():
    text = "<!-- begin table --><!-- end table -->keep<!-- begin other --><!-- end other -->"
    assert "keep" in readme.fill(text, FACTS)


@pytest.mark.parametrize(
    "name, form, wanted",
    [
        ("gain", "all", "1.26 [1.10, 1.40] dB (n = 1,234)"),
        ("gain", "measured", "1.26 [1.10, 1.40] dB"),
        ("gain", "cases", "1,234"),
        ("gain", ".1f", "1.3"),
        ("time", "minutes", "7"),
    ],
)
def test_a_number_is_shown_in_the_form_that_its_mark_asks_for(name, form, wanted):
    assert readme.formatted(FACTS.metrics[name], form) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "<!-- begin nothing --><!-- end nothing -->",
        "<!-- n nothing .2f -->1<!-- /n -->",
        "<!-- v nothing -->refuted<!-- /v -->",
        "<!-- begin table -->",
        "<!-- begin table --> <!-- end other -->",
        "<!-- begin table --> prose <!-- begin table --> <!-- end table -->",
        "<!-- n gain -->1<!-- /n -->",
        "<!-- n gain .2f -->1",
        "<!-- n gain .2f -->1 and prose <!-- n gain .2f -->1<!-- /n -->",
        "<!-- v mixture-gain -->refuted",
    ],
)
def test_a_mark_that_cannot_be_filled_is_an_error(text):
    with pytest.raises(UserError, match="mark '"):
        readme.fill(text, FACTS)


def test_a_form_that_does_not_exist_is_an_error():
    with pytest.raises(UserError, match=r"'\.2q' is no form of the number 1\.256"):
        readme.fill("<!-- n gain .2q -->1<!-- /n -->", FACTS)


# tables


@pytest.fixture
def project(monkeypatch, tmp_path):
    """A project of one claim, one notebook and one metric."""
    monkeypatch.setattr(params, "root", lambda: tmp_path)
    claim = "{id: gain, system: mixture, announced: gains 2 dB, test: mean gain, metric: gain_db, kind: count, rule: {at_least: 2}}"
    (tmp_path / "claims.yaml").write_text(f"claims:\n  - {claim}\n")
    notebook(tmp_path / "notebooks" / "01_data.ipynb", "01 Data", "Is it right?")
    measure(tmp_path, "sample", 2.53)
    return tmp_path


def measure(project, profile, value):
    entry = {"value": value, "n": 3, "unit": "dB", "what": "mean gain", "band": 0.1}
    entry |= {"headline": True, "profile": profile}
    path = project / "results" / profile / "metrics.json"
    files.write_json(path, {"metrics": {"gain_db": entry}})


def notebook(path, heading, question):
    first = {"cell_type": "markdown", "source": [f"# {heading}\n", f"\n**Question.** {question}\n"]}
    files.write_json(path, {"cells": [first]})


def test_the_notebook_table_links_the_copies_that_are_there(tmp_path):
    notebook(tmp_path / "notebooks" / "01_data.ipynb", "01 Data", "Is it right?")
    files.write_text(tmp_path / "results" / "sample" / "01_data" / "notebook.ipynb", "{}")
    link = "[sample](results/sample/01_data/notebook.ipynb)"
    assert readme.notebook_table(tmp_path).rows == [["01 Data", "Is it right?", link]]


def test_colab_is_a_link_where_the_repository_is_known_and_a_line_elsewhere(project):
    link = "https://colab.research.google.com/github/me/trial/blob/main/notebooks/01_data.ipynb"
    known = readme.collect(project, "me/trial").blocks["notebooks"]
    assert link in known and readme.HOW_COLAB not in known
    assert readme.repository_on(known) == "me/trial"
    unknown = readme.collect(project).blocks["notebooks"]
    assert readme.HOW_COLAB in unknown and readme.repository_on(unknown) is None


@pytest.mark.parametrize(
    "url, wanted",
    [
        ("https://github.com/me/attention-on-trial.git", "me/attention-on-trial"),
        ("git@github.com:me/attention.on.trial", "me/attention.on.trial"),
        ("https://example.org/me/attention-on-trial.git", None),
        ("../elsewhere", None),
    ],
)
def test_the_repository_is_that_of_the_checkouts_origin(tmp_path, url, wanted):
    assert readme.origin_on_github(tmp_path) is None
    for command in (["init", "--quiet"], ["remote", "add", "origin", url]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    assert readme.origin_on_github(tmp_path) == wanted


def test_a_table_on_a_page_is_not_padded():
    table = Table(["what", "value"], [["a long name", 1], ["b", "2 | 3"]])
    wanted = "| what | value |\n|---|---|\n| a long name | 1 |\n| b | 2 \\| 3 |"
    assert readme.compact(table) == wanted


def test_the_headline_table_shows_the_sample_beside_the_full_profile():
    headline = {"what": "mean gain", "headline": True, "band": 0.1}
    sample = {"gain": GAIN | headline | {"profile": "sample", "value": 1.3}}
    full = {"gain": GAIN | headline | {"profile": "full"}}
    speed = {"value": 7, "n": 1, "what": "speed", "headline": True, "profile": "benchmark"}
    other = {"value": 7, "n": 1, "what": "not shown", "profile": "sample"}
    table = readme.headline_table(full | {"speed": speed, "other": other}, sample)
    gain = ["1.26 [1.10, 1.40] dB (n = 1,234)", "full", "1.30 [1.10, 1.40] dB (n = 1,234)"]
    assert table.rows == [
        ["`gain`", "mean gain", *gain, "± 0.1 dB"],
        ["`speed`", "speed", "7 (n = 1)", "benchmark", "–", "recorded"],
    ]


def test_the_time_of_the_full_profile_is_told_by_part(tmp_path):
    assert readme.full_table(tmp_path).rows == []
    noted = {
        "train@full-attention-0": 60,
        "data@full": 30,
        "train@full-attention-1": 150,
        "train@full-lstm-0": 90,
    }
    files.write_json(tmp_path / "results" / "full" / "seconds.json", noted)
    assert sorted(readme.full_table(tmp_path).rows) == [
        ["`data`", "1", "0.5"],
        ["`train` `attention`", "2", "1.0 to 2.5"],
        ["`train` `lstm`", "1", "1.5"],
    ]


# whole pages


def test_a_page_is_written_only_when_something_changed(project):
    path = project / "README.md"
    path.write_text(
        "<!-- begin tally --><!-- end tally -->\n"
        "It gains <!-- n gain_db .1f --><!-- /n --> dB: <!-- v gain --><!-- /v -->.\n"
    )
    assert readme.update("README.md") is True
    text = path.read_text()
    assert "1 announced claims: 1 supported." in text
    assert "-->2.5<!-- /n --> dB: <!-- v gain -->supported<!-- /v -->." in text
    written = path.stat().st_mtime_ns, path.stat().st_ino
    assert readme.update("README.md") is False
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == written
    measure(project, "full", 1.5)
    assert readme.update("README.md") is True
    assert "-->1.5<!-- /n --> dB: <!-- v gain -->refuted<!-- /v -->." in path.read_text()


def test_a_faulty_page_is_named(project):
    (project / "README.md").write_text("<!-- n nothing .2f --><!-- /n -->")
    with pytest.raises(UserError, match=r"README\.md: mark 'nothing'"):
        readme.update("README.md")


def test_the_repository_named_on_a_page_stays_in_a_clone_of_a_clone(project):
    path = project / "README.md"
    path.write_text("<!-- begin notebooks -->\n<!-- end notebooks -->\n")
    subprocess.run(["git", "init", "--quiet"], cwd=project, check=True)
    address = ["git", "remote", "add", "origin", "https://github.com/me/trial"]
    subprocess.run(address, cwd=project, check=True)
    assert readme.update("README.md") is True
    subprocess.run(["git", "remote", "set-url", "origin", "../trial"], cwd=project, check=True)
    assert readme.update("README.md") is False
    assert json.dumps(readme.repository_on(path.read_text())) == '"me/trial"'
