"""What a change makes stale, asked of DVC itself on a copy of the pipeline: the stages that depend on it, no others.

Nothing is run. A stage's expected dependence is read from its command: the sections of params.yaml that a notebook
stage names, the arm that a training names, the modules that its sources import.
"""

import hashlib
import shlex
import shutil

import pytest
import yaml
from dvc.repo import Repo
from imports import ROOT, reached
from test_dvc import sources

from lib.common import params

COPIED = (
    "dvc.yaml",
    "dvc.lock",
    "params.yaml",
    "claims.yaml",
    "lib",
    "notebooks",
    "benchmarks",
    ".dvcignore",
)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The pipeline without its data and outputs."""
    folder = tmp_path_factory.mktemp("copy")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / name, folder)
    settle(folder)
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    return folder


def settle(folder) -> None:
    """Bring the lock's hashes up to date, so that a tree on which not all stages have run yet can be asked too."""
    lock = yaml.safe_load((folder / "dvc.lock").read_text())
    for dep in (dep for stage in lock["stages"].values() for dep in stage.get("deps", [])):
        if (folder / dep["path"]).is_file():
            content = (folder / dep["path"]).read_bytes()
            dep |= {"md5": hashlib.md5(content).hexdigest(), "size": len(content)}
    (folder / "dvc.lock").write_text(yaml.safe_dump(lock))


def status(copy) -> dict[str, set[str]]:
    """What DVC finds changed, for each stage."""
    with Repo(str(copy)) as repo:
        found = repo.status()
    return {name.split(":")[-1]: set(map(str, flat(faults))) for name, faults in found.items()}


def flat(value, path=()):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, (*path, key))
    elif isinstance(value, list):
        for inner in value:
            yield from flat(inner, path)
    else:
        yield (*path, value)


@pytest.fixture(scope="module")
def before(copy):
    return status(copy)


@pytest.fixture(scope="module")
def commands(copy):
    with Repo(str(copy)) as repo:
        return {stage.name: stage.cmd for stage in repo.index.stages if stage.cmd}


def made_stale(copy, before) -> set[str]:
    return {name for name, faults in status(copy).items() if faults - before.get(name, set())}


def reads(command: str, section: str) -> bool:
    """Whether a stage's command says that it reads a section of params.yaml."""
    words = shlex.split(command)
    module = words[2]
    if module == "lib.tools.execute":
        own = {"03_moe_training": {"mixture"}}.get(words[3], set())  # its arms are of two sections
        return section in own | set(words[4 : words.index("--profile")])
    if module == "lib.mixture.training":
        return section == (
            "announced" if words[words.index("--arm") + 1].startswith("announced") else "mixture"
        )
    return section == module.split(".")[1]


def change(path, edit):
    """Edit a YAML file; returns its text before."""
    text = path.read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    edit(content)
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return text


def other(value):
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value * 2 + 1
    return [other(value[0]), *value[1:]] if isinstance(value, list) else value + "x"


@pytest.mark.parametrize("section", params.SECTIONS)
@pytest.mark.parametrize("block", ["common", "sample", "full"])
def test_a_changed_parameter_makes_exactly_the_stages_of_its_section_stale(
    copy, before, commands, section, block
):
    def edit(content):
        values = content[section][block]
        key = next(iter(values))
        values[key] = other(values[key])

    if not yaml.safe_load((copy / "params.yaml").read_text())[section].get(block):
        pytest.skip(f"{section} has no block {block}")
    text = change(copy / "params.yaml", edit)
    try:
        found = made_stale(copy, before)
    finally:
        (copy / "params.yaml").write_text(text, encoding="utf-8")
    wanted = (
        {name for name, command in commands.items() if reads(command, section)}
        if block != "full"
        else set()
    )
    assert found == wanted and (wanted or block == "full")


@pytest.mark.parametrize(
    "name",
    ["lib/common/data.py", "lib/diffusion/graph.py", "lib/mixture/windows.py", "lib/tools/photo.py",
     "lib/language/corpus.py", "lib/tools/gather.py", "lib/__main__.py", "notebooks/02_em_diffusion.ipynb"],
)  # fmt: skip
def test_an_edited_source_makes_exactly_the_stages_stale_that_need_it(copy, before, commands, name):
    path = copy / name
    content = path.read_bytes()
    path.write_bytes(content + b"\n")
    try:
        found = made_stale(copy, before)
    finally:
        path.write_bytes(content)
    needs = {
        stage: {*sources(command), *reached(*sources(command))}
        for stage, command in commands.items()
    }
    assert found == {stage for stage, paths in needs.items() if ROOT / name in paths}


def test_a_comment_and_the_order_of_params_yaml_make_nothing_stale(copy, before):
    text = change(copy / "params.yaml", lambda content: None)  # written anew, without its comments
    try:
        assert made_stale(copy, before) == set()
    finally:
        (copy / "params.yaml").write_text(text, encoding="utf-8")
