"""lib/tools/execute.py: strict about parameters, equal bytes for equal results, and a failure that spoils nothing.

Each start of a kernel costs seconds, so one execution is shared by the tests that only look at it.
"""

import json
import os
import shutil

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from lib.common import params
from lib.common.params import UserError
from lib.tools import cli, execute

THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS")
KERNEL = {
    "kernelspec": {"display_name": "Other", "language": "python", "name": "some_other_kernel"}
}
GOOD = """
import json, os, sys, time
names = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONHASHSEED")
print(json.dumps({**{name: os.environ[name] for name in names}, "folder": os.getcwd(), "values": [profile, sigma, blur_sigmas]}))
print(f"{profile} sigma {sigma} output {output} threads {threads}", file=sys.stderr)
"""
BAD = "done = 1\nprint('before')"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project of tiny notebooks; `root` points to it, and the environment comes back afterwards."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(params.root() / "params.yaml", folder)
    shutil.copytree(
        params.root() / "lib", folder / "lib", ignore=shutil.ignore_patterns("__pycache__")
    )
    declared = (
        "profile = 'none'\nthreads = 1\noutput = ''\nsigma = 0.5  # deviation\nblur_sigmas = [1.0]"
    )
    notebook(folder, "good", declared, GOOD)
    notebook(
        folder,
        "unknown",
        "sigma = 0.5\nlearning_speed = 3\nmood = 1",
        "raise SystemError('must not run')",
    )
    notebook(folder, "bare", None, "raise SystemError('must not run')")
    notebook(folder, "fails", "sigma = 0.5", BAD, "wide = {}\nwide['gap']", "print('never')")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(params, "root", lambda: folder)
        for name in (*THREADS, "PYTHONHASHSEED", "PYTHONPATH"):
            patch.setenv(name, os.environ.get(name, "") if name == "PYTHONPATH" else "7")
        yield folder


def notebook(folder, name, parameters, *cells):
    tagged = [new_code_cell(parameters, metadata={"tags": ["parameters"]})] if parameters else []
    made = new_notebook(
        cells=[new_markdown_cell(f"# {name}"), *tagged, *map(new_code_cell, cells)], metadata=KERNEL
    )
    (folder / "notebooks").mkdir(exist_ok=True)
    nbformat.write(made, folder / "notebooks" / f"{name}.ipynb")


@pytest.fixture(scope="module")
def executed(project):
    """The good notebook's executed copies of two runs: (path, bytes of the first, bytes of the second)."""
    path = execute.execute("good", ["data"])
    first = path.read_bytes()
    return path, first, execute.execute("good", ["data"]).read_bytes()


def files_under(folder):
    return sorted(
        str(p.relative_to(folder))
        for p in folder.rglob("*")
        if p.is_file() and "lib" not in p.parts
    )


def test_two_runs_write_equal_bytes_into_the_profiles_folder(project, executed):
    path, first, second = executed
    assert path == project / "results" / "sample" / "good" / "notebook.ipynb"
    assert first == second
    assert files_under(project / "results") == ["sample/good/notebook.ipynb"]


def test_what_changes_from_run_to_run_is_left_out(executed):
    content = json.loads(executed[1])
    assert content["metadata"]["kernelspec"]["name"] == "python3"
    assert not {"papermill", "widgets"} & content["metadata"].keys()
    assert "version" not in content["metadata"]["language_info"]
    assert [cell["id"] for cell in content["cells"]] == [
        f"cell-{i:02d}" for i in range(len(content["cells"]))
    ]
    for cell in content["cells"]:
        assert not {"papermill", "execution"} & cell["metadata"].keys()
    assert [cell.get("execution_count") for cell in content["cells"]] == [None, 1, 2, 3]


def test_the_notebook_gets_the_values_of_params_yaml(project, executed):
    chosen = params.load("sample")
    cells = json.loads(executed[1])["cells"]
    injected = "".join(cells[2]["source"])
    assert cells[2]["metadata"]["tags"] == ["injected-parameters"]
    for line in (
        f"sigma = {chosen.data.sigma}",
        'profile = "sample"',
        'output = "results/sample/good"',
    ):
        assert line in injected
    assert "noise_seed" not in injected  # not declared, so not given
    said = json.loads("".join(cells[3]["outputs"][0]["text"]))
    assert said["values"] == ["sample", chosen.data.sigma, list(chosen.data.blur_sigmas)]
    assert said["folder"] == str(project)


def test_the_kernel_has_fixed_threads_and_hashing(executed):
    outputs = json.loads(executed[1])["cells"][3]["outputs"]
    said = json.loads("".join(outputs[0]["text"]))
    threads = str(params.load("sample").threads)
    assert said["OPENBLAS_NUM_THREADS"] == "1"  # its idle threads spin
    assert {said[name] for name in THREADS[:2]} == {threads}
    assert said["PYTHONHASHSEED"] == "0"
    assert [output["output_type"] for output in outputs] == ["stream", "stream"]
    assert outputs[1]["text"] == [
        f"sample sigma 0.2 output results/sample/good threads {threads}\n"
    ]


