"""Bring the generated parts of the pages up to date: `make readme`.

README.md and docs/findings.md hold prose and marked places. What stands in a marked place comes from `results/`,
`benchmarks/` and `claims.yaml`; tests/repository/test_readme.py compares it with them. The marks are comments, which
readers of the rendered page do not see:

    <!-- begin tally -->        a block, by its name in `blocks`       <!-- end tally -->
    <!-- n em_psnr_db_10 all --> a metric, in a form of `FORMS` or of Python's `format` <!-- /n -->
    <!-- v mixture-psnr -->     the verdict on a claim, by its id      <!-- /v -->
"""

import json
import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from lib.common import claims, files, params, tables
from lib.common.tables import Table

PAGES = ("README.md", "docs/findings.md")

# What stands in a block never holds the beginning of another one.
BLOCK = re.compile(r"(<!-- begin (\w+) -->)(?:(?!<!-- begin ).)*?(<!-- end \2 -->)", re.DOTALL)
NUMBER = re.compile(r"(<!-- n (\w+) (\S+) -->)[^<]*(<!-- /n -->)")
VERDICT = re.compile(r"(<!-- v ([\w-]+) -->)[^<]*(<!-- /v -->)")
ANY_MARK = re.compile(r"<!-- (?:begin|end|n|/n|v|/v)\b[^>]*-->")

GITHUB = re.compile(r"github\.com[:/]([\w.-]+/[\w.-]+?)(?:\.git)?/?$")
COLAB = re.compile(r"colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/blob/")
HOW_COLAB = """

Colab: open a notebook on GitHub and write `colab.research.google.com/github` in place of `github.com` in its address."""

# Forms of a number beside those of Python's `format`.
FORMS = {
    "all": tables.number,  # with its 95 % interval, unit and n
    "measured": tables.measured,  # without n
    "cases": lambda entry: f"{entry['n']:,}",
    "minutes": lambda entry: f"{entry['value'] / 60:.0f}",
}


class Facts(NamedTuple):
    """What marked places may name: blocks of text, metrics, and verdicts by the claim's id."""

    blocks: dict[str, str]
    metrics: dict[str, dict]
    verdicts: dict[str, str]


# --- filling a page --------------------------------------------------------------------------------------------------


def fill(text: str, facts: Facts) -> str:
    """The page's text with every marked place written anew.

    Raises:
        UserError: a mark names nothing that is known, has no partner, or asks for a form that does not exist.
    """
    unmarked = VERDICT.sub("", NUMBER.sub("", BLOCK.sub("", text)))
    if stray := ANY_MARK.search(unmarked):
        raise params.UserError(f"mark {stray[0]!r} has no partner or is not complete")

    def block(match: re.Match) -> str:
        return f"{match[1]}\n{_known(facts.blocks, match[2])}\n{match[3]}"

    def number(match: re.Match) -> str:
        entry = _known(facts.metrics, match[2])
        return f"{match[1]}{formatted(entry, match[3])}{match[4]}"

    def verdict(match: re.Match) -> str:
        return f"{match[1]}{_known(facts.verdicts, match[2])}{match[3]}"

    text = BLOCK.sub(block, text)
    text = NUMBER.sub(number, text)
    return VERDICT.sub(verdict, text)


def formatted(entry: dict[str, Any], form: str) -> str:
    """A metric in one of `FORMS` or in a form of Python's `format`. Raises UserError: no such form."""
    if form in FORMS:
        return FORMS[form](entry)
    try:
        return format(entry["value"], form)
    except ValueError:
        raise params.UserError(f"{form!r} is no form of the number {entry['value']}") from None


def _known(table: dict[str, Any], key: str) -> Any:
    if key not in table:
        raise params.UserError(f"mark {key!r} names nothing that is known")
    return table[key]


def update(name: str) -> bool:
    """Bring one of `PAGES` up to date; True when something changed. Raises UserError: see `fill`."""
    root = params.root()
    path = root / name
    before = path.read_text(encoding="utf-8")
    repository = origin_on_github(root) or repository_on(before)
    try:
        after = fill(before, collect(root, repository))
    except params.UserError as error:
        raise params.UserError(f"{name}: {error}") from None
    if after != before:
        files.write_text(path, after)
    return after != before


# --- what marked places may name -------------------------------------------------------------------------------------


