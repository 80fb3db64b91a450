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
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

from lib.common import claims, files, machine, params, record, tables
from lib.tools import compare, gather

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
    with _only_one(folder / ".reproduce"):
        copy = clone(folder, folder / ".reproduce" / "tree")
        place = f"results/{profile}/metrics.json"
        recorded = read_collected(_git(copy, "show", f"HEAD:{place}"), f"the committed {place}")
        spent = run_pipeline(copy, profile, started)
        found = read_collected((copy / place).read_text(), place)
        equal_machine = fingerprint(found, copy) == fingerprint(recorded, copy)
        changed = _git(copy, "status", "--porcelain", "--", f"results/{profile}").splitlines()
        off = compare.outside_band(recorded["metrics"], found["metrics"], exact=equal_machine)
        ok = not off and not (equal_machine and changed)
        seconds = round(time.time() - started)
        print(
            report(recorded["metrics"], found["metrics"], claims.load_ledger(copy / "claims.yaml"))
        )
        print(
            "\nseconds by stage, two at a time: "
            + ", ".join(f"{name} {value}" for name, value in spent.items())
        )
        print(
            f"\nmachine: {'the recorded one' if equal_machine else 'another one than the recorded'}"
        )
        print(f"files that differ from the committed ones: {len(changed)}", *changed, sep="\n  ")
        print("metrics outside their band: " + (", ".join(off) or "none"))
        print(f"results: {(copy / 'results' / profile).relative_to(folder)}")
        print(f"{'REPRODUCED' if ok else 'NOT REPRODUCED'} in {_clock(seconds)}")
        if record and ok:
            write_seconds(folder / "benchmarks" / "reproduce.json", seconds)
        return ok


def full(folder: Path, only: Sequence[str] = ()) -> None:
    """Run the full profile and bring back `results/full` and the lock entries of its stages.

    Stages that are up to date are not run again, and a training goes on from its last checkpoint. `only` names
    studies of one sitting: they, what they need, and the metrics gathered so far.
    """
    with _only_one(folder / ".full"):
        copy = folder / ".full" / "tree"
        if copy.is_dir():  # keep its cache and checkpoints, take over the last commit
            before = params.read_yaml(copy / "dvc.lock") if (copy / "dvc.lock").is_file() else {}
            _git(copy, "fetch", "--quiet", "origin", "HEAD")
            _git(copy, "checkout", "--quiet", "--force", "--detach", "FETCH_HEAD")
            keep_entries(copy / "dvc.lock", before)
        else:
            clone(folder, copy)
        choose_full(copy / "params.yaml")
        seconds = run_pipeline(copy, "full", time.time(), force=False, only=only)
        shutil.copytree(copy / "results" / "full", folder / "results" / "full", dirs_exist_ok=True)
        shutil.copy2(copy / "dvc.lock", folder / "dvc.lock")
        noted = folder / "results" / "full" / "seconds.json"  # over all sittings, for the README
        files.write_json(noted, (params.read_yaml(noted) if noted.is_file() else {}) | seconds)
        if only:
            gather.gather("full", folder)
        print("results/full is up to date; commit it with dvc.lock")