def test_a_parameter_without_a_value_stops_before_anything_runs(project):
    with pytest.raises(UserError) as caught:
        execute.execute("unknown", ["data"])
    assert "unknown.ipynb: parameter learning_speed, mood has no value in params.yaml" in str(
        caught.value
    )
    assert "sections searched: data" in str(caught.value)
    with pytest.raises(
        UserError, match=r"parameter sigma, blur_sigmas has no value .*searched: none"
    ):
        execute.execute("good", [])
    assert not (project / "logs").exists()
    assert not list(project.rglob("unknown.ipynb"))[1:]


@pytest.mark.parametrize(
    "name, sections, wanted",
    [
        ("absent", [], r"notebooks/absent.ipynb: not found; there are bare, fails, good, unknown"),
        ("good", ["datta"], r"datta: no such section in params.yaml; there are data, announced"),
        ("good", ["data", "announced"], r"good.ipynb: sigma stands in more than one section"),
        ("bare", ["data"], r"bare.ipynb: no cell tagged `parameters`"),
    ],
)
def test_a_call_that_cannot_work_is_one_clear_line(project, name, sections, wanted):
    with pytest.raises(UserError, match=wanted) as caught:
        execute.execute(name, sections)
    assert "\n" not in str(caught.value)


def test_a_broken_params_yaml_stops_it(project, monkeypatch):
    good = (project / "params.yaml").read_text()
    try:
        (project / "params.yaml").write_text(good.replace("threads: 2", "threads: two"))
        with pytest.raises(UserError, match="threads = 'two'"):
            execute.execute("good", ["data"])
    finally:
        (project / "params.yaml").write_text(good)


@pytest.mark.fault("a cell that fails", "one line with cell and error; the last good copy stays")
def test_a_failing_cell_keeps_the_good_copy_and_the_partial_one_apart(project, executed, capsys):
    target = project / "results" / "sample" / "fails" / "notebook.ipynb"
    target.parent.mkdir()
    target.write_text("the last good copy")
    before = files_under(project)
    assert cli.main(["execute", "fails", "data", "--profile", "sample"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith("error: notebooks/fails.ipynb failed: cell 4: KeyError: 'gap'")
    assert told[0].endswith("; what ran until then is in logs/sample-fails.ipynb")
    assert target.read_text() == "the last good copy"
    assert sorted(set(files_under(project)) - set(before)) == ["logs/sample-fails.ipynb"]
    partial = nbformat.read(project / "logs" / "sample-fails.ipynb", as_version=4)
    assert any("before" in str(cell.get("outputs")) for cell in partial.cells)
    assert "never" not in str([cell.get("outputs") for cell in partial.cells])


def test_the_command_tells_faults_in_one_line(project, capsys):
    assert cli.main(["execute", "absent"]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith("error: notebooks/absent.ipynb: not found")
    assert told.err.count("\n") == 1


def test_the_command_names_what_it_wrote(project, monkeypatch, capsys):
    monkeypatch.setattr(
        execute, "run_papermill", lambda source, draft, *_: shutil.copy(source, draft)
    )
    assert cli.main(["execute", "good", "data", "--output", "elsewhere"]) == 0
    assert capsys.readouterr().out == "elsewhere/notebook.ipynb\n"
    assert (project / "elsewhere" / "notebook.ipynb").is_file()


# a GPU


@pytest.mark.parametrize(
    "device, there, wanted",
    [("auto", True, "cuda"), ("auto", False, "cpu"), ("cpu", True, "cpu"), ("cuda", False, "cuda")],
)
def test_the_gpu_is_held_for_a_notebook_that_will_use_it(monkeypatch, device, there, wanted):
    monkeypatch.setattr(execute.gpu, "present", lambda: there)
    assert execute.device_of({"device": device}) == wanted
    assert execute.device_of({"threads": 2}) == "cpu"


def test_a_notebook_runs_in_the_kernel_for_tensorflow_only_when_it_imports_it(
    tmp_path, monkeypatch
):
    with_it, without = tmp_path / "with.ipynb", tmp_path / "without.ipynb"
    with_it.write_text('"import tensorflow as tf"')
    without.write_text('"import torch"')
    monkeypatch.setenv("TENSORFLOW_KERNEL", "tensorflow-gpu")
    assert execute.kernel_name(with_it) == "tensorflow-gpu"
    assert execute.kernel_name(without) == "python3"
    monkeypatch.delenv("TENSORFLOW_KERNEL")
    assert execute.kernel_name(with_it) == "python3"
