"""Do the tests of the mixture bite? `python tests/mutations.py [NAME ...]` breaks the code in one place at a time.

Each mutation of tests/mutants.py is applied to a copy of lib and tests in a temporary folder, and the tests of the
mixture run there, the quickest first, until one fails: the mutation is killed. With IDLE=1 tests that have not failed by
then run once more under every mutation. Prints the table and the tests that no mutation makes fail and, without names,
writes benchmarks/mixture_mutations.json. Takes about ten minutes of one core; SECONDS=300 starts no further mutation
after 300 seconds and records those that were applied.
"""

import json
import os
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.dont_write_bytecode = True

import numpy  # noqa: E402, F401  (imported once; the children inherit it)
import pytest  # noqa: E402
import safetensors.torch  # noqa: E402, F401
import skimage.metrics  # noqa: E402, F401
import torch  # noqa: E402, F401
from mutants import MUTATIONS, Mutation, mutated, normalised  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
FILES = ("announced", "layers", "ranks", "attentive", "bank")  # tests/mixture/test_*.py


class Notes:
    """A pytest plugin: runs the quickest tests first, or some alone, and notes their seconds and which fail."""

    def __init__(self, seconds: dict[str, float], only: set[str] | None):
        self.order = seconds
        self.only = only
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []

    def pytest_collection_modifyitems(self, items):
        items.sort(key=lambda item: self.order.get(short(item.nodeid), 0))
        if self.only is not None:
            items[:] = [item for item in items if short(item.nodeid) in self.only]

    def pytest_runtest_logreport(self, report):
        name = short(report.nodeid)
        self.seconds[name] = self.seconds.get(name, 0) + report.duration
        if report.failed:
            self.failed.append(name)

    def pytest_collectreport(self, report):
        if report.failed:
            self.failed.append(f"import of {report.nodeid}")


def short(nodeid: str) -> str:
    return nodeid.removeprefix("tests/mixture/test_")


def run(
    mutation: Mutation | None, seconds: dict[str, float] | None = None, only: set[str] | None = None
) -> tuple[dict[str, float], list[str]]:
    """Seconds of the tests that ran and the names of those that failed, in a copy with the mutation.

    Stops at the first failure, unless there is no mutation or `only` some tests are asked for. Without a mutation all
    modules that have one are normalised, as a mutated one is, so that no test can fail for its layout.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = copy_project(Path(folder).resolve())
        if mutation is None:
            for name in sorted({other.path for other in MUTATIONS}):
                path = copy / name
                path.write_text(normalised(path.read_text()))
        else:
            path = copy / mutation.path
            path.write_text(mutated(path.read_text(), mutation))
        names = FILES if mutation is None else mutation.tests
        arguments = [f"tests/mixture/test_{name}.py" for name in names]
        if mutation is not None and only is None:
            arguments.append("-x")
        return run_pytest(copy, arguments, Notes(seconds or {}, only))


def copy_project(folder: Path) -> Path:
    """What the tests of the mixture need, in `folder`."""
    for name in ("lib", "tests", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "data").symlink_to(ROOT / "data")
    return folder


def run_pytest(
    copy: Path, arguments: list[str], notes: Notes
) -> tuple[dict[str, float], list[str]]:
    """pytest in a forked process, which has torch but nothing of lib loaded."""
    read_end, write_end = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forking beside threads: there are none yet that matter
        child = os.fork()
    if child == 0:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        os.chdir(copy)
        sys.path.insert(0, str(copy))
        options = ["-p", "no:cacheprovider", "-p", "no:xdist", "--tb=no", f"--rootdir={copy}"]
        pytest.main([*options, *arguments], [notes])
        found = [notes.seconds, sorted(set(notes.failed))]
        os.write(write_end, json.dumps(found).encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    seconds, failed = json.loads(text or '[{}, ["the process died"]]')
    return seconds, failed


def main() -> None:
    wanted = sys.argv[1:]
    chosen = [mutation for mutation in MUTATIONS if not wanted or mutation.name in wanted]
    seconds, failing = run(None)
    if failing:
        sys.exit(f"the tests fail without any mutation: {', '.join(failing)}")
    print(f"{len(seconds)} tests take {sum(seconds.values()):.0f} s", flush=True)
    applied, killed, noticing = apply_all(chosen, seconds)
    idle = set(seconds) - noticing
    if os.environ.get("IDLE") == "1":
        for mutation in killed:  # tests that others forestalled
            if idle:
                _, failed = run(mutation, seconds, idle)
                idle -= set(failed)
    print(f"{len(killed)} of {len(applied)} mutations killed; {len(seconds)} tests")
    print("these failed first in none:", *sorted(idle), sep="\n")
    if not wanted:
        write(len(seconds), len(applied), len(killed), len(idle))


def apply_all(
    chosen: list[Mutation], seconds: dict[str, float]
) -> tuple[list[Mutation], list[Mutation], set[str]]:
    """The mutations that were applied before the time was up, those that were killed, and the tests that noticed."""
    limit = float(os.environ.get("SECONDS", "inf"))
    started = time.monotonic()
    applied, killed, noticing = [], [], set()
    all_parts_early = [*chosen[::3], *chosen[1::3], *chosen[2::3]]  # where time is limited
    for mutation in all_parts_early:
        if time.monotonic() - started > limit:
            break
        _, failed = run(mutation, seconds)
        applied.append(mutation)
        if failed:
            killed.append(mutation)
        noticing.update(failed)
        first = failed[0] if failed else "SURVIVES"
        print(f"{mutation.module:14} {mutation.name:52} {first}", flush=True)
    return applied, killed, noticing


def write(tests: int, mutations: int, killed: int, idle: int) -> None:
    """The record that the gather stage reads."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import recording

    from lib.common import record

    what = "tests of the mixture, parametrised ones counted one by one"
    found = {"mixture_tests": record.metric(tests, n=1, what=what, headline=True)}
    found["mixture_mutations"] = record.metric(
        mutations, n=1, what="mutations applied", headline=True
    )
    found["mixture_mutations_killed"] = record.metric(
        killed, n=1, what="mutations that a test noticed", headline=True
    )
    found["mixture_tests_idle"] = record.metric(
        idle, n=1, what="tests that failed first under none of them"
    )
    recording.write("mixture_mutations", found, {"device": "cpu", "seed": 0, "threads": 1})


if __name__ == "__main__":
    main()
