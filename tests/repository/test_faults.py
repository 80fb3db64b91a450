"""Faults injected for real: processes killed with SIGKILL, full disks, closed folders, dead kernels, damaged files.

The marker `fault` names the fault and what must happen; `make faults` runs all tests that carry it, wherever they
stand, and writes docs/faults.md. Each fault ends in one line and a non-zero exit code, saves what was saved, and
leaves nothing half-written.
"""

import json
import os
import shutil

import faults as table
import nbformat
import pytest
from faulty import (
    ROOT,
    WITHOUT_PRIVILEGES,
    child,
    finish,
    kill_at,
    one_line,
    public_folder,
    small_disk,
    under,
    wait_until,
)
from nbformat.v4 import new_code_cell, new_notebook

from lib.common import data

LEDGER = """
claims:
  - {id: a-claim, system: em, announced: gains 2 dB, test: mean gain, metric: gain_db, rule: {at_least: 2}}
"""
GATHER = """
import sys, time
from pathlib import Path
from lib.common import files, params
from lib.tools import cli, gather  # before privileges are dropped: Python itself may be closed then
params.root = lambda: Path(sys.argv[1])
"""
HANG_WHILE_WRITING = """
write = Path.write_text
def half(path, text, **how):
    if path.name.startswith(".headline."):
        write(path, text[: len(text) // 2])
        print("half", flush=True)
        time.sleep(60)
    return write(path, text, **how)
Path.write_text = half
"""
RUN_GATHER = "sys.exit(cli.main(['gather', 'sample']))"


def project(folder, metrics=3):
    """A study's record and a ledger: what `lib.tools.gather` reads."""
    records = folder / "results" / "sample" / "01_one"
    records.mkdir(parents=True)
    entries = {f"m{i}": {"value": 1.5, "n": 4} for i in range(metrics)} | {
        "gain_db": {"value": 2.5, "n": 4}
    }
    content = {"study": "01_one", "metrics": entries, "run": {"device": "cpu"}}
    (records / "metrics.json").write_text(json.dumps(content))
    (folder / "claims.yaml").write_text(LEDGER)
    return folder


@pytest.mark.fault(
    "kill -9 while metrics are gathered", "no file is half-written; the next run writes them all"
)
def test_killed_gathering(tmp_path):
    project(tmp_path)
    target = tmp_path / "results" / "sample"
    kill_at(child(GATHER + HANG_WHILE_WRITING + RUN_GATHER, tmp_path), "half")
    assert json.loads((target / "metrics.json").read_text())["metrics"]["gain_db"]["value"] == 2.5
    assert not (target / "headline.json").exists()
    assert finish(child(GATHER + RUN_GATHER, tmp_path)) == (0, [])
    assert {"headline.json", "metrics.json", "verdicts.md"} <= set(under(target))


@pytest.mark.fault(
    "disk full while metrics are gathered", "one line; the old files stay, no part of a new one"
)
def test_gathering_on_a_full_disk(tmp_path):
    with small_disk(tmp_path / "disk", 1 << 16) as (_, start):
        folder = project(tmp_path / "disk" / "p")
        assert finish(child(GATHER + RUN_GATHER, folder, start=start)) == (0, [])
        before = {
            name: (folder / name).read_bytes() for name in under(folder) if "01_one" not in name
        }
        record = folder / "results" / "sample" / "01_one" / "metrics.json"
        elsewhere = project(tmp_path / "large", metrics=1000) / record.relative_to(folder)
        record.unlink()
        record.symlink_to(elsewhere)  # a record too large for what would be gathered from it
        code, said = finish(child(GATHER + RUN_GATHER, folder, start=start))
        one_line(code, said, "error: [Errno")
        assert {
            name: (folder / name).read_bytes() for name in under(folder) if "01_one" not in name
        } == before


@pytest.mark.fault(
    "folder of the results without write permission",
    "one line that names the file; nothing changes",
)
def test_a_closed_folder():
    with public_folder() as outer:
        folder = project(outer / "p")
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        code, said = finish(child(GATHER + WITHOUT_PRIVILEGES + RUN_GATHER, folder))
        one_line(code, said, "error: [Errno 13] Permission denied", "results/sample")
        assert under(folder / "results") == ["sample/01_one/metrics.json"]


FETCH = """
import sys
from pathlib import Path
from lib.tools import fetch
from lib.tools.cli import main
fetch.ARCHIVE_URL = "http://127.0.0.1:9/archive"
sys.exit(main(["data", "fetch", "--cache", sys.argv[1]]))
"""


@pytest.mark.fault("disk full while the data are fetched", "one line; no part of a file stays")
def test_fetching_onto_a_full_disk(tmp_path):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for name, known in data.FULL.items():
        with (mirror / name).open("wb") as file:
            file.truncate(known.bytes)  # takes no space here
    with small_disk(tmp_path / "disk", 1 << 20) as (_, start):
        surroundings = {"CIFAR10_MIRROR": str(mirror), "PATH": "", "NO_PROXY": "127.0.0.1"}
        code, said = finish(child(FETCH, tmp_path / "disk" / "cache", start=start, **surroundings))
        one_line(code, said, "error: CIFAR-10 could not be fetched", "CIFAR10_MIRROR: [Errno")
        assert under(tmp_path / "disk") == ["cache/.lock"]


# ---------------------------------------------------------------- notebooks