def choose_full(path: Path) -> None:
    """Set a copy's params.yaml to the full profile and its seeds; comments and all else stay.

    Raises:
        UserError: the file is laid out in a way that this does not change rightly.
    """
    seeds = params.load(path=path).full_seeds
    line = ", ".join(f"{study}: {list(several)}" for study, several in seeds)
    text = re.sub(
        r"^profile: \w+", "profile: full", path.read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    files.write_text(
        path, re.sub(r"^seeds: \{.*?\}", f"seeds: {{{line}}}", text, flags=re.MULTILINE)
    )
    changed = params.load(path=path)
    if changed.profile != "full" or changed.seeds != seeds:
        raise params.UserError(
            f"{path.name}: write `profile: sample` and `seeds: {...}` on a line of their own each"
        )


def keep_entries(lock: Path, before: dict[str, Any]) -> None:
    """Put the stages of an earlier lock back that the one checked out does not know: an unfinished run's."""
    now = params.read_yaml(lock) if lock.is_file() else {"schema": "2.0"}
    stages = {**before.get("stages", {}), **now.get("stages", {})}
    files.write_text(lock, yaml.safe_dump({**now, "stages": stages}, sort_keys=False))


def clone(folder: Path, target: Path) -> Path:
    """A fresh clone of the last commit of `folder`, in place of an earlier one."""
    if _git(folder, "status", "--porcelain"):
        print("note: uncommitted changes are not part of this run; it takes the last commit")
    shutil.rmtree(target, ignore_errors=True)
    _git(folder, "clone", "--quiet", str(folder), str(target))
    return target


def run_pipeline(
    copy: Path, profile: str, started: float, force=True, only: Sequence[str] = ()
) -> dict[str, int]:
    """`dvc pull` the data and run the stages, printing stage n of m and the time elapsed.

    With `force` every stage runs, also those that are up to date, two at a time where neither waits for the other.
    Returns the seconds of each stage that ran. UserError: a stage failed; its output stands above.
    """
    _call(copy, "dvc", "pull", "--quiet", "data.dvc")
    said = Progress(len(_call(copy, "dvc", "stage", "list", "--name-only").split()), started)
    if not force:
        return _repro(
            copy, said, profile, "--pull", *only
        )  # what the store holds is not made again
    needs, running = stage_needs(copy), {}
    order = TopologicalSorter(needs)
    order.prepare()
    depth = {
        name: 0 for name in needs
    }  # stages in the longest chain behind it: those with much behind them go first
    for name in reversed([*TopologicalSorter(needs).static_order()]):
        depth |= {need: max(depth[need], depth[name] + 1) for need in needs[name]}
    ready = []
    with ThreadPoolExecutor(max_workers=2) as pool:
        while order.is_active():
            ready = sorted([*ready, *order.get_ready()], key=lambda name: -depth[name])
            while ready and len(running) < 2:
                task = pool.submit(
                    _repro, copy, said, profile, "--force", "--single-item", ready[0]
                )
                running[task] = ready.pop(0)
            for task in wait(running, return_when=FIRST_COMPLETED).done:
                task.result()  # of a stage that failed: its error, once the one beside it has ended
                order.done(running.pop(task))
    return said.seconds


class Progress:
    """Prints stage n of m and the time elapsed, and notes each one's seconds; stages may run side by side."""

    def __init__(self, total: int, started: float):
        self.total, self.started, self.done, self.seconds = total, started, 0, {}

    def stage(self, name: str) -> str:
        """A stage begins; which one, for people."""
        self.done += 1
        print(
            f"[{_clock(time.time() - self.started)}] stage {self.done} of {self.total}: {name}",
            flush=True,
        )
        return f"stage {self.done} of {self.total} failed: {name}"


def stage_needs(copy: Path) -> dict[str, set[str]]:
    """The stages that each stage needs, by name."""
    from dvc.repo import Repo

    with Repo(str(copy)) as repo:
        graph = (
            repo.index.graph
        )  # an edge leads from a stage to what it needs; data.dvc is no stage and has no name
        stages = [stage for stage in graph.nodes if hasattr(stage, "name")]
        return {
            s.name: {other.name for other in graph.successors(s) if other in stages} for s in stages
        }


def _repro(copy: Path, said: Progress, profile: str, *arguments: str) -> dict[str, int]:
    how = {
        "cwd": copy,
        "env": tool_environment(),
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
    }
    process = subprocess.Popen(["dvc", "--wait-for-lock", "repro", *arguments], **how)
    fault = f"dvc {' '.join(arguments)} failed"
    ran = []  # names and when they began
    for line in process.stdout or ():
        if stage := re.match(r"Running stage '(.+)'", line):
            fault = said.stage(stage[1])
            ran.append((stage[1], time.time()))
        elif line.strip() and not line.strip().startswith(DVC_HINTS):
            print(f"    {line.rstrip()}", flush=True)
    if process.wait():
        raise params.UserError(f"{fault} ({profile}); its output stands above")
    for (name, began), (_, ended) in itertools.pairwise([*ran, ("", time.time())]):
        said.seconds[name] = round(ended - began)
    return said.seconds


def tool_environment() -> dict[str, str]:
    """The process environment with this Python's own tools first, since a stage runs the `python` that PATH names."""
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }


def read_collected(text: str, place: str) -> dict[str, Any]:
    """What `gather` wrote. UserError: it is damaged."""
    try:
        collected = json.loads(text)
        return {"metrics": collected["metrics"], "runs": collected["runs"]}
    except (ValueError, KeyError, TypeError):
        raise params.UserError(f"{place}: not readable; `dvc repro` makes it again") from None


def fingerprint(collected: dict[str, Any], folder: Path) -> dict[str, list]:
    """What decides the last bits of each study's results; the benchmarks of `folder` are no stages and do not count."""
    benchmarks = {
        gather.read_study(path)["study"] for path in gather.records(folder / "benchmarks")
    }
    runs = {name: run for name, run in collected["runs"].items() if name not in benchmarks}
    return {name: compare.fingerprint(run) for name, run in runs.items()}


def report(recorded: dict[str, dict], found: dict[str, dict], ledger: list[claims.Claim]) -> str:
    """The verdict table for a terminal, measured beside recorded."""
    lines = [f"{'claim':34} {'measured':>34} {'recorded':>34}  verdict"]
    then = {v.claim.id: v for v in claims.judge_all(recorded, ledger)}
    for now in claims.judge_all(found, ledger):
        before = then[now.claim.id]
        changed = "" if before.verdict == now.verdict else f" (recorded: {before.verdict})"
        measured, noted = tables.number(now.entry), tables.number(before.entry)
        lines.append(f"{now.claim.id:34} {measured:>34} {noted:>34}  {now.verdict}{changed}")
    return "\n".join(lines)


def write_seconds(path: Path, seconds: int) -> None:
    """Record how long `make reproduce` took, as a benchmark that `gather` reads."""
    what = "seconds of `make reproduce` in an empty folder, installation included"
    entry = record.metric(seconds, unit="s", n=1, what=what, headline=True)
    run = {"device": "cpu", "cores": os.cpu_count(), **machine.environment()}
    files.write_json(
        path, {"study": "reproduce", "metrics": {"reproduce_seconds": entry}, "run": run}
    )


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
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
    run = subprocess.run(
        command, cwd=folder, env=tool_environment(), capture_output=True, text=True
    )
    if run.returncode:
        raise params.UserError(f"{' '.join(command[:2])} failed: {' '.join(run.stderr.split())}")
    return run.stdout


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
