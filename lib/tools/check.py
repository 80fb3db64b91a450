"""Execute the committed notebooks again with nbval, into a temporary folder, and compare: a part of `make test`.

| compared | on the recorded machine | on another one |
|---|---|---|
| text and structure of the outputs of cells tagged `nbval-check-output` | equal | equal |
| the numbers in them | equal | left out: they are those of the record |
| the record that the notebook writes, `metrics.json` | equal | every number inside its recorded band |

The recorded machine is the one that `metrics.json` names: processor, versions, threads and device (see `compare`).
Cells that fail, and checked claims that do not hold, fail everywhere. nbval starts the kernels, runs the cells and
compares their outputs; on another machine its own sanitising takes the numbers out of both sides first.
"""

import json
import os
import platform
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from nbval.plugin import IPyNbFile

from lib.common import gpu, machine, params
from lib.tools import compare, execute

# A number stands alone: digits inside a word, a name or a hash stay and must be equal.
NUMBERS = {
    r"(?<![\w.])[-+−]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)": "#",
    r"[ \t]+": " ",  # columns are as wide as their numbers
}


def check(names: Sequence[str] = (), profile: str = "sample") -> bool:
    """Execute the committed copies of some notebooks, or of all, and compare them; True when all are as recorded.

    Raises:
        UserError: a notebook has no committed copy.
    """
    folder = params.root()
    results = folder / "results" / profile
    copies = [results / name / "notebook.ipynb" for name in names]
    copies = copies or sorted(results.glob("*/notebook.ipynb"))
    for copy in copies:
        if not copy.is_file():
            raise params.UserError(
                f"{copy.relative_to(folder)}: not found; `dvc repro` makes the executed copies"
            )
    execute.prepare_kernel(params.load(profile))
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["NOTEBOOK_OUTPUT"] = scratch
        options = ["-o", "addopts=", "-v", "-p", "no:cacheprovider", f"--rootdir={folder}"]
        options += ["--nbval-lax", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
        code = pytest.main([*options, *map(str, copies)], plugins=[ExecutedCopies()])
    return code == pytest.ExitCode.OK


class ExecutedCopies:
    """A plugin of pytest: notebooks that nbval collects are compared as this module says."""

    @pytest.hookimpl(wrapper=True)
    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector):
        """Put `ExecutedCopy` in place of nbval's own collector."""
        collected = yield
        return [
            ExecutedCopy.from_parent(parent, path=file_path)
            if isinstance(collector, IPyNbFile)
            else collector
            for collector in collected
        ]


class ExecutedCopy(IPyNbFile):
    """An executed notebook: nbval's items, one for each cell, then one for the record that they wrote."""

    def collect(self) -> Iterator[pytest.Item]:
        """An item for each code cell, then the record."""
        yield from super().collect()
        yield WrittenRecord.from_parent(self, name="record")

    def setup(self) -> None:
        """Start the kernel; on another machine than the recorded one, leave the numbers out."""
        super().setup()
        if not on_machine_of(read_record(record_path(self.path))["run"]):
            self.sanitize_patterns.update(NUMBERS)


class WrittenRecord(pytest.Item):
    """The record that a notebook wrote when it was executed again, against the committed one."""

    def runtest(self) -> None:
        """Compare the two records."""
        committed = record_path(self.parent.path)
        written = Path(os.environ["NOTEBOOK_OUTPUT"]) / committed.relative_to(params.root())
        if not written.is_file():
            pytest.fail("no record was written: a cell before failed", pytrace=False)
        before, now = read_record(committed), read_record(written)
        same = compare.fingerprint(before["run"]) == compare.fingerprint(now["run"])
        off = compare.outside_band(before["metrics"], now["metrics"], exact=same)
        if off:
            where = "on the recorded machine" if same else "outside their band on another machine"
            pytest.fail(f"metrics that differ {where}: {', '.join(off)}", pytrace=False)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Where it stands, for the report."""
        return self.path, 0, f"{self.path.relative_to(params.root())}::record"


def record_path(copy: Path) -> Path:
    """Where the notebook of an executed copy writes its record; 06 comes after `gather` and writes beside it."""
    own = copy.parent / "metrics.json"
    return own if own.is_file() else copy.parents[1] / "verdicts.json"


def read_record(path: Path) -> dict:
    """A record that a notebook wrote: its `metrics` and its `run`."""
    return json.loads(path.read_text(encoding="utf-8"))


def on_machine_of(run: dict) -> bool:
    """Whether this process runs where a record was made; the number of threads is a parameter of the executed copy.

    A copy whose device is "auto" would take a GPU that was not there when a record was made on a CPU.
    """
    versions = {package: machine.version(package) for package in run["versions"]}
    here = [machine.processor(), platform.python_version(), versions]
    same_gpu = "torch" not in run["versions"] or gpu.present() == (run["device"] == "cuda")
    return same_gpu and here == [run["processor"], run["python"], run["versions"]]
