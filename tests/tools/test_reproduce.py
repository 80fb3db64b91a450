"""lib/tools/reproduce.py: the comparison, the copy, and the run itself on a tiny project with real git and real DVC.

The tiny project has two stages, as the real one has: one measures, one collects. They note each run in the file that
TRACE names, so that a stage which DVC skipped is seen.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
import twice
import yaml

from lib.common import claims, params, record
from lib.common.params import UserError
from lib.tools import cli, compare, reproduce

ROOT = params.root()
MACHINE = {
    "processor": "p",
    "python": "3.11.7",
    "versions": {"numpy": "2"},
    "device": "cpu",
    "threads": 2,
}
MEASURE = """
import json, os, sys
from pathlib import Path
profile = sys.argv[1]
with open(os.environ["TRACE"], "a") as trace:
    trace.write("measure " + profile + "\\n")
gain = float(Path("data").read_text()) + (1 if profile == "full" else 0)
print("measured", gain)
entry = {"value": gain, "unit": "dB", "n": 3, "band": 0.5}
out = Path("results", profile)
out.mkdir(parents=True, exist_ok=True)
(out / "one.json").write_text(json.dumps({"profile": profile, "metrics": {"gain_db": entry}, "runs": {"one": MACHINE}}))
"""
COLLECT = """
import os, sys
from pathlib import Path
with open(os.environ["TRACE"], "a") as trace:
    trace.write("collect " + sys.argv[1] + "\\n")
out = Path("results", sys.argv[1])
(out / "metrics.json").write_text((out / "one.json").read_text())
"""
STAGES = """
vars: [params.yaml]
stages:
  measure:
    matrix: {profile: ["${profile}"]}
    cmd: python measure.py ${item.profile}
    deps: [data, measure.py]
    outs: ["results/${item.profile}/one.json": {cache: false}]
  collect:
    matrix: {profile: ["${profile}"]}
    cmd: python collect.py ${item.profile}
    deps: [collect.py, "results/${item.profile}/one.json"]
    outs: ["results/${item.profile}/metrics.json": {cache: false}]
"""
LEDGER = """
claims:
  - {id: a-gain, system: em, announced: gains 2 dB, test: mean gain, metric: gain_db, kind: count, rule: {at_least: 2}}
