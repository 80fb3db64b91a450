"""More than one machine: clones that share a remote, and what DVC does when it is killed or finds damage.

A tiny pipeline of four stages (two arms, two seeds) stands for the real one; each run is noted in a file outside.
"""

import json
import os
import re
import shutil
import subprocess

import dvc_scale
import pytest
from faulty import ROOT, wait_until

from lib.tools import reproduce

STAGES = """
stages:
  train:
    matrix: {arm: [attention, lstm], seed: [0, 1]}
    cmd: python train.py ${item.arm} ${item.seed}
    deps: [train.py]
    outs: ["runs/${item.arm}-${item.seed}"]
"""
TRAIN = """
import os, sys, time
from pathlib import Path
name = "-".join(sys.argv[1:])
with open(os.environ["TRACE"], "a") as trace:
    trace.write(name + "\\n")
out = Path("runs", name)
out.mkdir(parents=True)
(out / "weights").write_text("half of " if "HANG" in os.environ else name)
time.sleep(60 * ("HANG" in os.environ))
"""
ALL = ["attention-0", "attention-1", "lstm-0", "lstm-1"]


def call(folder, *command, fails=False, **environment):
    """What the command says; it must succeed, or with `fails` must not."""
    given = {**reproduce.tool_environment(), "TRACE": str(folder.parent / "trace"), **environment}
    run = subprocess.run(
        command, cwd=folder, env=given, capture_output=True, text=True, check=False
    )
    assert bool(run.returncode) == fails, run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    return run.stdout + run.stderr


def stages(*names):
    return [f"train@{name}" for name in names]


@pytest.fixture
def origin(tmp_path):
    """The project that machines clone; its remote lies beside it, as on a shared disk."""
    folder = tmp_path / "origin"
    (folder / ".dvc").mkdir(parents=True)
    shared = (ROOT / ".dvc" / "config").read_text().replace("../datastore", "../../shared")
    (folder / ".dvc" / "config").write_text(shared)
    shutil.copy(ROOT / ".dvc" / ".gitignore", folder / ".dvc")
    (folder / "dvc.yaml").write_text(STAGES)
    (folder / "train.py").write_text(TRAIN)
    (folder / ".gitignore").write_text("/runs\n")
    call(folder, "git", "init", "-q")
    call(folder, "git", "add", "-A")
    call(
        folder, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "all"
    )
    return folder


def machine(origin, name):
    call(origin, "git", "clone", "-q", str(origin), f"../{name}")
    return origin.parent / name


def trained(origin) -> list[str]:
    path = origin.parent / "trace"
    return sorted(path.read_text().split()) if path.exists() else []


def collected(folder):
    return {
        name: (folder / "runs" / name / "weights").read_text()
        for name in sorted(os.listdir(folder / "runs"))
    }


def share_out(origin):
    """Two machines train two stages each and push them."""
    for name, part in (("one", ALL[:2]), ("two", ALL[2:])):
        clone = machine(origin, name)
        call(clone, "dvc", "repro", "--single-item", *stages(*part))
        call(clone, "dvc", "push", "--run-cache")


def test_two_machines_train_and_a_third_collects_without_training(origin):
    share_out(origin)
    assert trained(origin) == ALL
    third = machine(origin, "three")
    said = call(third, "dvc", "repro", "--pull")
    assert len(re.findall(r"is cached - skipping run", said)) == 4
    assert trained(origin) == ALL  # nothing was trained again
    assert collected(third) == {name: name for name in ALL}
    assert "up to date" in call(third, "dvc", "status")


def test_submitit_runs_the_stages_of_two_clones(origin):
    """On Slurm the same calls with `submitit.AutoExecutor`; here its local executor."""
    submitit = pytest.importorskip("submitit")
    executor = submitit.LocalExecutor(origin.parent / "jobs")
    executor.update_parameters(timeout_min=5)
    jobs = []
    for name, part in (("one", ALL[:2]), ("two", ALL[2:])):
        clone, train = machine(origin, name), " ".join(stages(*part))
        script = f"cd {clone} && dvc repro --single-item {train} && dvc push --run-cache"
        environment = {**reproduce.tool_environment(), "TRACE": str(origin.parent / "trace")}
        function = submitit.helpers.CommandFunction(
            ["sh", "-c", script], env=environment, verbose=False
        )
        jobs.append(executor.submit(function))
    for job in jobs:
        job.result()
    call(third := machine(origin, "three"), "dvc", "repro", "--pull")
    assert trained(origin) == ALL and collected(third) == {name: name for name in ALL}


def test_the_costs_in_the_docs_are_the_recorded_ones():
    text = (ROOT / "docs" / "machines.md").read_text()
    record = json.loads((ROOT / "benchmarks" / "dvc_scale.json").read_text())
    assert dvc_scale.page(text, record) == text


# ---------------------------------------------------------------- DVC and faults


@pytest.mark.fault(
    "kill -9 of dvc repro while a stage runs",
    "the next run redoes the stage and keeps no part of it",
)
def test_killed_repro(origin):
    given = {**reproduce.tool_environment(), "TRACE": str(origin.parent / "trace"), "HANG": "1"}
    process = subprocess.Popen(
        ["dvc", "repro", *stages(ALL[0])],
        cwd=origin,
        env=given,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_until((origin / "runs" / ALL[0] / "weights").is_file)
    os.killpg(process.pid, 9)  # DVC and the stage that it started
    process.wait()
    call(origin, "dvc", "repro", *stages(*ALL[:1]))
    assert collected(origin) == {ALL[0]: ALL[0]} and trained(origin) == [ALL[0]] * 2


@pytest.mark.fault("two dvc repro in one folder at once", "the second one ends with one clear line")
def test_two_repros(origin):
    given = {**reproduce.tool_environment(), "TRACE": str(origin.parent / "trace"), "HANG": "1"}
    process = subprocess.Popen(
        ["dvc", "repro", *stages(ALL[0])],
        cwd=origin,
        env=given,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until((origin / "runs" / ALL[0] / "weights").is_file)
        said = call(origin, "dvc", "repro", *stages(ALL[0]), fails=True)
        assert "is busy" in said or "Unable to acquire lock" in said
    finally:
        os.killpg(process.pid, 9)
        process.wait()


@pytest.mark.parametrize(
    "content", ["::: [", "schema: '2.0'\nstages:\n  train@attention-0: {cmd: 5}\n"]
)
@pytest.mark.fault("dvc.lock damaged", "DVC names the file and the place, and runs nothing")
def test_a_damaged_lock(origin, content):
    (origin / "dvc.lock").write_text(content)
    said = call(origin, "dvc", "repro", *stages(ALL[0]), fails=True)
    assert "dvc.lock' " in said and ("invalid" in said or "validation failed" in said)
    assert trained(origin) == [] and (origin / "dvc.lock").read_text() == content


@pytest.mark.fault(
    "an object of the remote damaged", "it is not taken; one line; what is whole comes"
)
def test_a_damaged_object(origin):
    call(origin, "dvc", "repro", *stages(*ALL[:2]))
    call(origin, "dvc", "push")
    shared = origin.parent / "shared" / "files"
    (spoiled,) = [p for p in shared.rglob("*") if p.is_file() and p.read_bytes() == ALL[0].encode()]
    spoiled.chmod(0o644)
    spoiled.write_bytes(b"Attention-0")
    shutil.rmtree(origin / ".dvc" / "cache")
    shutil.rmtree(origin / "runs")
    said = call(origin, "dvc", "pull", fails=True)
    assert f"runs/{ALL[0]}" in said
    assert collected(origin) == {ALL[1]: ALL[1]}
