"""lib/tools/gather.py: all studies together, nothing twice, and nothing written when one of them is faulty."""

import json
import shutil

import pytest

from lib.common import claims, params
from lib.common.params import UserError
from lib.tools import cli, gather

ROOT = params.root()
LEDGER = """
claims:
  - {id: a-claim, system: em, announced: gains 2 dB, test: mean gain, metric: gain_db, kind: count, rule: {at_least: 2}}
"""


def benchmark(folder, name, metrics, text=None):
    write(folder / "benchmarks" / f"{name}.json", name, metrics, text)


def study(folder, name, metrics, text=None, profile="sample"):
    write(folder / "results" / profile / name / "metrics.json", name, metrics, text)


def write(path, name, metrics, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"study": name, "metrics": metrics, "run": {"device": "cpu", "seed": 0}})
    path.write_text(content if text is None else text)


@pytest.fixture
def project(tmp_path):
    """Two studies and a benchmark; what they add up to lies in results/sample."""
    (tmp_path / "claims.yaml").write_text(LEDGER)
    study(tmp_path, "01_one", {"gain_db": {"value": 2.5, "n": 4, "headline": True, "band": 0.1}})
    study(
        tmp_path,
        "02_two",
        {"loss": {"value": 0.5, "n": 9, "headline": False}, "other": {"value": 1, "n": 2}},
    )
    benchmark(tmp_path, "speed", {"ratio": {"value": 3.0, "n": 5, "headline": True}})
    return tmp_path


def made(project) -> list[str]:
    return sorted(
        path.name for path in (project / "results" / "sample").iterdir() if path.is_file()
    )


def studied(merged) -> set[str]:
    return {name for name in merged if not name.startswith(("claims_", "own_targets"))}


def refused(project, wanted):
    with pytest.raises(UserError, match=wanted) as caught:
        gather.gather("sample", project)
    assert "\n" not in str(caught.value)
    assert made(project) == []


def test_all_metrics_with_their_study_and_its_run(project):
    merged = gather.gather("sample", project)
    assert made(project) == [
        "claims.json",
        "headline.json",
        "metrics.json",
        "summary.json",
        "verdicts.md",
    ]
    target = project / "results" / "sample"
    written = json.loads((target / "metrics.json").read_text())
    assert written["profile"] == "sample" and written["metrics"] == merged
    assert studied(merged) == {"gain_db", "loss", "other", "ratio"}
    origin = {"study": "01_one", "profile": "sample"}
    assert merged["gain_db"] == {"value": 2.5, "n": 4, "headline": True, "band": 0.1, **origin}
    assert merged["ratio"]["profile"] == "benchmark"
    assert set(written["runs"]) == {"01_one", "02_two", "speed"}
    assert json.loads((target / "headline.json").read_text()) == {
        "gain_db": 2.5,
        "ratio": 3.0,
        "claims_total": 1,
        "claims_supported": 1,
        "claims_exceeded": 0,
        "claims_inconclusive": 0,
        "claims_refuted": 0,
        "claims_refuted_reduced": 0,
        "claims_made_true": 0,
        "claims_untestable": 0,
        "claims_rule_first": 0,
        "own_targets": 0,
        "own_targets_met": 0,
    }
    page = (target / "verdicts.md").read_text()
    assert "| gains 2 dB | 2.50     | ✓\N{NO-BREAK SPACE}supported |" in page and page.endswith(
        "</details>\n"
    )


def test_a_profile_sees_its_own_studies_only(project):
    study(project, "01_one", {"gain_db": {"value": 1.0, "n": 4}}, profile="full")
    merged = gather.gather("full", project)
    assert merged["gain_db"]["value"] == 1.0 and merged["claims_refuted"]["value"] == 1
    assert made(project) == []


def test_the_full_profile_may_be_gathered_study_by_study(project):
    study(project, "02_two", {"loss": {"value": 1.0, "n": 4}}, profile="full")
    merged = gather.gather("full", project)
    assert studied(merged) == {"loss", "ratio"} and merged["claims_refuted"]["value"] == 0


def test_a_second_run_writes_the_same_bytes(project):
    gather.gather("sample", project)
    target = project / "results" / "sample"
    before = {path.name: path.read_bytes() for path in target.iterdir() if path.is_file()}
    gather.gather("sample", project)
    assert {path.name: path.read_bytes() for path in target.iterdir() if path.is_file()} == before


