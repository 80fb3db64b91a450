"""dvc.yaml: each stage depends on what it really imports, declares what it really writes, and is up to date.

DVC itself reads the file here, so that a template or a matrix that does not expand is seen.
"""

import re
import shlex
import shutil
import subprocess

import nbformat
import pytest
import yaml
from dvc.repo import Repo
from imports import NOTEBOOKS, ROOT, reached

from lib.common import claims, params
from lib.tools import reproduce

# The module that does what a command of `python -m lib` says; the command line itself decides no result.
WORK = {
    ("execute",): "lib/tools/execute.py",
    ("gather",): "lib/tools/gather.py",
    ("curves",): "lib/tools/curves.py",
    ("train", "mixture"): "lib/mixture/training.py",
    ("train", "language"): "lib/language/training.py",
}


@pytest.fixture(scope="module")
def repo():
    with Repo(str(ROOT)) as found:
        yield found


@pytest.fixture(scope="module")
def stages(repo):
    """Resolved stages of the profile that params.yaml names, by name."""
    return {stage.name: stage for stage in repo.index.stages if stage.cmd}


def names(items) -> set[str]:
    return {item.def_path for item in items}


def base(name: str) -> str:
    return name.split("@")[0]


def raw() -> dict:
    """The stages as they are written, with their merges resolved."""
    return yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


RAW = sorted(raw())


def of(stages, name):
    found = [stage for key, stage in stages.items() if base(key) == name]
    assert found, f"{name} does not expand"
    return found


def sources(command: str) -> list:
    """The files that a stage's command runs: a module of lib, and its notebook."""
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "lib"]
    module = ROOT / (WORK.get((words[3],)) or WORK[words[3], words[4]])
    assert module.is_file()
    if words[3] != "execute":
        return [module]
    return [module, ROOT / "notebooks" / f"{words[4]}.ipynb"]


def parameter_cells(notebook) -> list[str]:
    found = nbformat.read(notebook, as_version=4).cells
    return [cell.source for cell in found if "parameters" in cell.metadata.get("tags", [])]


def is_training(stage) -> bool:
    return base(stage.name).startswith("train_")


@pytest.mark.parametrize("name", RAW)
def test_a_stage_depends_on_the_modules_that_it_imports(stages, name):
    """A training on exactly them, another stage on them or on their folders, and on no folder without one."""
    for stage in of(stages, name):
        wanted = {*reached(*sources(stage.cmd)), *sources(stage.cmd)}
        declared = {
            ROOT / dep for dep in names(stage.deps) if dep.startswith(("lib/", "notebooks/"))
        }
        if is_training(stage):
            assert declared == wanted
        assert not [path for path in wanted if not {path, *path.parents} & declared]
        assert not [dep for dep in declared if not any(dep in {p, *p.parents} for p in wanted)]


@pytest.mark.parametrize("name", RAW)
def test_a_stage_depends_on_the_data_that_it_reads(stages, name):
    for stage in of(stages, name):
        reads = any(path.name == "data.py" for path in reached(*sources(stage.cmd)))
        assert ("data" in names(stage.deps)) == reads


@pytest.mark.parametrize("name", RAW)
def test_a_stage_names_the_parameters_that_decide_it(name):
    """Sections in the command, and what the notebook's parameters cell declares beyond them."""
    stage = raw()[name]
    watched = set(stage.get("params", []))
    known = set(params.Params.model_fields) | set(params.SECTIONS)
    known -= {"profile", "full_seeds"}
    assert {key.split(".")[0] for key in watched} <= known
    words = shlex.split(stage["cmd"].replace("${item.", "{"))
    if words[3] == "execute":
        chosen = words[5 : words.index("--profile")]
        for section in chosen:
            assert {f"{section}.common", f"{section}.${{item.profile}}"} <= watched
        (text,) = parameter_cells(ROOT / "notebooks" / f"{words[4]}.ipynb")
        top = known - set(params.SECTIONS)
        assert {key for key in top if re.search(rf"^{key} = ", text, re.MULTILINE)} == {
            key.split(".")[0] for key in watched
        } & top
    for section in watched & set(params.SECTIONS):
        pytest.fail(
            f"{section}: name {section}.common and {section}.${{item.profile}}, not both profiles' values"
        )


