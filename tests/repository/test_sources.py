"""Rules that are read from the sources: who may import what, what is documented, which versions are pinned."""

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
    SYSTEMS,
    imported,
    lib_imports,
    package,
    packages,
    reached,
    tree,
)

TESTS = sorted((ROOT / "tests").rglob("*.py"))
SITE = sorted((ROOT / "docs" / "site").glob("*.py"))
SCRIPTS = [*sorted((ROOT / "benchmarks").glob("*.py")), *SITE]

# What the modules of a package may import of lib. The command line (lib/__main__.py) may import everything.
ALLOWED = {
    "common": {"common"},
    "diffusion": {"diffusion", "common"},
    "mixture": {"mixture", "common"},
    "language": {"language", "common"},
    "studies": {"studies", "common", *SYSTEMS},
    "tools": {"tools", "common"},
}
# Tools that use a system import it inside their functions, so that the command line starts at once.
LATE = {"tools": set(SYSTEMS)}

FRAMEWORKS = {
    "torch": {"torch", "torchvision", "safetensors.torch"},
    "tensorflow": {"tensorflow", "keras", "safetensors.tensorflow"},
}
# The packages that may import a framework; of studies, the one of that system.
HOMES = {"torch": {"diffusion", "mixture"}, "tensorflow": {"language"}}
VISION = ROOT / "lib" / "common" / "vision.py"  # cures an import of torchvision, inside a function

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


def in_packages(*names: str) -> list[Path]:
    return [path for path in MODULES if package(path) in names]


def imported_on_load(path: Path) -> set[str]:
    """What a module imports when it is imported itself: everything outside of its functions."""
    found = set()
    for node in tree(path).body:
        if not isinstance(node, ast.FunctionDef):
            found |= set(imported(node))
    return found


def frameworks(path: Path) -> set[str]:
    """torch, tensorflow, both or none: what a source imports itself."""
    found = set()
    for name in imported(tree(path)):
        for framework, members in FRAMEWORKS.items():
            if any(name == member or name.startswith(f"{member}.") for member in members):
                found.add(framework)
    return found


# who may import what


@each(in_packages(*ALLOWED))
def test_a_package_imports_only_what_it_may(path):
    """A system never imports another, common imports none of them, nobody imports tools."""
    used = {package(other) for other in lib_imports(path)}
    own = package(path)
    assert used <= ALLOWED[own] | LATE.get(own, set())


@each(in_packages("tools"))
def test_tools_import_a_system_inside_their_functions(path):
    used = {name.split(".")[1] for name in imported_on_load(path) if name.startswith("lib.")}
    assert used <= ALLOWED["tools"]


def test_the_command_line_imports_its_commands_inside_their_functions():
    used = {name for name in imported_on_load(ROOT / "lib" / "__main__.py")}
    used = {name.split(".")[1] for name in used if name.startswith("lib.")}
    assert used <= {"common", "tools"}


@each(MODULES)
def test_torch_and_tensorflow_stay_in_their_packages(path):
    place = path.stem if package(path) == "studies" else package(path)
    allowed = {framework for framework, homes in HOMES.items() if place in homes}
    if path == VISION or (package(path) == "tools" and not heavy_on_load(path)):
        allowed.add("torch")
    assert frameworks(path) <= allowed


def heavy_on_load(path: Path) -> set[str]:
    heavy = {*FRAMEWORKS, "torchvision", "keras"}
    return {name.split(".")[0] for name in imported_on_load(path)} & heavy


def test_loading_common_tools_and_the_command_line_loads_no_framework_and_no_system():
    names = []
    for path in [*in_packages("", "common", "tools")]:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        names.append(name.removesuffix(".__init__"))
    assert {"lib", "lib.__main__", "lib.common.params", "lib.tools.photo"} <= set(names)
    heavy = [*FRAMEWORKS, "torchvision", "keras", *(f"lib.{name}" for name in SYSTEMS)]
    code = f"import sys, {', '.join(names)}; print(sorted(set({heavy}) & sys.modules.keys()))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


@each(NOTEBOOKS)
def test_no_notebook_needs_both_torch_and_tensorflow(path):
    needed = set()
    for source in {path, *reached(path)}:
        needed |= frameworks(source)
    assert len(needed) <= 1


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


def public_names(module: ast.Module) -> list:
    """The functions and classes of a module that others may use."""
    kinds = ast.FunctionDef | ast.ClassDef
    return [n for n in module.body if isinstance(n, kinds) and not n.name.startswith("_")]


@each(MODULES)
def test_modules_and_their_public_names_are_documented(path):
    module = tree(path)
    assert ast.get_docstring(module), "the module"
    bare = {node.name for node in public_names(module) if not ast.get_docstring(node)}
    assert not bare - {"main"}  # its parser describes it


@each([path for path in MODULES if path.name == "__init__.py"])
def test_a_package_file_defines_nothing(path):
    """No DVC stage depends on it: beside the docstring it may only set defaults of the process environment."""
    for node in tree(path).body[1:]:
        line = ast.unparse(node)
        assert line == "import os" or line.startswith("os.environ.setdefault(")


