"""Inject every fault that a test marks, and write down which were survived: `make faults` (minutes).

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

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lib.common import files, machine, record

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
    test: str


def marked(folder: Path = ROOT / "tests") -> list[Fault]:
    """All markers `pytest.mark.fault` of the tests, in the order of their files, read without running anything."""
    found = []
    for path in sorted(folder.glob("test_*.py")):
        for function in ast.parse(path.read_text(encoding="utf-8")).body:
            for node in (n for d in getattr(function, "decorator_list", ()) for n in ast.walk(d)):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.fault":
                    found.append(
                        Fault(*map(ast.literal_eval, node.args), f"{path.name}::{function.name}")
                    )
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


def page(faults: list[Fault], record: dict) -> str:
    """docs/faults.md from the markers and the record of the last run."""
    metrics, outcomes = record["metrics"], record["outcomes"]
    text = HEAD.replace("<INJECTED>", str(metrics["faults_injected"]["value"]))
    text = text.replace("<SURVIVED>", str(metrics["faults_survived"]["value"])).replace(
        "<SYSTEM>", record["system"]
    )
    for fault in faults:
        name = fault.test.split("::")[1]
        link = f"[{name}](../tests/{fault.test.split('::')[0]})"
        outcome = {"passed": "survived"}.get(outcomes[fault.what], outcomes[fault.what])
        text += f"| {fault.what} | {fault.expected} | {link} | {outcome} |\n"
    return text + TAIL


def main() -> int:
    faults, recorder = marked(), Recorder()
    tests = sorted({str(ROOT / "tests" / fault.test.split("::")[0]) for fault in faults})
    code = pytest.main(
        ["-m", "fault", "-p", "no:cacheprovider", "-p", "no:xdist", *tests], plugins=[recorder]
    )
    survived = sum(recorder.outcomes.get(fault.what) == "passed" for fault in faults)
    counts = {"faults_injected": len(faults), "faults_survived": survived}
    texts = {
        "faults_injected": "faults that tests inject",
        "faults_survived": "of them, with what is expected",
    }
    metrics = {
        k: record.metric(v, n=len(faults), what=texts[k], headline=True) for k, v in counts.items()
    }
    run = {"device": "cpu", **machine.environment()}
    record = {"study": "faults", "metrics": metrics, "run": run, "outcomes": recorder.outcomes}
    record["system"] = (
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    )
    files.write_json(RECORD, record)
    files.write_text(PAGE, page(faults, json.loads(RECORD.read_text())))
    print(f"{survived} of {len(faults)} faults survived; docs/faults.md is written")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
