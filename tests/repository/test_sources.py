"""The rules of the house, read from the sources: who may import what, what is documented, which versions are pinned."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from imports import (
    MODULES,
    NOTEBOOKS,
    ROOT,
    WINGS,
    imported,
    lib_imports,
    packages,
    reached,
    tree,
    wing,
)

COMMON = [path for path in MODULES if wing(path) is None]
TESTS = sorted((ROOT / "tests").glob("*.py"))
SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))
HEAVY = {"torch": ("diffusion", "mixture"), "tensorflow": ("language",)}
FAMILY = {
    "torch": {"torch", "torchvision", "safetensors.torch"},
    "tensorflow": {"tensorflow", "keras"},
}
# Where the name of an import is not the name of its distribution.
DISTRIBUTIONS = {
    "skimage": "scikit-image",
    "yaml": "pyyaml",
    "PIL": "pillow",
    "IPython": "ipython",
    "matplotlib_inline": "matplotlib-inline",
    "tensorflow": "tensorflow-cpu",
    "websocket": "websocket-client",
}


def short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def each(paths):
    return pytest.mark.parametrize("path", paths, ids=short)


def heavy_families(path: Path) -> set[str]:
    names = set(imported(tree(path)))
    return {
        family
        for family, members in FAMILY.items()
        if any(
            name == member or name.startswith(f"{member}.") for name in names for member in members
        )
    }


# who may import what


@each([path for path in MODULES if wing(path)])
def test_a_wing_imports_no_other_wing(path):
    others = {wing(other) for other in lib_imports(path)} - {None, wing(path)}
    assert not others


@each(COMMON)
def test_the_common_ground_imports_no_wing_but_in_functions_of_the_command_line(path):
    if path.name != "__main__.py":
        assert not {wing(other) for other in reached(path)} - {None}
        return
    outside = [node for node in tree(path).body if not isinstance(node, ast.FunctionDef)]
    names = {
        name.split(".")[1] for node in outside for name in imported(node) if name.startswith("lib.")
    }
    assert names == {"params"}


@each(MODULES)
def test_torch_and_tensorflow_stay_in_their_rooms(path):
    allowed = {family for family, wings in HEAVY.items() if wing(path) in wings}
    if short(path) == "lib/common/vision.py":
        allowed = {"torch"}
    assert heavy_families(path) <= allowed


def test_importing_lib_and_its_common_ground_loads_neither_and_no_wing():
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in COMMON]
    names = [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]
    assert "lib" in names and "lib.common.params" in names
    heavy = ", ".join(
        map(repr, [*HEAVY, "torchvision", "keras", *(f"lib.{name}" for name in WINGS)])
    )
    code = f"import sys, {', '.join(names)}; print(sorted({{{heavy}}} & sys.modules.keys()))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


@each(NOTEBOOKS)
def test_no_notebook_needs_both_torch_and_tensorflow(path):
    assert len(set().union(*map(heavy_families, {path, *reached(path)}))) <= 1


@each(MODULES)
def test_nothing_that_runs_what_it_reads(path):
    assert not {"pickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"} & packages(path)
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {
                "eval",
                "exec",
                "torch.load",
                "torch.save",
                "yaml.unsafe_load",
                "os.system",
            }, called
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert (
                given.get("allow_pickle", "False") == "False"
                and given.get("shell", "False") == "False"
            )


# what a reader finds


@each(MODULES)
def test_modules_and_their_public_names_are_documented(path):
    module = tree(path)
    assert ast.get_docstring(module), "the module"
    public = [
        node
        for node in module.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"
    ]
    bare = {node.name for node in public if not ast.get_docstring(node)}
    assert not bare - {"main"}  # its parser describes it


@each([path for path in MODULES if path.name == "__init__.py"])
def test_a_package_file_defines_nothing(path):
    """No DVC stage depends on it: beside the docstring it may only set defaults of the process environment."""
    for node in tree(path).body[1:]:
        assert ast.unparse(node) == "import os" or ast.unparse(node).startswith(
            "os.environ.setdefault("
        )


# the pins


def pins(name: str) -> dict[str, str]:
    """Distribution -> version of the lines of a requirements file that hold on Linux x86_64."""
    lines = [
        line.split("#")[0].strip()
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
    ]
    found = {}
    for line in filter(None, lines):
        requirement, _, marker = line.partition(";")
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([\w.+!]+)", requirement.strip())
        assert match, f"{name}: not an exact pin: {line}"
        if '!= "linux"' not in marker:
            key = re.sub(r"[-_.]+", "-", match[1]).lower()
            assert key not in found, f"{name}: {key} twice"
            found[key] = match[2]
    return found


def test_every_requirement_is_an_exact_pin_and_the_lock_agrees():
    required, locked = pins("requirements.txt"), pins("requirements.lock")
    assert required.items() <= locked.items()
    assert len(locked) > len(required)


def test_the_conda_environment_reads_the_one_list_and_names_nothing_else():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = environment["dependencies"]
    assert pip == {"pip": ["-c requirements.lock", "-r requirements.txt"]}
    assert {re.split(r"[ <>=]", name)[0] for name in conda} == {"python", "pip", "git", "make"}


def test_the_range_of_pythons_is_the_same_everywhere():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    low, high = re.fullmatch(
        r"python >=3\.(\d+),<3\.(\d+)", environment["dependencies"][0]
    ).groups()
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(
        r"\(3, (\d+)\) <= sys\.version_info\[:2\] <= \(3, (\d+)\)", makefile
    ).groups() == (
        low,
        str(int(high) - 1),
    )
    names = re.search(r"for p in python3 ([\w. ]+);", makefile)[1].split()
    assert set(names) == {f"python3.{minor}" for minor in range(int(low), int(high))}
    assert f'target-version = "py3{low}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@each([*MODULES, *NOTEBOOKS, *TESTS, *SCRIPTS])
def test_every_import_is_required(path):
    own = {"lib", "tests"} | {other.stem for other in [*TESTS, *SCRIPTS]}
    foreign = packages(path) - set(sys.stdlib_module_names) - own
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8").lower()
    assert not {DISTRIBUTIONS.get(name, name) for name in foreign} - set(
        re.findall(r"^[a-z0-9-]+", text, re.MULTILINE)
    )


# what must not be in the repository


def tracked() -> list[Path]:
    """The text files that git knows or would take in."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    binary = {".png", ".bin", ".safetensors", ".gz"}
    paths = [ROOT / name for name in names if not name.startswith("datastore/")]
    return [path for path in paths if path.is_file() and path.suffix not in binary]


