"""Run the whole pipeline in a copy of the last commit: `make reproduce` and `make full`.

`reproduce` forces every stage of the sample profile in a fresh clone under `.reproduce/` and compares: on the same
processor, versions and threads every committed file must come out equal byte for byte; elsewhere every metric must
lie within the band that stands beside it in `metrics.json`. `full` runs the full profile in a clone under `.full/`
that stays between calls, so that an interrupted run goes on where it was, and brings back what it made.
"""

import contextlib
import fcntl
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

from lib.common import claims, files, machine, params, record, tables
from lib.tools import compare, gather

SIDE_BY_SIDE = 2  # stages that run at the same time
# How the lines begin in which DVC tells people what to do next; here nothing of it is to be done.
DVC_HINTS = (
    "Updating lock",
    "Generating lock",
    "> ",
    "To track the",
    "git add",
    "To enable auto",
    "dvc c",
    "Use `dvc",
)


# --- make reproduce --------------------------------------------------------------------------------------------------


def reproduce(
    folder: Path, profile: str = "sample", started: float | None = None, record: bool = False
) -> bool:
    """Run the pipeline in a fresh clone of `folder`'s last commit and print what came out beside what is recorded.

    Args:
        folder: the project's root.
        started: seconds since the epoch at which the user's command began (with the installation), else now.
        record: also write the seconds to `benchmarks/reproduce.json`, for the committed record.

    Returns:
        True when everything is equal, or inside its band on another machine.
    """
    started = started or time.time()
    place = f"results/{profile}/metrics.json"
    with _only_one(folder / ".reproduce"):
        copy = clone(folder, folder / ".reproduce" / "tree")
        recorded = read_collected(_git(copy, "show", f"HEAD:{place}"), f"the committed {place}")
        seconds_by_stage = run_pipeline(copy, profile, started)
        found = read_collected((copy / place).read_text(encoding="utf-8"), place)

        recorded_machine = fingerprint(found, copy) == fingerprint(recorded, copy)
        changed = _git(copy, "status", "--porcelain", "--", f"results/{profile}").splitlines()
        off = compare.outside_band(recorded["metrics"], found["metrics"], exact=recorded_machine)
        good = not off and not (recorded_machine and changed)
        seconds = round(time.time() - started)

        ledger = claims.load_ledger(copy / "claims.yaml")
        stages = ", ".join(f"{name} {value}" for name, value in seconds_by_stage.items())
        where = "the recorded one" if recorded_machine else "another one than the recorded"
        print(report(recorded["metrics"], found["metrics"], ledger))
        print(f"\nseconds by stage, two at a time: {stages}")
        print(f"\nmachine: {where}")
        print(f"files that differ from the committed ones: {len(changed)}", *changed, sep="\n  ")
        print(f"metrics outside their band: {', '.join(off) or 'none'}")
        print(f"results: {(copy / 'results' / profile).relative_to(folder)}")
        print(f"{'REPRODUCED' if good else 'NOT REPRODUCED'} in {_clock(seconds)}")
        if record and good:
            write_seconds(folder / "benchmarks" / "reproduce.json", seconds)
    return good


def read_collected(text: str, place: str) -> dict[str, Any]:
    """What `gather` wrote. UserError: it is damaged."""
    try:
        collected = json.loads(text)
        return {"metrics": collected["metrics"], "runs": collected["runs"]}
    except (ValueError, KeyError, TypeError):
        raise params.UserError(f"{place}: not readable; `dvc repro` makes it again") from None


def fingerprint(collected: dict[str, Any], folder: Path) -> dict[str, list]:
    """What decides the last bits of each study's results; the benchmarks of `folder` are no stages and do not count."""
    paths = gather.records(folder / "benchmarks")
    benchmarks = {gather.read_study(path)["study"] for path in paths}
    runs = collected["runs"]
    return {name: compare.fingerprint(runs[name]) for name in runs if name not in benchmarks}


def report(recorded: dict[str, dict], found: dict[str, dict], ledger: list[claims.Claim]) -> str:
    """The verdict table for a terminal, measured beside recorded."""
    lines = [f"{'claim':34} {'measured':>34} {'recorded':>34}  verdict"]
    before = claims.judge_all(recorded, ledger)
    now = claims.judge_all(found, ledger)
    for then, verdict in zip(before, now, strict=True):
        measured, noted = tables.number(verdict.entry), tables.number(then.entry)
        changed = "" if then.verdict == verdict.verdict else f" (recorded: {then.verdict})"
        row = f"{verdict.claim.id:34} {measured:>34} {noted:>34}  {verdict.verdict}{changed}"
        lines.append(row)
    return "\n".join(lines)


