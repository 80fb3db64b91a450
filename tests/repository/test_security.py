"""What is promised about safety, read from every source that the repository tracks (see also tests/repository/test_sources.py).

No pickle, no eval, no shell with what a user gives, weights only as safetensors, archives never unpacked, downloads
only over https and by hash, no notebook that asks to be trusted.
"""

import ast
import json
import re
import subprocess

import pytest
from imports import MODULES, NOTEBOOKS, ROOT, packages, tree

from lib.common import data

SCRIPTS = sorted([*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "docs" / "site").glob("*.py")])
SOURCES = [*MODULES, *SCRIPTS, *NOTEBOOKS]
COPIES = sorted((ROOT / "results").rglob("*.ipynb"))
UNSAFE_FILES = {
    ".pt",
    ".pth",
    ".ckpt",
    ".pkl",
    ".pickle",
    ".npy",
    ".npz",
    ".h5",
    ".hdf5",
    ".keras",
    ".joblib",
    ".pb",
}
SHOWN = {"text/plain", "text/markdown", "text/html", "image/png"}


def each(paths):
    return pytest.mark.parametrize(
        "path", paths, ids=lambda path: path.relative_to(ROOT).as_posix()
    )


def calls(path):
    return [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]


def tracked():
    names = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [ROOT / name for name in names.splitlines()]


@each(SOURCES)
def test_nothing_runs_what_it_reads(path):
    """The rule of tests/repository/test_sources.py for lib, here for scripts and notebooks too."""
    assert not {"pickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"} & packages(path)
    named = {ast.unparse(call.func) for call in calls(path)}
    assert not named & {
        "eval",
        "exec",
        "torch.load",
        "torch.save",
        "yaml.unsafe_load",
        "os.system",
        "os.popen",
    }
    assert not re.search(
        r"(?:saving|models)\.load_model|tf\.saved_model", path.read_text(encoding="utf-8")
    )


@each(SOURCES)
def test_processes_are_started_without_a_shell(path):
    for call in calls(path):
        name = ast.unparse(call.func)
        if name.startswith("subprocess.") or name == "Popen":
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert given.get("shell", "False") == "False"
            command = call.args[0] if call.args else None
            assert not isinstance(command, ast.JoinedStr | ast.BinOp), ast.unparse(call)
            assert not (isinstance(command, ast.Constant) and isinstance(command.value, str)), (
                ast.unparse(call)
            )


@each([path for path in SOURCES if packages(path) & {"tarfile", "zipfile", "shutil"}])
def test_archives_are_never_unpacked(path):
    named = {ast.unparse(call.func).split(".")[-1] for call in calls(path)}
    assert not named & {
        "extractall",
        "extract",
        "unpack_archive",
    }  # extractfile reads one member, by its exact name


def test_weights_are_safetensors_and_nothing_else_is_tracked_that_can_hold_code():
    kinds = {path.suffix for path in (ROOT / "models").iterdir()}
    assert kinds <= {".safetensors", ".md", ".json"}  # the registry of their sha256
    assert not [path for path in tracked() if path.suffix in UNSAFE_FILES]


def test_yaml_is_read_by_a_safe_loader_only():
    for path in [*MODULES, *SCRIPTS]:
        for call in calls(path):
            if ast.unparse(call.func) == "yaml.load":
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
                assert given.get("Loader") == "_NoTwins"
    from lib.common import params

    assert issubclass(params._NoTwins, params.yaml.SafeLoader)


@each(MODULES)
def test_addresses_are_https(path):
    """Plain http stands for this machine itself only."""
    assert not re.findall(
        r"http://(?!localhost|127\.0\.0\.1)[\w.]+", path.read_text(encoding="utf-8")
    )


def test_every_file_of_the_data_has_a_size_and_a_hash():
    for registry in data.PROFILES.values():
        assert all(
            known.bytes > 0 and re.fullmatch(r"[0-9a-f]{64}", known.sha256)
            for known in registry.values()
        )


@each([*NOTEBOOKS, *COPIES])
def test_a_notebook_asks_for_no_trust_and_shows_nothing_that_runs(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    assert not {"signature", "trusted", "widgets"} & content["metadata"].keys()
    for cell in content["cells"]:
        assert "trusted" not in cell["metadata"]
        for output in cell.get("outputs", []):
            shown = output.get("data", {})
            assert set(shown) <= SHOWN
            html = "".join(shown.get("text/html", ""))
            assert not re.search(r"<script|<iframe|javascript:|\son\w+=", html, flags=re.IGNORECASE)
