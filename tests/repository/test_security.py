"""What is promised about safety, read from every source that the repository tracks.

No pickle, no eval, no shell with what a user gives, weights only as safetensors, archives never unpacked as they are,
downloads only over https and by hash, no notebook that asks to be trusted.
"""

import ast
import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from imports import MODULES, NOTEBOOKS, ROOT, packages, tree

from lib.common import data, params
from lib.tools import pedigree

SCRIPTS = [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "docs" / "site").glob("*.py")]
SOURCES = [*MODULES, *sorted(SCRIPTS), *NOTEBOOKS]
COPIES = sorted((ROOT / "results").rglob("*.ipynb"))

RUNS_WHAT_IT_READS = {"pickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "torch.load",
    "torch.save",
    "yaml.unsafe_load",
    "os.system",
    "os.popen",
}
# Kinds of files that can hold code which runs when they are read.
UNSAFE_KINDS = {".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npy", ".npz"}
UNSAFE_KINDS |= {".h5", ".hdf5", ".keras", ".joblib", ".pb"}
SHOWN = {"text/plain", "text/markdown", "text/html", "image/png", "image/svg+xml"}


def each(paths):
    return pytest.mark.parametrize(
        "path", paths, ids=lambda path: path.relative_to(ROOT).as_posix()
    )


def calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]


def keywords(call: ast.Call) -> dict[str | None, str]:
    """The keyword arguments of a call, as they are written."""
    return {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}


def tracked() -> list[Path]:
    command = ["git", "ls-files"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in run.stdout.splitlines()]


# code


@each(SOURCES)
def test_nothing_runs_what_it_reads(path):
    assert not RUNS_WHAT_IT_READS & packages(path)
    for call in calls(path):
        assert ast.unparse(call.func) not in FORBIDDEN_CALLS
        assert keywords(call).get("allow_pickle", "False") == "False"
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"(?:saving|models)\.load_model|tf\.saved_model", text)


@each(SOURCES)
def test_processes_are_started_without_a_shell(path):
    for call in calls(path):
        assert keywords(call).get("shell", "False") == "False"
        name = ast.unparse(call.func)
        if not (name.startswith("subprocess.") or name == "Popen") or not call.args:
            continue
        command = call.args[0]
        is_text = isinstance(command, ast.Constant) and isinstance(command.value, str)
        is_built = isinstance(command, ast.JoinedStr | ast.BinOp)
        assert not is_text and not is_built, ast.unparse(call)


@each([path for path in SOURCES if packages(path) & {"tarfile", "zipfile", "shutil"}])
def test_archives_are_never_unpacked(path):
    """`extractfile` reads one member by its exact name; nothing else of an archive is touched."""
    names = {ast.unparse(call.func).split(".")[-1] for call in calls(path)}
    assert not names & {"extractall", "extract", "unpack_archive"}


SAFE_LOADERS = {"_NoTwins", "LOADER"}  # of lib/common/params.py and of lib/tools/pedigree.py


def test_yaml_is_read_by_a_safe_loader_only():
    for path in SOURCES:
        for call in calls(path):
            if ast.unparse(call.func) == "yaml.load":
                loader = [ast.unparse(given) for given in call.args[1:]]
                loader += keywords(call).values()
                assert len(loader) == 1 and loader[0] in SAFE_LOADERS, path.name
    assert issubclass(params._NoTwins, yaml.SafeLoader)
    assert pedigree.LOADER in (yaml.SafeLoader, getattr(yaml, "CSafeLoader", None))


@each(MODULES)
def test_addresses_are_https(path):
    """Plain http stands for this machine itself only."""
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r"http://(?!localhost|127\.0\.0\.1)[\w.]+", text)


# files


def test_weights_are_safetensors_and_nothing_else_is_tracked_that_can_hold_code():
    kinds = {path.suffix for path in (ROOT / "models").iterdir()}
    assert kinds <= {".safetensors", ".md", ".json"}
    assert not [path for path in tracked() if path.suffix in UNSAFE_KINDS]


def test_every_file_of_the_data_has_a_size_and_a_hash():
    for registry in data.PROFILES.values():
        for known in registry.values():
            assert known.bytes > 0
            assert re.fullmatch(r"[0-9a-f]{64}", known.sha256)


# notebooks


@each([*NOTEBOOKS, *COPIES])
def test_a_notebook_asks_for_no_trust_and_shows_nothing_that_runs(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert not {"signature", "trusted", "widgets"} & notebook["metadata"].keys()
    for cell in notebook["cells"]:
        assert "trusted" not in cell["metadata"]
        for output in cell.get("outputs", []):
            shown = output.get("data", {})
            assert set(shown) <= SHOWN
            for kind in ("text/html", "image/svg+xml"):
                text = "".join(shown.get(kind, ""))
                runs = r"<script|<iframe|javascript:|\son\w+="
                assert not re.search(runs, text, flags=re.IGNORECASE)
