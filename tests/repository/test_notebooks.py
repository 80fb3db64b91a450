"""The notebooks: sources without outputs that look alike, and executed copies that are their sources, run clean.

Read from the files; `make test` executes them again with nbval.
"""

import ast
import json
import re
import subprocess
import sys

import nbformat
import pytest
import yaml
from imports import NOTEBOOKS, ROOT, cells

from lib.common import params
from lib.tools import execute

SAMPLE = ROOT / "results" / "sample"

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def load(path):
    return nbformat.read(path, as_version=4)


def executed(path):
    """Where the executed copy of a source lies."""
    return SAMPLE / path.stem / "notebook.ipynb"


def tagged(notebook, tag):
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def sections(path) -> list[str]:
    """The sections of params.yaml that the notebook's stage in dvc.yaml names."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"].values()
    commands = [stage["cmd"].split() for stage in stages if path.stem in stage["cmd"].split()]
    assert len(commands) == 1, f"{path.stem} must be executed by one stage of dvc.yaml"
    words = commands[0][commands[0].index(path.stem) + 1 :]
    return words[: words.index("--profile")]


def test_there_are_notebooks_and_their_numbers_differ():
    numbers = [path.stem[:2] for path in NOTEBOOKS]
    assert numbers and len(set(numbers)) == len(numbers)
    assert all(re.fullmatch(r"\d\d_[a-z0-9_]+", path.stem) for path in NOTEBOOKS)


# sources


@each
def test_a_source_is_valid_and_holds_nothing_that_a_run_leaves(path):
    notebook = load(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert not {"papermill", "widgets"} & notebook.metadata.keys()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not [
        cell.source[:60] for cell in code if cell.outputs or cell.execution_count is not None
    ]
    assert not tagged(notebook, "injected-parameters")
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)


@each
def test_a_source_begins_with_its_one_heading_and_ends_with_its_limits(path):
    notebook = load(path)
    text = "\n".join(cells(path, "markdown"))
    headings = re.findall(r"^# .+$", text, flags=re.MULTILINE)
    assert len(headings) == 1 and headings[0].startswith(f"# {path.stem[:2]} ")
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith(
        headings[0]
    )
    assert notebook.cells[-1].source.startswith("## What this does not show\n")
    assert "## Checked claims" in text


@each
def test_prose_comes_first_and_no_markdown_cell_is_empty(path):
    assert all(source.strip() for source in cells(path, "markdown") + cells(path))


@each
def test_the_bootstrap_cell_is_the_same_everywhere_and_comes_first(path):
    notebook = load(path)
    (bootstrap,) = tagged(notebook, "bootstrap")
    assert bootstrap.source == tagged(load(NOTEBOOKS[0]), "bootstrap")[0].source
    assert bootstrap is next(cell for cell in notebook.cells if cell.cell_type == "code")


def test_the_bootstrap_cell_finds_the_project_from_a_folder_inside(tmp_path):
    (bootstrap,) = tagged(load(NOTEBOOKS[0]), "bootstrap")
    code = f"{bootstrap.source}\nimport lib\nprint(os.getcwd(), lib.__file__)"
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "params.yaml").touch()
    (tmp_path / "a" / "lib").mkdir()
    (tmp_path / "a" / "lib" / "__init__.py").touch()
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "a" / "b",
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == [str(tmp_path / "a"), str(tmp_path / "a" / "lib" / "__init__.py")]


@each
def test_parameters_are_literals_equal_to_the_sample_profile_of_params_yaml(path):
    (cell,) = tagged(load(path), "parameters")
    declared = {}
    for node in ast.parse(cell.source).body:
        assert isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name), ast.unparse(
            node
        )
        declared[node.targets[0].id] = ast.literal_eval(node.value)
    wanted = execute.notebook_parameters(
        path, sections(path), params.load("sample"), f"results/sample/{path.stem}"
    )
    assert declared == wanted
    assert [type(value) for value in declared.values()] == [type(wanted[name]) for name in declared]
    assert {"profile", "output"} <= declared.keys()


@each
def test_claims_are_asserted_and_outputs_compared(path):
    compared = tagged(load(path), "nbval-check-output")
    assert compared and all(cell.cell_type == "code" for cell in compared)
    assert any(re.search(r"\bcheck\(\n|assert all\(", cell.source) for cell in compared)
    assert re.search(r"record\.write(_metrics)?\(", cells(path)[-1])


@each
def test_a_source_writes_only_where_it_is_told(path):
    code = "\n".join(cells(path))
    assert "params.output_folder(output)" in code
    assert '"results' not in code.replace(f'output = "results/sample/{path.stem}"', "")
    assert "tqdm.notebook" not in code


# executed copies


def test_every_notebook_has_an_executed_copy_and_no_copy_is_left_over():
    assert [executed(path) for path in NOTEBOOKS] == sorted(SAMPLE.rglob("*.ipynb"))


@each
def test_the_copy_ran_clean_from_the_first_cell_to_the_last(path):
    notebook = load(executed(path))
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for output in (output for cell in code for output in cell.outputs):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text
        assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})


@each
def test_the_copy_is_stable(path):
    copy = executed(path)
    notebook = load(copy)
    assert [cell.id for cell in notebook.cells] == [
        f"cell-{i:02d}" for i in range(len(notebook.cells))
    ]
    assert not {"papermill", "widgets"} & notebook.metadata.keys()
    assert "version" not in notebook.metadata.language_info
    assert not [
        cell for cell in notebook.cells if {"papermill", "execution"} & cell.metadata.keys()
    ]


@each
def test_the_copy_is_its_source_with_the_values_of_params_yaml(path):
    source, copy = load(path), load(executed(path))
    (injected,) = tagged(copy, "injected-parameters")
    place = copy.cells.index(injected)
    assert "parameters" in copy.cells[place - 1].metadata.tags
    rest = copy.cells[:place] + copy.cells[place + 1 :]
    assert [(cell.cell_type, cell.source) for cell in rest] == [
        (cell.cell_type, cell.source) for cell in source.cells
    ]
    assert [cell.metadata.get("tags", []) for cell in rest] == [
        cell.metadata.get("tags", []) for cell in source.cells
    ]
    given = {
        node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(injected.source).body
    }
    assert given == execute.notebook_parameters(
        path, sections(path), params.load("sample"), f"results/sample/{path.stem}"
    )


@each
def test_the_copys_metrics_are_the_studys_and_its_code_is_named(path):
    found = SAMPLE / path.stem / "metrics.json"
    if (
        path.stem == "06_verdicts"
    ):  # it comes after `gather`, so its record lies outside the folder that gather reads
        found = SAMPLE / "verdicts.json"
    record = json.loads(found.read_text(encoding="utf-8"))
    assert record["study"] == path.stem and record["run"]["profile"] == "sample"
    assert re.fullmatch("[0-9a-f]{16}", record["run"]["code"])
    assert record["metrics"]
