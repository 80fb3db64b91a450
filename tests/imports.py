"""What a source imports, read from its syntax tree; shared by the tests of the repository."""

import ast
import functools
import json
from collections.abc import Iterator
from pathlib import Path

from lib.common import params

ROOT = params.root()
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MODULES = sorted((ROOT / "lib").rglob("*.py"))
SYSTEMS = ("diffusion", "mixture", "language")


def cells(path: Path, kind: str = "code") -> list[str]:
    """The text of each cell of one kind."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == kind]


def tree(path: Path) -> ast.Module:
    """The syntax tree of a module or of a notebook's code cells."""
    text = "\n".join(cells(path)) if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")
    return ast.parse(text, str(path))


def imported(node: ast.AST) -> Iterator[str]:
    """Dotted names of everything imported anywhere below `node`; `from a import b` gives a.b."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Import):
            yield from (alias.name for alias in inner.names)
        elif isinstance(inner, ast.ImportFrom):
            assert inner.level == 0, "relative import"
            yield from (f"{inner.module}.{alias.name}" for alias in inner.names)


def packages(path: Path) -> set[str]:
    """Top names of what a source imports itself."""
    return {name.split(".")[0] for name in imported(tree(path))}


def file_of(name: str) -> Path | None:
    """The module of lib that a dotted name begins with; the `__init__` of a package does not count."""
    parts = name.split(".")
    if parts[0] != "lib":
        return None
    for end in range(len(parts), 1, -1):
        path = ROOT.joinpath(*parts[:end]).with_suffix(".py")
        if path.is_file():
            return path
    return None


@functools.cache
def lib_imports(path: Path) -> frozenset[Path]:
    """Modules of lib that a source imports itself."""
    found = {file_of(name) for name in imported(tree(path))}
    return frozenset(found - {None})


def reached(*sources: Path) -> set[Path]:
    """All modules of lib that the sources need, directly or through others; those that are modules themselves too."""
    seen: set[Path] = set()
    waiting = list(sources)
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            waiting += lib_imports(path)
    return {path for path in seen if path.suffix == ".py"}


def package(path: Path) -> str:
    """The package of lib that a module stands in: common, diffusion, ..., tools; "" for lib itself."""
    parts = path.relative_to(ROOT / "lib").parts
    return parts[0] if len(parts) > 1 else ""