def test_every_notebook_is_a_stage(stages):
    executed = {sources(stage.cmd)[-1] for stage in stages.values() if len(sources(stage.cmd)) == 2}
    assert executed == set(NOTEBOOKS)


def test_what_lies_in_results_is_what_the_stages_declare(stages):
    folder = ROOT / "results" / params.load().profile
    found = {path.relative_to(ROOT).as_posix() for path in folder.rglob("*") if path.is_file()}
    declared = {
        out for stage in stages.values() for out in names(stage.outs) if out.startswith("results/")
    }
    covered = {name for out in declared for name in found if f"{name}/".startswith(f"{out}/")}
    assert covered == found
    assert all((ROOT / out).exists() for out in declared)


def test_gather_depends_on_every_record(stages):
    (gather,) = of(stages, "gather")
    folder = ROOT / "results" / params.load().profile
    records = {path.relative_to(ROOT).as_posix() for path in folder.glob("*/metrics.json")}
    assert {f"results/{params.load().profile}/{path.stem}" for path in NOTEBOOKS[:-1]} == {
        dep for dep in names(gather.deps) if dep.startswith("results/")
    }
    assert records <= {f"{dep}/metrics.json" for dep in names(gather.deps)}
    assert {"benchmarks", "claims.yaml"} <= names(gather.deps)


def test_git_keeps_what_dvc_does_not_cache_and_ignores_what_it_does(stages):
    outs = [out for stage in stages.values() for out in stage.outs]
    for out in outs:
        command = [
            "git",
            "check-ignore",
            "-q",
            "--no-index",
            out.def_path,
        ]  # also what is tracked already
        ignored = subprocess.run(command, cwd=ROOT, check=False).returncode == 0
        assert ignored == bool(out.use_cache), out.def_path
    assert {out.def_path.split("/")[0] for out in outs if out.use_cache} <= {"runs", "models"}


def test_no_two_stages_write_the_same(stages):
    outs = [out for stage in stages.values() for out in names(stage.outs)]
    assert len(set(outs)) == len(outs)


def test_commands_name_the_profile_and_outs_carry_it(stages):
    profile = params.load().profile
    for name, stage in stages.items():
        assert profile in shlex.split(stage.cmd), name
        assert all(f"/{profile}/" in f"/{out}/" for out in names(stage.outs)), name


def test_matrix_stages_expand_for_both_profiles(stages, tmp_path):
    chosen = params.load()
    assert len(of(stages, "train_announced")) == len(chosen.seeds.announced)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    reproduce.choose_full(tmp_path / "params.yaml")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    with Repo(str(tmp_path)) as copy:
        full = {stage.name: stage for stage in copy.index.stages}
    assert {base(name) for name in full} == {base(name) for name in stages}
    assert all(name.split("@")[1].split("-")[0] == "full" for name in full)
    made = {
        out
        for name, stage in full.items()
        if base(name).startswith("train_")
        for out in names(stage.outs)
    }
    several, first = chosen.full_seeds.announced, chosen.full_seeds.announced[0]
    clamped = {f"runs/full/mixture/announced-{s}" for s in several}
    assert {out for out in made if "announced" in out} == clamped | {
        f"runs/full/mixture/announced_unclamped-{first}"
    }
    assert not any("sample" in out for stage in full.values() for out in names(stage.outs))
    told = re.findall(
        r"train_\w+@full-[\w-]+", (ROOT / "docs" / "machines.md").read_text(encoding="utf-8")
    )
    assert told and set(told) <= full.keys()


def test_the_lock_is_in_step_with_the_tree(repo):
    if not (ROOT / "data").is_dir():
        pytest.skip("data/ is not here: `dvc pull data.dvc` brings it")
    stale = {}
    for name, faults in repo.status().items():
        changes = [
            f"{kind}: {path} {change}"
            for fault in faults
            for kind, paths in (fault.items() if isinstance(fault, dict) else [(fault, {})])
            for path, change in (paths.items() or [("", "")])
            if not (
                path.startswith("runs/") and change == "deleted"
            )  # trained networks need not be pulled
        ]
        if changes:
            stale[name] = changes
    assert not stale, "run `dvc repro` and commit what it writes"


def test_the_committed_metrics_come_from_this_profile():
    assert claims.read_metrics("sample")
    assert set(yaml.safe_load((ROOT / "dvc.lock").read_text(encoding="utf-8"))["stages"]) >= {
        "gather@sample"
    }
