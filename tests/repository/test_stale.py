"""What a change makes stale, asked of DVC itself on a copy of the pipeline: the stages that depend on it, no others.

Nothing is run. A stage's expected dependence is read from its command: the sections of params.yaml that a notebook
stage names, the arm that a training names, the modules that its sources import.
"""

import contextlib
import shlex
import shutil

import pytest
import yaml
from dvc.repo import Repo
from imports import ROOT, reached
from repository.test_dvc import sources

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
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    settle(folder)
    return folder


def settle(folder) -> None:
    """Put a small file where data, weights and outputs would be, and lock everything as if it had just run."""
    with Repo(str(folder)) as repo:
        stages = [stage for stage in repo.index.stages if stage.cmd]
        paths = [out.def_path for stage in stages for out in stage.outs]
        paths += [dep.def_path for stage in stages for dep in stage.deps]
    for path in (folder / name for name in paths):
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(path.name)
    with contextlib.chdir(folder), Repo() as repo:
        repo.commit(force=True)


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


@pytest.fixture(scope="module")
def declared(copy):
    """What each stage says that it depends on."""
    with Repo(str(copy)) as repo:
        stages = [stage for stage in repo.index.stages if stage.cmd]
        return {stage.name: {dep.def_path for dep in stage.deps} for stage in stages}


def needs(command: str, path) -> bool:
    return path in {*sources(command), *reached(*sources(command))}


def trainings(stages) -> set[str]:
    return {stage for stage in stages if stage.startswith("train_")}


def made_stale(copy, before) -> set[str]:
    return {name for name, faults in status(copy).items() if faults - before.get(name, set())}


def reads(command: str, section: str) -> bool:
    """Whether a stage's command says that it reads a section of params.yaml."""
    command, *words = shlex.split(command)[3:]
    if command == "execute":
        own = {"03_moe_training": {"mixture", "bank"}}.get(
            words[0], set()
        )  # arms of three sections
        return section in own | set(words[1 : words.index("--profile")])
    if command != "train":
        return False
    arm = words[words.index("--arm") + 1]
    if arm.startswith("announced"):
        return section == "announced"
    if arm.startswith(("weak_", "strong_", "static_")):
        return section == "bank"
    return section == words[0]


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
def test_an_edited_source_makes_stale_what_needs_it_and_of_the_trainings_nothing_else(
    copy, before, commands, declared, name
):
    path = copy / name
    content = path.read_bytes()
    path.write_bytes(content + b"\n")
    try:
        found = made_stale(copy, before)
    finally:
        path.write_bytes(content)
    needed = {stage for stage, command in commands.items() if needs(command, ROOT / name)}
    assert needed <= found
    assert trainings(needed) == trainings(found)
    folder = name.rsplit("/", 1)[0]  # a notebook or a short stage may name all of it
    assert found - needed <= {stage for stage, deps in declared.items() if folder in deps}


def test_a_comment_and_the_order_of_params_yaml_make_nothing_stale(copy, before):
    text = change(copy / "params.yaml", lambda content: None)  # written anew, without its comments
    try:
        assert made_stale(copy, before) == set()
    finally:
        (copy / "params.yaml").write_text(text, encoding="utf-8")