def collect(root: Path, repository: str | None = None) -> Facts:
    """All facts, from the committed results.

    Args:
        repository: OWNER/NAME of the code host, for the links to Colab.
    """
    metrics = claims.read_best()
    verdicts = claims.judge_all(metrics)
    blocks = {
        "tally": claims.tally_sentence(verdicts),
        "summary": compact(claims.summary_table(verdicts)),
        "targets": compact(claims.target_table(verdicts)),
        "true": compact(claims.true_table(verdicts, metrics)),
        "notebooks": compact(notebook_table(root, repository)) + ("" if repository else HOW_COLAB),
        "headline": compact(headline_table(metrics, claims.read_metrics("sample"))),
        "full": compact(full_table(root)),
    }
    named = {verdict.claim.id: verdict.verdict for verdict in verdicts}
    return Facts(blocks, metrics, named)


def compact(table: Table) -> str:
    """A table in Markdown whose cells are not padded: a longer cell then changes one line of the page, not all."""
    head, _, *rows = [re.sub(r" +\|", " |", line) for line in str(table).splitlines()]
    return "\n".join([head, "|---" * len(table.columns) + "|", *rows])


def notebook_table(root: Path, repository: str | None = None) -> Table:
    """The notebooks with the question each one asks, and links to executed copies and to Colab."""
    rows = []
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        title, question = title_and_question(path)
        links = []
        for profile in ("sample", "full"):
            copy = f"results/{profile}/{path.stem}/notebook.ipynb"
            if (root / copy).is_file():
                links.append(f"[{profile}]({copy})")
        if repository:
            source = f"{repository}/blob/main/notebooks/{path.name}"
            links.append(f"[Colab](https://colab.research.google.com/github/{source})")
        rows.append([title, question, ", ".join(links)])
    return Table(["notebook", "question", "read it, run it"], rows)


def title_and_question(path: Path) -> tuple[str, str]:
    """The heading of a notebook and the question that its first cell asks."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    first = "".join(cells[0]["source"])
    title = re.search(r"^# (.+)$", first, re.MULTILINE)
    question = re.search(r"^\*\*Question\.\*\* (.+)$", first, re.MULTILINE)
    return title[1], question[1]


def headline_table(metrics: dict[str, dict], sample: dict[str, dict]) -> Table:
    """The headline numbers, the sample's beside them, and the band that another machine must stay in.

    Args:
        metrics: the best that was measured, as `claims.read_best` gives it.
        sample: what `make reproduce` makes again; benchmarks are recorded, and not run again by it.
    """
    rows = []
    for name, entry in metrics.items():
        if not entry.get("headline") or name == "reproduce_seconds":
            continue
        profile = entry.get("profile", "–")
        again = sample.get(name, {})
        beside = tables.number(again) if profile == "full" else "–"
        band = "recorded"
        if profile in params.PROFILES and again:
            band = band_of(again)
        rows.append([f"`{name}`", entry["what"], tables.number(entry), profile, beside, band])
    head = ["number", "what", "value", "on", "sample", "band elsewhere"]
    return Table(head, rows)


def band_of(entry: dict[str, Any]) -> str:
    """How far a metric may be off on another machine."""
    if not entry.get("band"):
        return "equal"
    return f"± {entry['band']:g} {entry.get('unit', '')}".strip()


def full_table(root: Path) -> Table:
    """How long each part of the full profile took, where that was noted (`make full`)."""
    path = root / "results" / "full" / "seconds.json"
    noted = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    parts: dict[str, list[float]] = {}
    for stage, seconds in noted.items():
        parts.setdefault(part_of(stage), []).append(seconds)
    rows = []
    for part, seconds in parts.items():
        shortest, longest = f"{min(seconds) / 60:.1f}", f"{max(seconds) / 60:.1f}"
        minutes = shortest if shortest == longest else f"{shortest} to {longest}"
        rows.append([part, str(len(seconds)), minutes])
    return Table(["part of the full profile", "runs", "minutes of each"], rows)


def part_of(stage: str) -> str:
    """A stage's name without its seed: `train_language@full-lstm-0` is a run of `train_language`, `lstm`."""
    name, _, matrix = stage.partition("@")
    arm = matrix.split("-")[1:2]  # profile, arm, seed
    return " ".join(f"`{word}`" for word in [name, *arm])


# --- where the repository lies ---------------------------------------------------------------------------------------


def origin_on_github(root: Path) -> str | None:
    """OWNER/NAME when this checkout was cloned from GitHub."""
    command = ["git", "config", "--get", "remote.origin.url"]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    found = GITHUB.search(run.stdout.strip())
    return found[1] if found else None


def repository_on(page: str) -> str | None:
    """OWNER/NAME that the page's links to Colab name already; a clone of a clone keeps them."""
    found = COLAB.search(page)
    return found[1] if found else None
