"""What a repository needs beside its code: files for citing, contributing and committing, and a command line that
explains itself."""

import ast
import json
import re

import pytest
import yaml
from imports import MODULES, ROOT, tree

NEEDED_COMMANDS = ("make test", "make lint", "make reproduce", "make readme", "make site")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


# files that people and code hosts look for


def test_the_citation_names_what_readers_cite_and_the_licence_that_the_project_has():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"
    for author in citation["authors"]:
        assert author.get("name") or author.get("family-names")
    assert read("LICENSE").startswith(f"{citation['license']} License")


def test_what_the_citation_refers_to_has_authors_and_an_address():
    references = yaml.safe_load(read("CITATION.cff"))["references"]
    assert len(references) == 3
    for reference in references:
        assert reference["type"] == "software" and reference["title"] and reference["authors"]
        assert reference["repository-code"].startswith("https://")


def test_contributing_names_the_commands_that_exist():
    text = read("docs/contributing.md")
    targets = re.search(r"^\.PHONY: (.+)$", read("Makefile"), flags=re.MULTILINE)[1].split()
    for command in NEEDED_COMMANDS:
        assert f"`{command}`" in text
        assert command.removeprefix("make ") in targets


def test_pre_commit_runs_the_pinned_ruff_and_strips_the_sources():
    hooks = {}
    for repository in yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]:
        for hook in repository["hooks"]:
            hooks[hook["id"]] = hook
    ruff = re.search(r"^ruff==\S+", read("requirements.txt"), flags=re.MULTILINE)[0]
    assert hooks["ruff-check"]["additional_dependencies"] == [ruff]
    assert hooks["ruff-format"]["additional_dependencies"] == [ruff]
    stripped = hooks["nbstripout"]["files"]
    assert re.match(stripped, "notebooks/01_data_verification.ipynb")
    assert not re.match(stripped, "results/sample/01_data_verification/notebook.ipynb")


def test_the_container_is_readable_and_sets_the_environment_up():
    container = json.loads(read(".devcontainer/devcontainer.json"))
    assert ".venv/.complete" in container["postCreateCommand"]


@pytest.mark.parametrize("name", ["not-reproduced", "verdict"])
def test_an_issue_form_is_readable(name):
    form = yaml.safe_load(read(f".github/ISSUE_TEMPLATE/{name}.yml"))
    assert form["name"] and form["description"]
    ids = [field["id"] for field in form["body"]]
    assert len(set(ids)) == len(ids)
    assert all(field["attributes"]["label"] for field in form["body"])


def test_the_log_stands_in_for_a_changelog_and_dates_its_entries():
    assert re.search(r"^## 20\d\d-\d\d-\d\d", read("docs/log.md"), flags=re.MULTILINE)


# documentation


def public_methods(module: ast.Module) -> list[tuple[str, ast.FunctionDef]]:
    """The methods of public classes that others may call, each with the name Class.method."""
    found = []
    for node in module.body:
        if not isinstance(node, ast.ClassDef) or node.name.startswith("_"):
            continue
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                found.append((f"{node.name}.{method.name}", method))
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_public_methods_are_documented(path):
    bare = [name for name, method in public_methods(tree(path)) if not ast.get_docstring(method)]
    # `forward` is torch's name; the docstring of its class says what it does
    assert not [name for name in bare if not name.endswith(".forward")]
