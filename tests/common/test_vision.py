"""lib/common/vision.py: the cure of torchvision's import, on the installed wheel and on small stand-ins for it.

Each case runs in a process of its own, since a declared operator cannot be taken back.
"""

import re
import subprocess
import sys

import pytest

from lib.common import params
from lib.common.vision import SYMPTOM

CURED = """
from lib.common import vision
module = vision.import_torchvision()
import torch, torchvision
assert module is torchvision
count = [len(torch._C._jit_get_schemas_for_operator(f"torchvision::{name}")) for name in ("nms", "qnms")]
"""
USE = """
from torchvision.transforms import v2
from torchvision.utils import make_grid
grid = make_grid(torch.zeros(4, 3, 8, 8), nrow=2, padding=0)
flipped = v2.functional.horizontal_flip(torch.arange(4.0).reshape(1, 1, 4))
print(tuple(grid.shape), flipped.flatten().tolist(), vision.import_torchvision() is module)
"""
BROKEN = """
import torch
from torchvision import part
with open(__file__ + ".attempts", "a") as log:
    log.write("x")
if not torch._C._jit_get_schemas_for_operator("torchvision::nms"):
    raise RuntimeError("operator torchvision::nms does not exist")
if not torch._C._jit_get_schemas_for_operator("torchvision::qnms"):
    raise RuntimeError("operator torchvision::qnms does not exist")
"""


def run(code, *path):
    """Run code with `path` before the installed packages; (exit code, stdout, last line of stderr)."""
    start = f"import sys; sys.path[:0] = {[str(part) for part in path]!r}\n"
    done = subprocess.run(
        [sys.executable, "-c", start + code],
        cwd=params.root(),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.strip(), (done.stderr.strip().splitlines() or [""])[-1]


def stand_in(folder, source):
    """A package named torchvision that does `source` when it is imported."""
    package = folder / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(source)
    (package / "part.py").write_text("made = object()\n")
    return package


def test_the_installed_wheel_works_after_the_call():
    code, said, fault = run(CURED + USE)
    assert (code, fault) == (0, "")
    assert said == "(3, 16, 16) [3.0, 2.0, 1.0, 0.0] True"


def test_the_missing_schemas_are_declared_and_the_import_is_done_again(tmp_path):
    package = stand_in(tmp_path, BROKEN)
    assert run("import torchvision", tmp_path)[2] == f"RuntimeError: {SYMPTOM}"
    (package / "__init__.py.attempts").unlink()
    assert run(CURED + "print(count)", tmp_path) == (0, "[1, 1]", "")
    assert (package / "__init__.py.attempts").read_text() == "xx"


def test_a_good_wheel_is_left_alone(tmp_path):
    stand_in(tmp_path, "answer = 42\n")
    code = "from lib.common import vision; print(vision.import_torchvision().answer, 'torch' in sys.modules)"
    assert run(code, tmp_path) == (0, "42 False", "")


@pytest.mark.parametrize(
    "fault",
    [
        "RuntimeError: operator torchvision::roi_align does not exist",
        "RuntimeError: CUDA driver is too old",
        "ImportError: libjpeg.so.8: cannot open shared object file",
    ],
)
def test_any_other_fault_is_the_callers_and_nothing_is_declared(tmp_path, fault):
    kind, text = fault.split(": ", 1)
    stand_in(tmp_path, f"raise {kind}({text!r})\n")
    code = "from lib.common import vision\ntry:\n    vision.import_torchvision()\nfinally:\n    print('torch' in sys.modules)\n"
    assert run(code, tmp_path) == (1, "False", fault)


def test_without_torchvision_the_error_says_so():
    code = "sys.modules['torchvision'] = None\nfrom lib.common import vision; vision.import_torchvision()"
    code, _, fault = run(code)
    assert code == 1 and re.match("ModuleNotFoundError: .*torchvision", fault)