# the pins


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def pins(name: str) -> dict[str, str]:
    """Distribution -> version of the lines of a requirements file that hold on Linux x86_64."""
    found = {}
    for line in read(name).splitlines():
        requirement, _, marker = line.split("#")[0].partition(";")
        if not requirement.strip():
            continue
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([\w.+!]+)", requirement.strip())
        assert match, f"{name}: not an exact pin: {line}"
        if '!= "linux"' in marker:
            continue
        key = re.sub(r"[-_.]+", "-", match[1]).lower()
        assert key not in found, f"{name}: {key} twice"
        found[key] = match[2]
    return found


def test_every_requirement_is_an_exact_pin_and_the_lock_agrees():
    required, locked = pins("requirements.txt"), pins("requirements.lock")
    assert required.items() <= locked.items()
    assert len(locked) > len(required)


def test_the_site_changes_no_pinned_version():
    locked = pins("requirements.lock")
    for name, version in pins("docs/site/requirements.txt").items():
        assert locked.get(name, version) == version


def test_the_conda_environment_reads_the_one_list_and_names_nothing_else():
    environment = yaml.safe_load(read("environment.yml"))
    *conda, pip = environment["dependencies"]
    assert pip == {"pip": ["-c requirements.lock", "-r requirements.txt"]}
    assert {re.split(r"[ <>=]", name)[0] for name in conda} == {"python", "pip", "git", "make"}


def test_the_range_of_pythons_is_the_same_everywhere():
    environment = yaml.safe_load(read("environment.yml"))
    conda = re.fullmatch(r"python >=3\.(\d+),<3\.(\d+)", environment["dependencies"][0])
    first, last = int(conda[1]), int(conda[2]) - 1
    makefile = read("Makefile")
    checked = re.search(r"\(3, (\d+)\) <= sys\.version_info\[:2\] <= \(3, (\d+)\)", makefile)
    assert (int(checked[1]), int(checked[2])) == (first, last)
    tried = re.search(r"for p in python3 ([\w. ]+);", makefile)[1].split()
    assert set(tried) == {f"python3.{minor}" for minor in range(first, last + 1)}
    assert f'target-version = "py3{first}"' in read("pyproject.toml")


@each([*MODULES, *NOTEBOOKS, *TESTS, *SCRIPTS])
def test_every_import_is_required(path):
    own = {"lib", "tests", "repository"} | {other.stem for other in [*TESTS, *SCRIPTS]}
    foreign = packages(path) - set(sys.stdlib_module_names) - own
    required = set(pins("requirements.txt"))
    if path in SITE:
        required |= set(pins("docs/site/requirements.txt"))
    assert {DISTRIBUTIONS.get(name, name) for name in foreign} <= required


# what must not be in the repository


def tracked() -> list[Path]:
    """The text files that git knows or would take in."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    binary = {".png", ".bin", ".safetensors", ".gz"}
    paths = [ROOT / name for name in run.stdout.splitlines() if not name.startswith("datastore/")]
    return [path for path in paths if path.is_file() and path.suffix not in binary]


def private_hosts() -> set[str]:
    """Hosts of package indexes: the well-known ones, and those that this machine is told to use."""
    hosts = set()
    for name in ("py" + "pi", "python" + "hosted", "npm" + "js"):
        hosts |= {f"{name}.org", f"{name}.com"}
    command = [sys.executable, "-m", "pip", "config", "list"]
    configured = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    public = ("github.com", "golang.org")
    for url in re.findall(r"https?://[^\s'\"]+", configured + " ".join(os.environ.values())):
        host = urlsplit(url).hostname or ""
        if "." in host and not host.endswith(public) and not host.startswith("127."):
            hosts.add(host)
    return hosts


def test_no_path_or_host_of_a_machine_stands_in_a_tracked_file():
    start = r"(?:(?<=\\n)|(?<![\w.~}]))/"  # in a notebook's JSON a line ends with a written \n
    paths = start + r"(?:(?:work|root|opt)/\w|(?:home|Users)/\w+/)"
    pattern = re.compile("|".join([paths, *map(re.escape, sorted(private_hosts()))]))
    for part in ("work/main", "root/x", "home/a/b", "Users/a/b", "opt/x"):
        assert pattern.search(f'"/{part}"') and pattern.search(rf"text\n/{part}")
    found = {}
    for path in tracked():
        if match := pattern.search(path.read_text(encoding="utf-8")):
            found[short(path)] = match[0]
    assert not found


def test_nothing_is_left_to_be_done():
    marks = (r"\bTO" + r"DO\b", r"\bFIX" + r"ME\b", r"\bXX" + r"X\b", "<<<" + "<<<<")
    pattern = re.compile("|".join(marks))
    # base64 in an executed notebook spells anything by chance
    pixels = re.compile(r'"image/[\w+]+": "[^"]*"')
    left = []
    for path in tracked():
        text = pixels.sub("", path.read_text(encoding="utf-8"))
        if pattern.search(text):
            left.append(short(path))
    assert not left