def private_hosts() -> set[str]:
    """Hosts of package indexes: the well-known ones, and those that this machine is told to use."""
    run = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    urls = re.findall(r"https?://[^\s'\"]+", run.stdout + " ".join(os.environ.values()))
    public = ("github.com", "golang.org")
    known = {
        f"{name}.{end}"
        for name in ("py" + "pi", "python" + "hosted", "npm" + "js")
        for end in ("org", "com")
    }
    hosts = {urlsplit(url).hostname or "" for url in urls}
    return known | {
        h for h in hosts if "." in h and not h.endswith(public) and not h.startswith("127.")
    }


def test_no_path_or_host_of_a_machine_stands_in_a_tracked_file():
    start = r"(?:(?<=\\n)|(?<![\w.~}]))/"  # in a notebook's JSON a line ends with a written \n
    paths = start + r"(?:(?:work|root|opt)/\w|(?:home|Users)/\w+/)"
    pattern = re.compile("|".join([paths, *map(re.escape, sorted(private_hosts()))]))
    for part in ("work/main", "root/x", "home/a/b", "Users/a/b", "opt/x"):
        assert pattern.search(f'"/{part}"') and pattern.search(rf"text\n/{part}")
    found = {
        short(path): match[0]
        for path in tracked()
        if (match := pattern.search(path.read_text(encoding="utf-8")))
    }
    assert not found


def test_nothing_is_left_to_be_done():
    pattern = re.compile(
        "|".join((r"\bTO" + r"DO\b", r"\bFIX" + r"ME\b", r"\bXX" + r"X\b", "<<<" + "<<<<"))
    )
    pixels = re.compile(
        r'"image/png": "[^"]*"'
    )  # base64 in an executed notebook spells anything by chance
    assert not [
        short(path)
        for path in tracked()
        if pattern.search(pixels.sub("", path.read_text(encoding="utf-8")))
    ]