def test_what_a_killed_writer_left_is_not_a_record(project):
    (project / "results" / "sample" / "01_one" / ".metrics.x7k2.json").write_text("{half of")
    benchmark(project, ".speed.x7k2", {}, "")
    assert studied(gather.gather("sample", project)) == {"gain_db", "loss", "other", "ratio"}


def test_a_metric_measured_twice(project):
    benchmark(
        project,
        "again",
        {"loss": {"value": 9, "n": 1}, "other": {"value": 9, "n": 1}},
    )
    refused(project, r"benchmarks/again.json: another study already measures loss, other")


def test_a_study_recorded_twice(project):
    record = project / "results" / "sample" / "01_one" / "metrics.json"
    study(project, "03_copy", {}, record.read_text().replace("gain_db", "gain_2_db"))
    refused(project, r"sample/03_copy/metrics.json: study '01_one' already has a record")


@pytest.mark.fault("a damaged record of a study", "one line; nothing is written")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "5",
        "{}",
        '{"study": "x", "run": {}}',
        '{"study": "x", "run": {}, "metrics": []}',
        '{"study": "x", "run": {}, "metrics": {"m": 5}}',
        '{"study": "x", "run": {}, "metrics": {"m": {"value": 5}}}',
        '{"study": "x", "run": {}, "metrics": {"m": {"n": 5}}}',
        '{"study": "x", "run": {}, "metrics": {"m": {"value": null, "n": 5}}}',
        '{"study": "x", "run": {}, "metrics": {"m": {"value": 5, "n": 0}}}',
        '{"study": "x", "metrics": {}}',
        '{"run": {}, "metrics": {}}',
        '{"study": "x", "run": {}, "metrics": {"m": {"value": NaN, "n": 5}}}',
    ],
)
def test_a_broken_record_stops_everything(project, text):
    study(project, "02_two", {}, text)
    refused(project, r"02_two/metrics.json: not a study's metrics; run the stage that writes it")


def test_bytes_that_are_no_text(project):
    (project / "results" / "sample" / "02_two" / "metrics.json").write_bytes(b"\xff\xfe\x00")
    refused(project, r"02_two/metrics.json: not a study's metrics")


def test_a_claim_without_its_metric_and_a_faulty_ledger(project):
    (project / "claims.yaml").write_text(LEDGER.replace("gain_db", "gone_db"))
    refused(project, "a-claim: no study measures 'gone_db'")
    (project / "claims.yaml").write_text(LEDGER.replace("at_least: 2", "at_least: much"))
    refused(project, "claims.yaml: a-claim: rule.at_least")


def test_the_committed_results_are_what_gather_makes(tmp_path):
    committed, made = ROOT / "results" / "sample", tmp_path / "results" / "sample"
    for record in committed.glob("*/metrics.json"):
        (made / record.parent.name).mkdir(parents=True)
        shutil.copy(record, made / record.parent.name)
    shutil.copytree(ROOT / "benchmarks", tmp_path / "benchmarks")
    shutil.copy(ROOT / "claims.yaml", tmp_path)
    gather.gather("sample", tmp_path)
    for name in ("metrics.json", "headline.json", "summary.json", "verdicts.md"):
        assert (made / name).read_bytes() == (committed / name).read_bytes(), name


def test_every_headline_number_says_what_it_is_and_has_n_and_the_announced_keys_are_there():
    headline = json.loads((ROOT / "results" / "sample" / "headline.json").read_text())
    metrics = claims.read_metrics("sample")
    assert {"data_noisy_psnr_db", "data_blur_psnr_db", "data_noise_std"} <= headline.keys()
    for name, value in headline.items():
        assert (
            metrics[name]["value"] == value
            and metrics[name]["n"] >= 1
            and metrics[name]["what"].strip()
        ), name


def test_the_command(monkeypatch, project, capsys):
    monkeypatch.setattr(params, "root", lambda: project)
    assert cli.main(["gather", "sample"]) == 0
    assert capsys.readouterr().out == "15 metrics\n"
    (project / "claims.yaml").unlink()
    assert cli.main(["gather", "sample"]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith("error: claims.yaml: not found")


def test_the_summary_fits_on_a_line_and_is_part_of_the_headline():
    summary = json.loads((ROOT / "results" / "sample" / "summary.json").read_text())
    headline = json.loads((ROOT / "results" / "sample" / "headline.json").read_text())
    assert summary == {short: headline[name] for short, name in gather.SUMMARY.items()}
    assert sum(len(name) + 4 for name in summary) < 110
