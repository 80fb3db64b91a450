"""Build the web pages: `make site`, or `PYTHONPATH=. python docs/site/build.py [FOLDER]`.

The notebooks are executed copies (of the full profile where there is one of the present text, else of the sample), the
verdicts come from the ledger and the metrics, the interactive view from the shipped weights. Nothing is executed or
downloaded.
Pages and pictures go to FOLDER/source, the site to FOLDER/html; without FOLDER they go to docs/_build.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pages
import view

from lib.common import claims, params

SITE = Path(__file__).resolve().parent


def build(folder: Path) -> Path:
    """Make the whole site from nothing; its first page."""
    source, html = folder / "source", folder / "html"
    for old in (source, html, folder / "doctrees"):
        shutil.rmtree(old, ignore_errors=True)
    write_sources(source)
    run_sphinx(source, html, folder / "doctrees")
    return html / "index.html"


def write_sources(source: Path) -> None:
    """Everything that Sphinx reads: notebooks, Markdown pages, pictures and the first page."""
    root = params.root()
    notebooks = []
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        copy, profile = pages.executed(root, path.stem)
        pages.write_notebook(copy, profile, source / "notebooks" / path.name)
        notebooks.append(f"notebooks/{path.stem}")
    background = []
    for path in [*sorted((root / "docs").glob("*.md")), *sorted((root / "models").glob("*.md"))]:
        name = pages.page_name(path)
        pages.write_page(path, source / f"{name}.md")
        background.append(name)
    entries = view.make(source / "view")
    metrics = claims.read_best()
    verdicts = claims.judge_all(metrics)
    (source / "claims").mkdir()
    for verdict in verdicts:
        page = pages.claim_page(root, verdict, verdicts, metrics)
        (source / "claims" / f"{verdict.claim.id}.md").write_text(page, encoding="utf-8")
    readme = (root / "README.md").read_text(encoding="utf-8")
    text = pages.landing(readme, verdicts, view.html(entries), notebooks, background)
    (source / "index.md").write_text(text, encoding="utf-8")


def run_sphinx(source: Path, html: Path, doctrees: Path) -> None:
    """Turn the sources into HTML; a warning is an error. Raises CalledProcessError."""
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    command += ["-c", str(SITE), "-d", str(doctrees)]
    command += ["-D", f"html_static_path=static,{source / 'view'}"]
    subprocess.run([*command, str(source), str(html)], check=True)


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else SITE.parent / "_build"
    index = build(folder.resolve())
    print(f"{index}: {len(list(index.parent.rglob('*.html')))} pages")