SLOW = """
import os, pathlib, time
pathlib.Path("kernel").write_text(str(os.getpid()))
time.sleep(60 * ("HANG" in os.environ))
"""
EXECUTE = "import sys; from lib.tools import cli; sys.exit(cli.main(['execute', *sys.argv[1:]]))"


@pytest.fixture(scope="module")
def notebooks(tmp_path_factory):
    """A project of tiny notebooks with its own copy of lib, so that its folder is the root."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "params.yaml", folder)
    shutil.copytree(ROOT / "lib", folder / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "notebooks").mkdir()
    for name, cell in {"slow": SLOW, "dies": "import os\nos.kill(os.getpid(), 9)"}.items():
        declared = new_code_cell("seed = 0", metadata={"tags": ["parameters"]})
        about = {
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        }
        made = new_notebook(cells=[declared, new_code_cell(cell)], metadata=about)
        nbformat.write(made, folder / "notebooks" / f"{name}.ipynb")
    (folder / "notebooks" / "broken.ipynb").write_text('{"cells": [')
    for name in ("slow", "dies", "broken"):
        old = folder / "results" / "sample" / name / "notebook.ipynb"
        old.parent.mkdir(parents=True)
        old.write_text("the last good copy")
    return folder


def execute(folder, name, **environment):
    return finish(child(EXECUTE, name, cwd=folder, **environment))


def good_copy_stays(folder, name):
    copy = folder / "results" / "sample" / name / "notebook.ipynb"
    assert copy.read_text() == "the last good copy"
    assert under(folder / "results") == [
        f"sample/{other}/notebook.ipynb" for other in ("broken", "dies", "slow")
    ]


@pytest.mark.fault(
    "kill -9 while a notebook runs",
    "the last good copy stays, the kernel ends, the next run is whole",
)
def test_killed_papermill(notebooks):
    process = child(EXECUTE, "slow", cwd=notebooks, HANG="1")
    wait_until(lambda: (notebooks / "kernel").is_file() and (notebooks / "kernel").read_text())
    with process:
        process.kill()
    good_copy_stays(notebooks, "slow")
    kernel = int((notebooks / "kernel").read_text())
    wait_until(lambda: not os.path.exists(f"/proc/{kernel}"))
    copy = notebooks / "results" / "sample" / "slow" / "notebook.ipynb"
    try:
        code, said = execute(notebooks, "slow")
        assert code == 0, said
        assert nbformat.read(copy, as_version=4).cells[-1].execution_count
    finally:
        copy.write_text("the last good copy")


@pytest.mark.fault("kill -9 of a notebook's kernel", "one line; the last good copy stays")
def test_killed_kernel(notebooks):
    code, said = execute(notebooks, "dies")
    one_line(code, said[-1:], "error: notebooks/dies.ipynb failed: DeadKernelError")
    assert "Traceback" not in "".join(said)  # nbclient logs a line of its own before ours
    good_copy_stays(notebooks, "dies")


@pytest.mark.fault("a kernel that does not start", "one line; the last good copy stays")
def test_a_kernel_that_does_not_start(notebooks, tmp_path):
    spec = tmp_path / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(
        json.dumps({"argv": ["false"], "display_name": "Python 3", "language": "python"})
    )
    code, said = execute(notebooks, "slow", JUPYTER_PATH=str(tmp_path))
    one_line(code, said[-1:], "error: notebooks/slow.ipynb failed", "Kernel died")
    assert "Traceback" not in "".join(said)
    good_copy_stays(notebooks, "slow")


@pytest.mark.fault("a notebook's source that is no notebook", "one line; the last good copy stays")
def test_a_damaged_notebook(notebooks):
    one_line(*execute(notebooks, "broken"), "error: broken.ipynb: not a notebook")
    good_copy_stays(notebooks, "broken")


# ---------------------------------------------------------------- the table


def test_docs_faults_lists_what_the_tests_inject_and_all_is_survived():
    faults, record = table.marked(), json.loads(table.RECORD.read_text())
    names = [fault.what for fault in faults]
    assert len(set(names)) == len(names) >= 25
    assert set(record["outcomes"]) == set(names), "run `make faults` and commit what it writes"
    assert table.PAGE.read_text() == table.page(faults, record), (
        "run `make faults` and commit what it writes"
    )
    assert set(record["outcomes"].values()) == {"passed"}


def test_a_failed_case_is_not_covered_by_one_that_passed(tmp_path):
    (tmp_path / "test_two.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('good', [False, True, True])\n"
        "@pytest.mark.fault('a', 'b')\n"
        "def test_two(good): assert good\n"
        "@pytest.mark.parametrize('x', [pytest.param(1, marks=pytest.mark.fault('c', 'd'))])\n"
        "def test_one(x): pass\n"
    )
    assert table.marked(tmp_path) == [
        ("a", "b", "test_two.py::test_two"),
        ("c", "d", "test_two.py::test_one"),
    ]
    code = "import sys, pytest; sys.path.insert(0, sys.argv[2]); import faults; r = faults.Recorder()\n"
    code += (
        "pytest.main(['-q', '-p', 'no:cacheprovider', sys.argv[1]], plugins=[r]); print(r.outcomes)"
    )
    said = child(code, tmp_path / "test_two.py", ROOT / "benchmarks").communicate()[0]
    assert said.splitlines()[-1] == "{'a': 'failed', 'c': 'passed'}"
