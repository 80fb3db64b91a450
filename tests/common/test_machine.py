"""lib/common/machine.py: the versions, the processor and the code behind a result."""

import json
import shutil
import subprocess
import sys

from lib.common import machine, params


def test_versions_are_of_loaded_packages_only():
    code = "from lib.common import intervals, machine, record; import json; print(json.dumps(machine.environment()))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=params.root(), capture_output=True, text=True, check=True
    )
    found = json.loads(run.stdout)
    assert set(found) == {"processor", "python", "versions"}
    assert "numpy" in found["versions"] and not {"torch", "tensorflow"} & found["versions"].keys()


def test_the_processor_is_named_the_same_way_each_time():
    assert machine.processor() == machine.processor() != ""


HASHES = """
from pathlib import Path
from lib.common import intervals, machine, record

def then(name):
    if name:
        Path(name).write_bytes(Path(name).read_bytes() + b"\\n")
    print(machine.code_hash("01_data_verification"))

then("")
then("lib/common/quality.py")  # not loaded
then("notebooks/other.ipynb")  # another study's
from lib.common import quality
then("")
then("lib/common/files.py")  # evidence loads it
then("notebooks/01_data_verification.ipynb")
"""


def test_the_hash_follows_loaded_modules_and_the_studys_own_notebook(tmp_path):
    for name in ("lib", "notebooks"):
        shutil.copytree(
            params.root() / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(params.root() / "params.yaml", tmp_path)
    (tmp_path / "notebooks" / "other.ipynb").write_text("{}")
    run = subprocess.run(
        [sys.executable, "-c", HASHES], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    first, unloaded, other, loaded, changed, notebook = run.stdout.split()
    assert first == unloaded == other and len(first) == 16
    assert len({first, loaded, changed, notebook}) == 4
