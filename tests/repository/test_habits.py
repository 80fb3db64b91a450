"""What a repository needs beside its code: files for citing, contributing and committing, and a command line that
explains itself."""

import ast
import json
import re
import shlex
import subprocess
import sys

import pytest
import yaml
from imports import MODULES, ROOT, tree

from lib.__main__ import COMMANDS, build_parser

FIVE = ("make test", "make lint", "make reproduce", "make readme", "make site")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_citation_names_what_readers_cite_and_the_licence_that_the_project_has():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["authors"] and all(
        author.get("name") or author.get("family-names") for author in citation["authors"]
    )
    assert read("LICENSE").startswith(f"{citation['license']} License")


def test_contributing_names_five_commands_that_exist():
    text = read("docs/contributing.md")
    targets = re.search(r"^\.PHONY: (.+)$", read("Makefile"), flags=re.MULTILINE)[1].split()
    for command in FIVE:
        assert f"`{command}`" in text and command.split()[1] in targets


def test_pre_commit_runs_the_pinned_ruff_and_strips_the_sources():
    hooks = {
        hook["id"]: hook
        for repo in yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
        for hook in repo["hooks"]
    }
    ruff = re.search(r"^ruff==\S+", read("requirements.txt"), flags=re.MULTILINE)[0]
    assert (
        hooks["ruff-check"]["additional_dependencies"]
        == hooks["ruff-format"]["additional_dependencies"]
        == [ruff]
    )
    assert re.match(hooks["nbstripout"]["files"], "notebooks/01_data_verification.ipynb")
    assert not re.match(
        hooks["nbstripout"]["files"], "results/sample/01_data_verification/notebook.ipynb"
    )


def test_the_container_and_the_issue_forms_are_readable():
    container = json.loads(read(".devcontainer/devcontainer.json"))
    assert ".venv/.complete" in container["postCreateCommand"]
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert len(forms) == 2
    for path in forms:
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert form["name"] and form["description"]
        ids = [field["id"] for field in form["body"]]
        assert len(set(ids)) == len(ids) and all(
            field["attributes"]["label"] for field in form["body"]
        )


def test_the_log_stands_in_for_a_changelog_and_dates_its_entries():
    assert re.search(r"^## 20\d\d-\d\d-\d\d", read("docs/log.md"), flags=re.MULTILINE)


def test_help_shows_every_command_with_an_example_that_parses():
    parser = build_parser()
    text = parser.format_help()
    examples = re.findall(r"^  python -m lib (.+)$", text, flags=re.MULTILINE)
    names = [add.__name__.removeprefix("add_") for add in COMMANDS]
    assert {"data", "denoise", "generate", "claims"} <= set(names)
    for name in names:
        assert re.search(rf"^    {name} +\S", text, flags=re.MULTILINE)
        assert any(example.split()[0] == name for example in examples), name
    for example in examples:
        assert callable(parser.parse_args(shlex.split(example)).run)


def test_a_reader_that_stops_early_is_no_error():
    command = [sys.executable, "-m", "lib", "claims"]
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    run.stdout.close()
    assert run.stderr.read() == b"" and run.wait() == 0
    run.stderr.close()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_public_methods_are_documented(path):
    classes = [
        node
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef) and node.name[0] != "_"
    ]
    methods = [
        (node.name, method)
        for node in classes
        for method in node.body
        if isinstance(method, ast.FunctionDef)
    ]
    bare = {
        f"{name}.{m.name}" for name, m in methods if m.name[0] != "_" and not ast.get_docstring(m)
    }
    assert not {
        name for name in bare if not name.endswith(".forward")
    }  # torch's; its class describes it
