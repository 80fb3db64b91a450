"""The mutations find their places however the source is laid out, and make programs that run."""

import ast
import shutil
import subprocess
import sys

import pytest
from mutants import MUTATIONS, Mutation, mutated, normalised

from lib.common import params

ROOT = params.root()


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """A copy of lib for lines of 40 characters with single quotes: nearly every statement is broken anew."""
    folder = tmp_path_factory.mktemp("narrow")
    shutil.copytree(ROOT / "lib", folder / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    style = ["--config", "line-length = 40", "--config", "format.quote-style = 'single'"]
    command = [sys.executable, "-m", "ruff", "format", "--isolated", *style, str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def test_every_mutation_finds_its_place_in_a_reformatted_copy(narrow):
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)
    changed = 0
    for mutation in MUTATIONS:
        source = (ROOT / mutation.path).read_text()
        other = (narrow / mutation.path).read_text()
        changed += source != other
        assert without_docstrings(mutated(other, mutation)) == without_docstrings(
            mutated(source, mutation)
        )
    assert changed == len(MUTATIONS)  # the copy does differ everywhere


def test_comments_blank_lines_and_parentheses_do_not_matter():
    source = "def f(a, b):\n    # a comment\n\n    return (\n        g(a)  # here, too\n        + (b)\n    )\n"
    mutation = Mutation("sum", "any", "return g(a) + b", "return g(a) - b")
    assert mutated(source, mutation) == "def f(a, b):\n    return g(a) - b\n"


@pytest.mark.parametrize(
    "old, new, error, said",
    [
        ("c", "d", ValueError, "stands 0 times"),
        ("a", "b", ValueError, "stands 2 times"),
        ("f(a)", "f((a))", ValueError, "changes nothing"),
        ("f(a)", "f(a", SyntaxError, "never closed"),
    ],
)
def test_a_mutation_without_its_place_or_without_effect_is_refused(old, new, error, said):
    with pytest.raises(error, match=said):
        mutated("a = f(a)\n", Mutation("some", "any", old, new))


def without_docstrings(source):
    """The program alone: a formatter may indent a docstring anew."""
    tree = ast.parse(normalised(source))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)