def write_seconds(path: Path, seconds: int) -> None:
    """Record how long `make reproduce` took, as a benchmark that `gather` reads."""
    what = "seconds of `make reproduce` in an empty folder, installation included"
    entry = record.metric(seconds, unit="s", n=1, what=what, headline=True)
    run = {"device": "cpu", "cores": os.cpu_count(), **machine.environment()}
    files.write_json(
        path, {"study": "reproduce", "metrics": {"reproduce_seconds": entry}, "run": run}
    )


# --- make full -------------------------------------------------------------------------------------------------------


def full(folder: Path, only: Sequence[str] = ()) -> None:
    """Run the full profile and bring back `results/full` and the lock entries of its stages.

    Stages that are up to date are not run again, and a training goes on from its last checkpoint.

    Args:
        folder: the project's root.
        only: the stages of this call; they, what they need, and the metrics gathered so far.
    """
    with _only_one(folder / ".full"):
        copy = clone_that_stays(folder, folder / ".full" / "tree")
        choose_full(copy / "params.yaml")
        seconds = run_pipeline(copy, "full", time.time(), force=False, only=only)
        results = folder / "results" / "full"
        shutil.copytree(copy / "results" / "full", results, dirs_exist_ok=True)
        shutil.copy2(copy / "dvc.lock", folder / "dvc.lock")
        noted = results / "seconds.json"  # of all calls so far, for the README
        before = params.read_yaml(noted) if noted.is_file() else {}
        files.write_json(noted, before | seconds)
        if only:
            gather.gather("full", folder)
        print("results/full is up to date; commit it with dvc.lock")


def choose_full(path: Path) -> None:
    """Set a copy's params.yaml to the full profile and its seeds; comments and all else stay.

    Raises:
        UserError: the file is laid out in a way that this does not change rightly.
    """
    seeds = params.load(path=path).full_seeds
    several = ", ".join(f"{study}: {list(numbers)}" for study, numbers in seeds)
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"^profile: \w+", "profile: full", text, flags=re.MULTILINE)
    text = re.sub(r"^seeds: \{.*?\}", f"seeds: {{{several}}}", text, flags=re.MULTILINE)
    files.write_text(path, text)
    changed = params.load(path=path)
    if changed.profile != "full" or changed.seeds != seeds:
        raise params.UserError(
            f"{path.name}: write `profile: sample` and `seeds: {{...}}` on a line of their own each"
        )


def clone_that_stays(folder: Path, target: Path) -> Path:
    """A clone of the last commit of `folder` that keeps its cache, its checkpoints and an unfinished run's stages."""
    if not target.is_dir():
        return clone(folder, target)
    lock = target / "dvc.lock"
    before = params.read_yaml(lock) if lock.is_file() else {}
    _git(target, "fetch", "--quiet", "origin", "HEAD")
    _git(target, "checkout", "--quiet", "--force", "--detach", "FETCH_HEAD")
    keep_entries(lock, before)
    return target


def keep_entries(lock: Path, before: dict[str, Any]) -> None:
    """Put the stages of an earlier lock back that the one checked out does not know: an unfinished run's."""
    now = params.read_yaml(lock) if lock.is_file() else {"schema": "2.0"}
    stages = {**before.get("stages", {}), **now.get("stages", {})}
    files.write_text(lock, yaml.safe_dump({**now, "stages": stages}, sort_keys=False))


# --- the pipeline in a copy ------------------------------------------------------------------------------------------


def clone(folder: Path, target: Path) -> Path:
    """A fresh clone of the last commit of `folder`, in place of an earlier one."""
    if _git(folder, "status", "--porcelain"):
        print("note: uncommitted changes are not part of this run; it takes the last commit")
    shutil.rmtree(target, ignore_errors=True)
    _git(folder, "clone", "--quiet", str(folder), str(target))
    return target


def run_pipeline(
    copy: Path, profile: str, started: float, force: bool = True, only: Sequence[str] = ()
) -> dict[str, int]:
    """`dvc pull` the data and run the stages, printing stage n of m and the time elapsed.

    Args:
        copy: the clone to run in.
        started: when the user's command began, seconds since the epoch.
        force: run every stage, also those that are up to date, two at a time where neither waits for the other.
        only: without `force`, these stages and what they need.

    Returns:
        The seconds of each stage that ran.

    Raises:
        UserError: a stage failed; its output stands above.
    """
    _call(copy, "dvc", "pull", "--quiet", "data.dvc")
    total = len(_call(copy, "dvc", "stage", "list", "--name-only").split())
    progress = Progress(total, started)
    if force:
        _run_every_stage(copy, profile, progress)
    else:
        _repro(copy, progress, profile, "--pull", *only)  # what the store holds is not made again
    return progress.seconds