"""
DVC_CONFIG = "[core]\n    analytics = false\n    check_update = false\n    remote = store\n['remote \"store\"']\n    url = ../datastore\n"


def call(folder, *command):
    environment = reproduce.tool_environment()
    return subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True, env=environment
    ).stdout


def commit(folder, text="change"):
    call(folder, "git", "add", "-A")
    call(
        folder, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", text
    )


def repository(folder):
    folder.mkdir()
    call(folder, "git", "init", "-q")
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / ".gitignore").write_text("/data\n.reproduce/\n.full/\n")
    return folder


def store_data(folder, text):
    """What `dvc add data; dvc push` leaves behind, without two starts of DVC."""
    digest = hashlib.md5(text.encode()).hexdigest()
    kept = folder / "datastore" / "files" / "md5" / digest[:2] / digest[2:]
    kept.parent.mkdir(parents=True)
    kept.write_text(text)
    out = {"md5": digest, "size": len(text), "hash": "md5", "path": "data"}
    (folder / "data.dvc").write_text(yaml.safe_dump({"outs": [out]}))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The tiny project, committed with its results and an up-to-date dvc.lock."""
    folder = repository(tmp_path_factory.mktemp("pipeline") / "project")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACE", str(folder.parent / "trace"))
        (folder / ".dvc").mkdir()
        (folder / ".dvc" / "config").write_text(DVC_CONFIG)
        (folder / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
        (folder / "measure.py").write_text(MEASURE.replace("MACHINE", repr(MACHINE)))
        (folder / "collect.py").write_text(COLLECT)
        (folder / "dvc.yaml").write_text(STAGES)
        (folder / "claims.yaml").write_text(LEDGER)
        store_data(folder, "2.5")
        (folder / "data").write_text("2.5")
        call(folder, "dvc", "repro")
        commit(folder, "all")
        yield folder


@pytest.fixture(autouse=True)
def no_trace(request):
    if "tiny" in request.fixturenames:
        folder = request.getfixturevalue("tiny")
        (folder.parent / "trace").write_text("")


def trace(tiny) -> list[str]:
    return (tiny.parent / "trace").read_text().splitlines()


# the run


def test_a_reproduction_runs_every_stage_in_a_copy_and_finds_it_equal(tiny, capsys):
    assert reproduce.reproduce(tiny, started=time.time() - 3600) is True
    said = capsys.readouterr().out
    assert trace(tiny) == [
        "measure sample",
        "collect sample",
    ]  # although dvc.lock calls both up to date
    assert "stage 1 of 2: measure@sample" in said and "stage 2 of 2: collect@sample" in said
    assert re.search(
        r"^\[6\d:\d\d\] stage 1", said, flags=re.MULTILINE
    )  # the clock starts with the user's command
    assert "    measured 2.5" in said  # what a stage prints
    assert "machine: the recorded one" in said
    assert "files that differ from the committed ones: 0" in said
    assert "metrics outside their band: none" in said
    assert "results: .reproduce/tree/results/sample" in said
    assert said.splitlines()[-1].startswith("REPRODUCED in 6")
    assert call(tiny, "git", "status", "--porcelain") == ""


def test_another_result_is_not_a_reproduction(tiny, capsys):
    recorded = tiny / "results" / "sample" / "metrics.json"
    before = recorded.read_text()
    recorded.write_text(before.replace('"value": 2.5', '"value": 1.5'))
    commit(tiny)
    try:
        assert reproduce.reproduce(tiny) is False
    finally:
        recorded.write_text(before)
        commit(tiny)
    said = capsys.readouterr().out
    assert "gain_db 2.5 (recorded 1.5 ± 0)" in said
    assert "files that differ from the committed ones: 1" in said
    assert "supported (recorded: refuted)" in said
    assert "NOT REPRODUCED in" in said


@pytest.mark.fault("a stage that fails", "it is named; nothing after it runs")
def test_a_failing_stage_is_named_and_the_next_does_not_run(tiny, capfd):
    script = tiny / "measure.py"
    before = script.read_text()
    script.write_text("raise SystemExit('the disk is full')\n")
    commit(tiny)
    try:
        copy = reproduce.clone(tiny, tiny / ".reproduce" / "broken")
        with pytest.raises(UserError, match=r"stage 1 of 2 failed: measure@sample \(sample\)"):
            reproduce.run_pipeline(copy, "sample", time.time())
    finally:
        script.write_text(before)
        commit(tiny)
    assert "the disk is full" in capfd.readouterr().out
    assert trace(tiny) == []


HANGS = "import sys, time\nprint('hanging', flush=True)\ntime.sleep(60)\n"


@pytest.mark.fault(
    "kill -9 of make reproduce",
    "nothing tracked changed; the next call runs all stages and ends well",
)
def test_a_killed_reproduction_leaves_nothing_behind(tiny):
    script = tiny / "measure.py"
    before = script.read_text()
    script.write_text(HANGS)
    commit(tiny)
    code = f"from pathlib import Path; from lib.tools import reproduce; reproduce.reproduce(Path({str(tiny)!r}))"
    how = {"cwd": ROOT, "stdout": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen([sys.executable, "-c", code], **how) as process:
        try:
            assert any("hanging" in line for line in process.stdout)
            assert call(tiny, "git", "status", "--porcelain") == ""
        finally:
            os.killpg(process.pid, 9)
            script.write_text(before)
            commit(tiny)
    assert reproduce.reproduce(tiny) is True
    assert trace(tiny) == ["measure sample", "collect sample"]


@pytest.mark.fault(
    "committed metrics.json damaged, then make reproduce", "one line before any stage runs"
)
def test_damaged_committed_metrics_stop_it_before_any_stage_runs(tiny):
    recorded = tiny / "results" / "sample" / "metrics.json"
    before = recorded.read_text()
    recorded.write_text(before[: len(before) // 2])
    commit(tiny)
    try:
        with pytest.raises(
            UserError, match=r"the committed results/sample/metrics\.json: not readable"
        ):
            reproduce.reproduce(tiny)
    finally:
        recorded.write_text(before)
        commit(tiny)
    assert trace(tiny) == []


def test_full_brings_its_results_back_and_leaves_the_rest(tiny, capsys):
    before = (
        (tiny / "params.yaml").read_bytes(),
        (tiny / "results" / "sample" / "metrics.json").read_bytes(),
    )
    reproduce.full(tiny)
    assert trace(tiny) == ["measure full", "collect full"]
    brought = json.loads((tiny / "results" / "full" / "metrics.json").read_text())
    assert brought["profile"] == "full" and brought["metrics"]["gain_db"]["value"] == 3.5
    assert before == (
        (tiny / "params.yaml").read_bytes(),
        (tiny / "results" / "sample" / "metrics.json").read_bytes(),
    )
    lock = yaml.safe_load((tiny / "dvc.lock").read_text())["stages"]
    assert set(lock) == {"measure@sample", "collect@sample", "measure@full", "collect@full"}
    reproduce.full(tiny)  # nothing was committed in between; what ran is not run again
    assert trace(tiny) == ["measure full", "collect full"]
    assert "results/full is up to date" in capsys.readouterr().out
    noted = json.loads((tiny / "results" / "full" / "seconds.json").read_text())
    assert set(noted) == {"measure@full", "collect@full"} and all(
        0 <= value < 60 for value in noted.values()
    )


def test_full_runs_one_study_in_a_sitting_of_its_own(tiny):
    shutil.rmtree(tiny / ".full", ignore_errors=True)
    reproduce.full(tiny, only=["measure"])
    assert trace(tiny) == ["measure full"]
    gathered = json.loads((tiny / "results" / "full" / "metrics.json").read_text())
    assert gathered["profile"] == "full" and gathered["metrics"]["claims_total"]["value"] == 1


# make twice


def test_two_runs_are_compared_byte_by_byte(tiny, capsys):
    assert twice.main([], tiny) == 0
    assert trace(tiny) == ["measure sample", "collect sample"] * 2
    record = json.loads((tiny / "benchmarks" / "twice.json").read_text())
    assert {name: entry["value"] for name, entry in record["metrics"].items()} == {
        "compared_files": 2,
        "identical_files": 2,
    }
    assert "identical_files: 2 of 2" in capsys.readouterr().out
    shutil.rmtree(tiny / "benchmarks")


def test_a_run_that_differs_from_another_is_found_and_so_is_what_threads_change(tiny):
    """The gain depends on the time, and on the number of threads beyond its band."""
    script = tiny / "measure.py"
    before = script.read_text()
    change = "import re, time\nthreads = int(re.search('threads: (.+?) ', Path('params.yaml').read_text())[1])\ngain = "
    script.write_text(before.replace("gain = ", change + "threads + 1e-6 * (time.time() % 1) + "))
    commit(tiny)
    try:
        assert twice.main(["1", "2"], tiny) == 1
    finally:
        script.write_text(before)
        commit(tiny)
    record = json.loads((tiny / "benchmarks" / "twice.json").read_text())
    shutil.rmtree(tiny / "benchmarks")
    assert (
        record["metrics"]["compared_files"]["value"] == 4
        and record["metrics"]["identical_files"]["value"] == 0
    )
    assert record["differ"]["1"] == ["results/sample/metrics.json", "results/sample/one.json"]
    assert record["off_band"]["1 against 2"][0].startswith("gain_db 4.5")


# the copy


def test_a_clone_is_the_last_commit_and_says_so_when_the_tree_is_dirty(tmp_path, capsys):
    folder = repository(tmp_path / "project")
    (folder / "a.txt").write_text("committed")
    commit(folder)
    target = reproduce.clone(folder, tmp_path / "copy")
    assert "note" not in capsys.readouterr().out
    (target / "left.txt").write_text("from an earlier run")
    (folder / "a.txt").write_text("changed")
    reproduce.clone(folder, target)
    assert "note: uncommitted changes are not part of this run" in capsys.readouterr().out
    assert (target / "a.txt").read_text() == "committed" and not (target / "left.txt").exists()


def test_outside_a_repository_git_is_named(tmp_path):
    with pytest.raises(UserError, match="git status failed: fatal: not a git repository"):
        reproduce.clone(tmp_path, tmp_path / "copy")


@pytest.mark.fault(
    "two make reproduce at once", "the second one says so in one line; the first goes on"
)
def test_a_second_call_gets_one_clear_line_and_a_third_one_runs(tmp_path):
    with reproduce._only_one(tmp_path / ".reproduce"):
        with pytest.raises(UserError, match=r"\.reproduce/ is in use"):
            reproduce.reproduce(tmp_path)
        code = f"from pathlib import Path; from lib.tools import reproduce; reproduce.reproduce(Path({str(tmp_path)!r}))"
        other = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert other.returncode == 1 and ".reproduce/ is in use" in other.stderr.splitlines()[-1]
    with reproduce._only_one(tmp_path / ".reproduce"):
        pass


def test_a_stage_finds_this_pythons_tools_first():
    assert reproduce.tool_environment()["PATH"].split(os.pathsep)[0] == os.path.dirname(
        sys.executable
    )


def test_the_command_tells_faults_in_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(params, "root", lambda: tmp_path)
    assert cli.main(["reproduce"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: git status failed") and told.count("\n") == 1


# params.yaml of the copy


def test_choose_full_changes_profile_and_seeds_only(tmp_path):
    path = tmp_path / "params.yaml"
    shutil.copy(ROOT / "params.yaml", path)
    before = path.read_text().splitlines()
    reproduce.choose_full(path)
    found = params.load(path=path)
    assert found.profile == "full" and found.seeds == found.full_seeds == params.load().full_seeds
    after = path.read_text().splitlines()
    changed = [
        (a.split(":")[0], b.split(":")[0]) for a, b in zip(before, after, strict=True) if a != b
    ]
    assert changed == [("profile", "profile"), ("seeds", "seeds")]
    assert (
        after[before.index(next(line for line in before if line.startswith("profile")))].count("#")
        == 1
    )


def test_choose_full_refuses_a_layout_it_cannot_change(tmp_path):
    path = tmp_path / "params.yaml"
    text = (ROOT / "params.yaml").read_text()
    path.write_text(text.replace("seeds: {announced: [0], ", "seeds: {announced: [0],\n  ", 1))
    with pytest.raises(UserError, match="on a line of their own"):
        reproduce.choose_full(path)


def test_an_unfinished_runs_stages_are_kept_and_the_commits_win(tmp_path):
    lock = tmp_path / "dvc.lock"
    lock.write_text("schema: '2.0'\nstages:\n  a: {cmd: new}\n")
    reproduce.keep_entries(
        lock, {"schema": "2.0", "stages": {"a": {"cmd": "old"}, "b@full": {"cmd": "ran"}}}
    )
    assert yaml.safe_load(lock.read_text())["stages"] == {
        "a": {"cmd": "new"},
        "b@full": {"cmd": "ran"},
    }
    lock.unlink()
    reproduce.keep_entries(lock, {})
    assert yaml.safe_load(lock.read_text()) == {"schema": "2.0", "stages": {}}


# the comparison


def entry(value, band=0.0):
    return {"value": value, "band": band, "n": 1}


@pytest.mark.parametrize(
    "recorded, found, exact, wanted",
    [
        ({"a": entry(1.0, 0.1)}, {"a": entry(1.0)}, True, []),
        ({"a": entry(1.0, 0.1)}, {"a": entry(1.05)}, True, ["a 1.05 (recorded 1 ± 0)"]),
        ({"a": entry(1.0, 0.1)}, {"a": entry(1.05)}, False, []),
        ({"a": entry(1.0, 0.1)}, {"a": entry(0.95)}, False, []),
        ({"a": entry(1.0, 0.1)}, {"a": entry(1.2)}, False, ["a 1.2 (recorded 1 ± 0.1)"]),
        ({"a": entry(1.0, 0.1)}, {"a": entry(0.8)}, False, ["a 0.8 (recorded 1 ± 0.1)"]),
        ({"a": entry(3)}, {"a": entry(4)}, False, ["a 4 (recorded 3 ± 0)"]),
        ({"a": entry(1.0, 0.1)}, {"a": entry(1.05, 9.0), "b": entry(1)}, False, ["b"]),
        ({"a": entry(1.0, 0.1), "b": entry(1)}, {"a": entry(1.05)}, False, ["b"]),
        ({"a": {"value": 1.0, "n": 1}}, {"a": entry(1.0)}, False, []),
    ],
)
def test_a_metric_is_equal_or_inside_its_recorded_band(recorded, found, exact, wanted):
    assert compare.outside_band(recorded, found, exact) == wanted


@pytest.mark.parametrize("key", compare.FINGERPRINT)
def test_what_decides_the_last_bits_is_in_the_fingerprint(tmp_path, key):
    here = {"runs": {"one": {**MACHINE, "code": "a", "seed": 0}}}
    other = {"runs": {"one": {**MACHINE, "code": "b", "seed": 0, key: "another"}}}
    same = {"runs": {"one": {**MACHINE, "code": "b", "seed": 0}}}
    assert reproduce.fingerprint(here, tmp_path) == reproduce.fingerprint(same, tmp_path)
    assert reproduce.fingerprint(here, tmp_path) != reproduce.fingerprint(other, tmp_path)


def test_benchmarks_do_not_count_for_the_machine(tmp_path):
    reproduce.write_seconds(tmp_path / "benchmarks" / "some_name.json", 61)
    written = json.loads((tmp_path / "benchmarks" / "some_name.json").read_text())
    assert written["metrics"]["reproduce_seconds"]["value"] == 61
    assert written["metrics"]["reproduce_seconds"]["headline"] is True
    collected = {"runs": {"one": MACHINE, "reproduce": written["run"]}}
    assert set(reproduce.fingerprint(collected, tmp_path)) == {"one"}


def test_the_report_sets_measured_beside_recorded():
    text = {"announced": "gains 2 dB", "test": "mean gain"}
    claim = {
        "id": "a-gain",
        "system": "em",
        **text,
        "metric": "gain_db",
        "kind": "count",
        "rule": {"at_least": 2},
    }
    ledger = [claims.Claim.model_validate(claim)]

    def line(now, then):
        entries = [{"gain_db": record.metric(value, unit="dB", n=3)} for value in (then, now)]
        row = reproduce.report(*entries, ledger).splitlines()[1]
        return [part.strip() for part in row.split("  ") if part]

    assert line(2.6, 2.5) == ["a-gain", "2.60 dB (n = 3)", "2.50 dB (n = 3)", "supported"]
    assert line(1.5, 2.5)[-1] == "refuted (recorded: supported)"
