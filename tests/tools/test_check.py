"""lib/tools/check.py: what `make test` promises of the committed notebooks, on the recorded machine and on another.

Without a second machine: a committed copy is changed as if another machine had made it, and executed here.
"""

import json
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from lib.common import machine, params
from lib.tools import check, compare

ROOT = params.root()
SAMPLE = ROOT / "results" / "sample"
COPIES = sorted(SAMPLE.glob("*/notebook.ipynb"))
BAND = 0.1  # of the tiny notebook's one metric, whose value is 2.5

STUDY = """
from lib.common import params
from lib.common.record import Record
record = Record(study, profile="sample", seed=0, threads=2)
record.add("gain_db", 2.5, what="gain", unit="dB", n=4, band=0.1)
record.write(params.output_folder(output))
gain = record.metrics["gain_db"]["value"]
"""
SHOWN = 'print(f"mean gain {gain:8.3f} dB on  4 images")\nprint(f"{gain > 0!s:5}  it gains")'
OUTPUT = "mean gain    2.500 dB on  4 images\nTrue   it gains\n"
HERE, ELSEWHERE = "the recorded machine", "another machine"

# name: where the record was made, what its copy shows, what its record says, and whether the check is content.
CASES = {
    "equal_here": (HERE, OUTPUT, 2.5, True),
    "equal_elsewhere": (ELSEWHERE, OUTPUT, 2.5, True),
    "inside_here": (HERE, OUTPUT.replace("2.500", "2.581"), 2.581, False),
    "inside_elsewhere": (ELSEWHERE, OUTPUT.replace("2.500", "2.581"), 2.581, True),
    "shorter_elsewhere": (ELSEWHERE, OUTPUT.replace("   2.500", "  12.5"), 2.45, True),
    "record_alone_here": (HERE, OUTPUT, 2.581, False),
    "output_alone_here": (HERE, OUTPUT.replace("2.500", "2.501"), 2.5, False),
    "beyond_here": (HERE, OUTPUT.replace("2.500", "2.700"), 2.7, False),
    "beyond_elsewhere": (ELSEWHERE, OUTPUT.replace("2.500", "2.700"), 2.7, False),
    "words_elsewhere": (ELSEWHERE, OUTPUT.replace("mean", "median"), 2.5, False),
    "claim_elsewhere": (ELSEWHERE, OUTPUT.replace("True ", "False"), 2.5, False),
    "line_elsewhere": (ELSEWHERE, OUTPUT + "one line more\n", 2.5, False),
}


def committed(folder, name, where, output, value):
    """An executed copy with its record, as another run would have committed them."""
    declared = f'study = "{name}"\noutput = "results/sample/{name}"'
    cells = [
        new_code_cell(declared, execution_count=1),
        new_code_cell(STUDY, execution_count=2),
        new_code_cell(SHOWN, execution_count=3, metadata={"tags": ["nbval-check-output"]}),
    ]
    cells[-1].outputs = [new_output("stream", name="stdout", text=output)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    copy = folder / "results" / "sample" / name / "notebook.ipynb"
    copy.parent.mkdir(parents=True)
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), copy)
    run = {"profile": "sample", "seed": 0, "device": "cpu", "threads": 2, "code": "0" * 16}
    run |= {"processor": machine.processor() if where == HERE else "Another CPU 1/2/3"}
    versions = {package: machine.version(package) for package in ("numpy", "scipy")}
    run |= {"python": sys.version.split()[0], "versions": versions}
    entry = {"value": value, "n": 4, "unit": "dB", "what": "gain", "band": BAND}
    record = {"study": name, "metrics": {"gain_db": entry}, "run": run}
    (copy.parent / "metrics.json").write_text(json.dumps(record))


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """The exit code and what was said when all cases were executed again in one project."""
    folder = tmp_path_factory.mktemp("project")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "lib", folder / "lib", ignore=ignored)
    shutil.copy(ROOT / "params.yaml", folder)
    for name, (where, output, value, _) in CASES.items():
        committed(folder, name, where, output, value)
    before = {path: path.read_bytes() for path in (folder / "results").rglob("*.*")}
    command = [sys.executable, "-m", "lib", "check"]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert {path: path.read_bytes() for path in (folder / "results").rglob("*.*")} == before
    return run.returncode, run.stdout + run.stderr