def _run_every_stage(copy: Path, profile: str, progress: "Progress") -> None:
    """Run each stage when what it needs is done, two side by side, those with much behind them first."""
    needs = stage_needs(copy)
    behind = longest_chains(needs)
    order = TopologicalSorter(needs)
    order.prepare()
    ready: list[str] = []
    running: dict[Future, str] = {}
    with ThreadPoolExecutor(max_workers=SIDE_BY_SIDE) as pool:
        while order.is_active():
            ready += order.get_ready()
            ready.sort(key=lambda name: -behind[name])
            while ready and len(running) < SIDE_BY_SIDE:
                name = ready.pop(0)
                task = pool.submit(
                    _repro, copy, progress, profile, "--force", "--single-item", name
                )
                running[task] = name
            for task in wait(running, return_when=FIRST_COMPLETED).done:
                task.result()  # of a stage that failed: its error, once the one beside it has ended
                order.done(running.pop(task))


def stage_needs(copy: Path) -> dict[str, set[str]]:
    """The stages that each stage needs, by name."""
    from dvc.repo import Repo

    with Repo(str(copy)) as repo:
        graph = repo.index.graph  # an edge leads from a stage to what it needs
        stages = [stage for stage in graph.nodes if hasattr(stage, "name")]  # data.dvc has no name
        needs = {}
        for stage in stages:
            needs[stage.name] = {other.name for other in graph.successors(stage) if other in stages}
    return needs


def longest_chains(needs: dict[str, set[str]]) -> dict[str, int]:
    """How many stages stand in the longest chain that waits for each stage."""
    behind = dict.fromkeys(needs, 0)
    first_to_last = list(TopologicalSorter(needs).static_order())
    for name in reversed(first_to_last):
        for need in needs[name]:
            behind[need] = max(behind[need], behind[name] + 1)
    return behind


class Progress:
    """Prints stage n of m and the time elapsed, and notes each one's seconds; stages may run side by side."""

    def __init__(self, total: int, started: float):
        self.total, self.started = total, started
        self.done = 0
        self.seconds: dict[str, int] = {}

    def stage(self, name: str) -> str:
        """A stage begins; what to say of it if it fails."""
        self.done += 1
        place = f"stage {self.done} of {self.total}"
        print(f"[{_clock(time.time() - self.started)}] {place}: {name}", flush=True)
        return f"{place} failed: {name}"


def _repro(copy: Path, progress: Progress, profile: str, *arguments: str) -> None:
    """`dvc repro`, its lines passed on; the seconds of each stage go to `progress`."""
    process = subprocess.Popen(
        ["dvc", "--wait-for-lock", "repro", *arguments],
        cwd=copy,
        env=tool_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    fault = f"dvc {' '.join(arguments)} failed"
    began = []  # (stage, when)
    for line in process.stdout or ():
        stage = re.match(r"Running stage '(.+)'", line)
        if stage:
            fault = progress.stage(stage[1])
            began.append((stage[1], time.time()))
        elif line.strip() and not line.strip().startswith(DVC_HINTS):
            print(f"    {line.rstrip()}", flush=True)
    if process.wait():
        raise params.UserError(f"{fault} ({profile}); its output stands above")
    began.append(("the end", time.time()))
    for (name, start), (_, end) in itertools.pairwise(began):
        progress.seconds[name] = round(end - start)


def tool_environment() -> dict[str, str]:
    """The process environment with this Python's own tools first, since a stage runs the `python` that PATH names."""
    own = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": os.pathsep.join([own, os.environ.get("PATH", "")])}


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold `folder` against a second call; the system frees it when a process dies."""
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise params.UserError(
                f"{folder.name}/ is in use: another `make reproduce` is running"
            ) from None
        yield


def _git(folder: Path, *arguments: str) -> str:
    return _call(folder, "git", *arguments)


def _call(folder: Path, *command: str) -> str:
    """What a command says; UserError: it failed."""
    run = subprocess.run(
        command, cwd=folder, env=tool_environment(), capture_output=True, text=True, check=False
    )
    if run.returncode:
        raise params.UserError(f"{' '.join(command[:2])} failed: {' '.join(run.stderr.split())}")
    return run.stdout


def _clock(seconds: float) -> str:
    """Minutes and seconds, as 9:08."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
