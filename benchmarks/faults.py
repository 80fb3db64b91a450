"""Inject every fault that a test marks, and write down which were survived: `make faults` (minutes).

With files of tests as arguments only theirs are injected again; the other outcomes stay as they were recorded.

A test says `@pytest.mark.fault(what, expected)`, or a case of it does; it passes when exactly that happened. Writes
benchmarks/faults.json and docs/faults.md; a test compares both with the markers that stand in tests/.
"""

import ast
import json
import platform
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import recording
from recording import ROOT

from lib.common import files, record

RECORD, PAGE = ROOT / "benchmarks" / "faults.json", ROOT / "docs" / "faults.md"
HEAD = """# Faults

Each row is injected for real by a test that `make test` runs; survived means that exactly what is expected came about.
`make faults` runs them all and writes this page from the markers of the tests and from [its record](../benchmarks/faults.json).

<INJECTED> faults injected, <SURVIVED> survived. The last run was on <SYSTEM>. A full disk is a tmpfs of a few kilobytes to megabytes where
the system lets the test mount one, else a limit on the size of files (`RLIMIT_FSIZE`); a closed folder is one that the
process, its privileges dropped, may not write.

| fault | what must happen | test | outcome |
|---|---|---|---|
"""
TAIL = """
"One line" is one line on standard error and a non-zero exit code, without a traceback: `python -m lib --debug ...`
shows it. DVC and nbclient may add lines of their own before it. What DVC does not notice: a file of its local cache
that was changed on the disk behind its back. The data are therefore checked by sha256 in notebook 01, objects of a
remote when they are pulled (`verify` in .dvc/config), and `make reproduce` takes nothing from a cache.
"""


class Fault(NamedTuple):
    """A marker: what is injected, what must happen, and the test that does it."""

    what: str
    expected: str
    test: str  # as pytest names it, seen from tests/


def marked(folder: Path = ROOT / "tests") -> list[Fault]:
    """All markers `pytest.mark.fault` of the tests, in the order of their files, read without running anything."""
    found = []
    for path in sorted(folder.rglob("test_*.py")):
        for function in ast.parse(path.read_text(encoding="utf-8")).body:
            test = f"{path.relative_to(folder).as_posix()}::{getattr(function, 'name', '')}"
            for decorator in getattr(function, "decorator_list", ()):
                for node in ast.walk(decorator):
                    if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.fault":
                        what, expected = map(ast.literal_eval, node.args)
                        found.append(Fault(what, expected, test))
    return found


class Recorder:
    """A pytest plugin: the outcome of each fault, the worst one where several cases inject it."""

    def __init__(self):
        self.outcomes: dict[str, str] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item):
        report = yield
        for mark in item.iter_markers("fault"):
            worse = report.failed or (report.when == "call" and mark.args[0] not in self.outcomes)
            if worse or report.skipped:
                self.outcomes[mark.args[0]] = report.outcome
        return report


def page(faults: list[Fault], run: dict) -> str:
    """docs/faults.md from the markers and the record of the last run."""
    metrics, outcomes = run["metrics"], run["outcomes"]
    text = HEAD.replace("<INJECTED>", str(metrics["faults_injected"]["value"]))
    text = text.replace("<SURVIVED>", str(metrics["faults_survived"]["value"])).replace(
        "<SYSTEM>", run["system"]
    )
    for fault in faults:
        file, name = fault.test.split("::")
        outcome = {"passed": "survived"}.get(outcomes[fault.what], outcomes[fault.what])
        link = f"[{name}](../tests/{file})"
        text += f"| {fault.what} | {fault.expected} | {link} | {outcome} |\n"
    return text + TAIL


def main() -> int:
    faults, recorder = marked(), Recorder()
    known = json.loads(RECORD.read_text())["outcomes"] if sys.argv[1:] else {}
    everywhere = {str(ROOT / "tests" / fault.test.split("::")[0]) for fault in faults}
    tests = sys.argv[1:] or sorted(everywhere)
    code = pytest.main(
        ["-m", "fault", "-p", "no:cacheprovider", "-p", "no:xdist", *tests], plugins=[recorder]
    )
    outcomes = known | recorder.outcomes
    outcomes = {fault.what: outcomes[fault.what] for fault in faults if fault.what in outcomes}
    survived = sum(outcome == "passed" for outcome in outcomes.values())
    metrics = {
        "faults_injected": record.metric(
            len(faults), n=len(faults), what="faults that tests inject", headline=True
        ),
        "faults_survived": record.metric(
            survived, n=len(faults), what="of them, with what is expected", headline=True
        ),
    }
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    more = {"outcomes": outcomes, "system": system}
    written = recording.write("faults", metrics, {"device": "cpu"}, **more)
    files.write_text(PAGE, page(faults, json.loads(written.read_text())))
    print(f"{survived} of {len(faults)} faults survived; docs/faults.md is written")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
