"""lib/tools/retry.py: which stage measures a claim, what is refused, and a whole retry in a tiny project."""

import json
import subprocess

import pytest

from lib.common import claims, params
from lib.common.params import UserError
from lib.tools import cli, reproduce, retry

ROOT = params.root()
SHORT = {"system": "em", "announced": "gains 2 dB", "test": "mean gain", "rule": {"at_least": 2}}


def claim(name, metric="gain_db", **changes):
    return claims.Claim.model_validate({"id": name, **SHORT, "metric": metric, **changes})


LEDGER = [
    claim("em-gain"),
    claim("em-only-in-full", metric="only_full"),
    claim("em-needs-full", profile="full"),
    claim("em-speed", metric="speed"),
    claim("em-open", metric=None, rule={"not_testable": "no code, no data"}),
    claim("em-later", metric="nowhere", own=True),
]
ENTRY = {"value": 2.5, "n": 4, "study": "02_em_diffusion"}
RECORDED = {
    "sample": {
        "gain_db": {**ENTRY, "profile": "sample"},
        "speed": {**ENTRY, "study": "em_speed", "profile": "benchmark"},
    },
    "full": {
        "gain_db": {**ENTRY, "profile": "full"},
        "only_full": {**ENTRY, "profile": "full"},
    },
}


@pytest.mark.parametrize(
    "name, profile, wanted",
    [
        ("em-gain", None, "em_diffusion@sample"),
        ("em-gain", "full", "em_diffusion@full"),
        ("em-only-in-full", None, "em_diffusion@full"),
        ("em-needs-full", None, "em_diffusion@full"),
    ],
)
def test_the_stage_is_that_of_the_notebook_that_measures_it(name, profile, wanted):
    assert retry.plan(RECORDED, LEDGER, name, profile).stage == wanted


@pytest.mark.fault("an unknown claim", "one line with the nearest ones")
@pytest.mark.parametrize(
    "name, profile, wanted",
    [
        ("em-gian", None, "em-gian: no such claim in claims.yaml; near it: em-gain"),
        ("9", None, "9: no such claim in claims.yaml$"),
        ("em-open", None, "em-open cannot be tested: no code, no data"),
        ("em-speed", None, "measured by a benchmark and no stage: run benchmarks/em_speed.py"),
        ("em-later", None, "em-later: not measured in any profile yet"),
        ("em-needs-full", "sample", "em-needs-full: not measured in the sample profile yet"),
    ],
)
def test_what_cannot_be_measured_again_is_one_line(name, profile, wanted):
    with pytest.raises(UserError, match=wanted) as caught:
        retry.plan(RECORDED, LEDGER, name, profile)
    assert "\n" not in str(caught.value)


def test_every_claim_of_a_study_has_a_stage_of_the_pipeline():
    recorded = {name: retry.read(ROOT, name) for name in params.PROFILES}
    listed = call(ROOT, "dvc", "stage", "list", "--name-only").split()
    titles = {name.partition("@")[0] for name in listed}
    studied = 0
    for entry in claims.load_ledger():
        try:
            found = retry.plan(recorded, [entry], entry.id)
        except UserError:
            continue  # a benchmark's, or nothing to measure
        assert found.stage.partition("@")[0] in titles, entry.id
        studied += 1
    assert studied > 60


# a tiny project

PIPELINE = """
stages:
  first:
    matrix: {profile: [sample]}
    cmd: echo trained >> trace && mkdir -p runs && cp input runs/model
    deps: [input]
    outs: [runs/model]
  study:
    matrix: {profile: [sample]}
    cmd: echo measured >> trace && mkdir -p results/sample/01_study && cp runs/model results/sample/01_study/metrics.json
    deps: [runs/model]
    outs: [{results/sample/01_study/metrics.json: {cache: false, persist: true}}]
"""
CLAIMS = """claims:
  - {id: a-gain, system: em, announced: gains 2 dB, test: mean gain, metric: gain_db, kind: count, rule: {at_least: 2}}
"""


def call(folder, *command):
    environment = reproduce.tool_environment()
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True
    ).stdout


def written(value):
    return json.dumps({"study": "01_study", "metrics": {"gain_db": {"value": value, "n": 4}}})


@pytest.fixture
def tiny(tmp_path):
    """A repository of two stages, whose gathered results say 2.5; its store lies inside it."""
    folder = tmp_path / "project"
    (folder / "notebooks").mkdir(parents=True)
    (folder / "notebooks" / "01_study.ipynb").write_text("{}")
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / "claims.yaml").write_text(CLAIMS)
    (folder / "input").write_text(written(2.5))
    (folder / "data").write_text("data\n")
    (folder / ".gitignore").write_text("/trace\n/.retry\n/runs\n/data\n")
    gathered = {"gain_db": {"value": 2.5, "n": 4, "study": "01_study", "profile": "sample"}}
    place = folder / "results" / "sample"
    place.mkdir(parents=True)
    (place / "metrics.json").write_text(json.dumps({"metrics": gathered, "runs": {}}))
    for command in (
        ["git", "init", "-q"],
        ["git", "config", "user.email", "a@example.org"],
        ["git", "config", "user.name", "a"],
        ["dvc", "init", "-q"],
        ["dvc", "remote", "add", "-q", "-d", "store", "datastore"],
        ["dvc", "add", "-q", "data"],
        ["dvc", "repro", "-q"],
        ["dvc", "push", "-q"],
        ["git", "add", "-A"],
        ["git", "commit", "-qm", "all"],
    ):
        call(folder, *command)
    return folder


def trace(folder):
    return (folder / ".retry" / "tree" / "trace").read_text().split()


def test_only_the_claims_own_stage_runs_and_both_verdicts_are_shown(tiny, capsys):
    assert retry.retry(tiny, "a-gain") is True
    assert trace(tiny) == ["measured"]
    said = capsys.readouterr().out
    assert said.count("supported") == 2 and "the verdicts agree" in said
    assert call(tiny, "git", "status", "--porcelain") == ""


def test_with_trainings_what_it_needs_runs_first(tiny):
    assert retry.retry(tiny, "a-gain", trainings=True) is True
    assert trace(tiny) == ["trained", "measured"]


def test_another_verdict_is_shown_beside_the_recorded_one_and_is_no_success(tiny, capsys):
    (tiny / "input").write_text(written(1.5))
    call(tiny, "git", "commit", "-qam", "another input")
    assert retry.retry(tiny, "a-gain", trainings=True) is False
    said = capsys.readouterr().out
    assert "supported" in said and "refuted" in said and "the verdicts differ" in said


def test_the_command_ends_with_an_exit_code(monkeypatch, capsys):
    monkeypatch.setattr(retry, "retry", lambda *arguments: arguments[1] == "good")
    assert cli.main(["retry", "good"]) == 0
    assert cli.main(["retry", "other"]) == cli.FAILED
    monkeypatch.undo()
    assert cli.main(["retry", "language-beats-lstn"]) == cli.MISTAKE
    assert "language-beats-lstm" in capsys.readouterr().err