@pytest.mark.parametrize("name", CASES)
def test_equal_on_the_recorded_machine_and_inside_the_bands_on_another(checked, name):
    good = CASES[name][-1]
    failed = re.search(rf"^FAILED \S*/{name}/\S+", checked[1], flags=re.MULTILINE)
    assert (failed is None) == good, checked[1]
    compared = re.search(rf"^\S*/{name}/\S+record (PASSED|FAILED)", checked[1], flags=re.MULTILINE)
    assert compared, "the record is compared in any case"


def test_one_difference_fails_the_command(checked):
    assert checked[0] == 1
    assert "gain_db 2.5 (recorded 2.7 ± 0.1)" in checked[1]


# the same on every committed notebook, without executing it


def comparable(text: str) -> str:
    """A text as nbval compares it on another machine."""
    for pattern, replacement in check.NUMBERS.items():
        text = re.sub(pattern, replacement, text)
    return text


def outputs(copy) -> list[str]:
    """The texts of the outputs that are compared."""
    found = []
    for cell in nbformat.read(copy, as_version=4).cells:
        if "nbval-check-output" in cell.metadata.get("tags", []):
            for output in cell.outputs:
                found.append(output.get("text") or "")
                found += [t for t in output.get("data", {}).values() if isinstance(t, str)]
    return [text for text in found if text]


def moved(text: str) -> str:
    """Each measured number a little off, and with as many digits as it then needs."""
    number = re.compile(r"(?<![\w.,])(\d+\.\d+)(?![\w.])")
    return number.sub(lambda match: f"{1.013 * float(match[1]):.{len(match[1])}g}", text)


@pytest.mark.parametrize("copy", COPIES, ids=lambda path: path.parent.name)
def test_numbers_may_move_and_words_may_not(copy):
    texts = outputs(copy)
    assert texts
    for text in texts:
        assert comparable(moved(text)) == comparable(text)
        for word in re.findall(r"[A-Za-z]{3,}", text)[:5]:
            assert comparable(text.replace(word, f"not {word}")) != comparable(text)


@pytest.mark.parametrize("copy", COPIES, ids=lambda path: path.parent.name)
def test_a_committed_record_moved_inside_its_bands_passes_elsewhere_only(copy):
    recorded = check.read_record(check.record_path(copy))["metrics"]
    banded = {name for name, entry in recorded.items() if entry.get("band")}
    assert banded

    def by(bands):
        shift = {name: bands * entry.get("band", 0) for name, entry in recorded.items()}
        return {n: {**entry, "value": entry["value"] + shift[n]} for n, entry in recorded.items()}

    for bands in (0.99, -0.99):
        assert compare.outside_band(recorded, by(bands), exact=False) == []
        assert len(compare.outside_band(recorded, by(bands), exact=True)) == len(banded)
    for bands in (1.01, -1.01):
        for exact in (True, False):
            assert len(compare.outside_band(recorded, by(bands), exact)) == len(banded)


def test_a_hash_is_no_number():
    assert comparable("2d59f102bf6f 10 em_psnr_db_10 -3.5e-07") == "2d59f102bf6f # em_psnr_db_10 #"


@pytest.mark.parametrize(
    "device, there, packages, wanted",
    [
        ("cpu", False, {"torch": "1"}, True),
        ("cpu", True, {"torch": "1"}, False),
        ("cuda", True, {"torch": "1"}, True),
        ("cuda", False, {"torch": "1"}, False),
        ("cpu", True, {"numpy": "1"}, True),
    ],
)
def test_a_machine_with_a_gpu_is_another_one_for_what_ran_on_a_cpu(
    monkeypatch, device, there, packages, wanted
):
    monkeypatch.setattr(check.gpu, "present", lambda: there)
    monkeypatch.setattr(check.machine, "version", lambda package: "1")
    here = {"processor": check.machine.processor(), "python": check.platform.python_version()}
    assert check.on_machine_of({**here, "versions": packages, "device": device}) is wanted
