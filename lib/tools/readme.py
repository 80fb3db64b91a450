"""Write the generated parts of README.md: `make readme`.

Every table and every number of the front page stands between markers and comes from `results/` and `claims.yaml`;
tests/repository/test_readme.py compares them.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from lib.common import claims, files, params, tables

# The README's markers; what stands between two of them never holds the start of another.
BLOCK = re.compile(r"(<!-- begin ([\w-]+) -->)(?:(?!<!-- begin ).)*?(<!-- end \2 -->)", re.DOTALL)
VALUE = re.compile(r"(<!-- n (\w+) (\S+) -->)[^<]*<!-- /n -->")
STRAY = re.compile(r"<!-- (?:begin|end|n|/n)\b[^>]*-->")


def headline_table(metrics: dict[str, dict], sample: dict[str, dict]) -> str:
    """The headline numbers, the sample's beside them, and the band that another machine must stay in.

    Args:
        metrics: the best that was measured, as `read_best` gives it.
        sample: the metrics that `make reproduce` makes again; benchmarks are recorded, not run again.
    """
    lines = [
        "| number | what | value | on | sample | band elsewhere |",
        "|---|---|---|---|---|---|",
    ]
    for name, entry in metrics.items():
        if entry.get("headline"):
            again = sample.get(name, {})
            band = (
                f"± {again['band']:g} {again.get('unit', '')}".strip()
                if again.get("band")
                else "equal"
            )
            made = entry.get("profile") in params.PROFILES
            beside = tables.number(again) if entry.get("profile") == "full" else "–"
            cells = [
                f"`{name}`",
                entry["what"],
                tables.number(entry),
                entry.get("profile", "–"),
                beside,
            ]
            lines.append(f"| {' | '.join(cells)} | {band if made and again else 'recorded'} |")
    return "\n".join(lines)


def verdict_table(verdicts: list[claims.Verdict]) -> str:
    """Every announced claim and every target of our own, a table for each system."""
    parts = []
    for system, name in claims.SYSTEMS.items():
        parts.append(f"**{name}**\n\n{claims.system_table(verdicts, system)}")
    parts.append(f"**Our own targets**\n\n{claims.target_table(verdicts)}")
    return "\n\n".join(parts)


def notebook_table(root: Path) -> str:
    """The notebooks with the question each one asks, and links to their executed copies."""
    lines = ["| notebook | question | executed |", "|---|---|---|"]
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        first = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
        title, question = (
            re.search(form, first, re.MULTILINE)[1]
            for form in (r"^# (.+)$", r"^\*\*Question\.\*\* (.+)$")
        )
        copies = [f"results/{profile}/{path.stem}/notebook.ipynb" for profile in ("full", "sample")]
        links = [f"[{copy.split('/')[1]}]({copy})" for copy in copies if (root / copy).is_file()]
        lines.append(f"| {title} | {question} | {', '.join(links)} |")
    return "\n".join(lines)


def full_table(root: Path) -> str:
    """How long each part of the full profile took, where that was noted (`make full`)."""
    path, parts = root / "results" / "full" / "seconds.json", {}
    for stage, seconds in (
        json.loads(path.read_text(encoding="utf-8")).items() if path.is_file() else ()
    ):
        name, _, which = stage.partition("@full")
        parts.setdefault((name, *which.split("-")[1:2]), []).append(seconds)
    lines = ["| part of the full profile | runs | minutes of each |", "|---|---|---|"]
    for key, seconds in parts.items():
        low, high = (f"{bound / 60:.1f}" for bound in (min(seconds), max(seconds)))
        lines.append(
            f"| {' '.join(f'`{k}`' for k in key)} | {len(seconds)} | {low if low == high else f'{low} to {high}'} |"
        )
    return "\n".join(lines)


def fill(text: str, blocks: dict[str, str], metrics: dict[str, dict]) -> str:
    """Write generated text between its markers.

    `<!-- begin NAME -->` ... `<!-- end NAME -->` takes a block; `<!-- n KEY FORMAT -->...<!-- /n -->` a number in a
    format of Python's, or with its interval, unit and n (`all`), or the profile that it was measured on (`on`).

    Raises:
        UserError: a marker names a block or a metric that does not exist, has no partner, or a format that fails.
    """

    def block(match: re.Match) -> str:
        return f"{match[1]}\n{_known(blocks, match[2])}\n{match[3]}"

    def value(match: re.Match) -> str:
        entry = _known(metrics, match[2])
        number = entry["value"]
        try:
            named = {"all": tables.number, "on": lambda found: found["profile"]}.get(match[3])
            return f"{match[1]}{named(entry) if named else format(number, match[3])}<!-- /n -->"
        except ValueError:
            raise params.UserError(
                f"README.md: marker {match[2]!r}: {match[3]!r} is no format of {number}"
            ) from None

    if stray := STRAY.search(VALUE.sub("", BLOCK.sub("", text))):
        raise params.UserError(f"README.md: marker {stray[0]!r} has no partner or is not complete")
    return VALUE.sub(value, BLOCK.sub(block, text))


def update(path: Path | None = None) -> bool:
    """Bring the README's generated parts up to date; True when something changed."""
    path = path or params.root() / "README.md"
    before = path.read_text(encoding="utf-8")
    after = fill(before, *parts())
    if after != before:
        files.write_text(path, after)
    return after != before


def parts() -> tuple[dict[str, str], dict[str, dict]]:
    """The blocks and the metrics that the README's markers may name."""
    metrics = claims.read_best()
    verdicts = claims.judge_all(metrics)
    shown = {name: entry for name, entry in metrics.items() if name != "reproduce_seconds"}
    blocks = {
        "summary": str(claims.summary_table(verdicts)),
        "verdicts": verdict_table(verdicts),
        "headline": headline_table(shown, claims.read_metrics("sample")),
        "tally": claims.tally_sentence(verdicts),
        "notebooks": notebook_table(params.root()),
        "full": full_table(params.root()),
    }
    return blocks, metrics


def _known(table: dict, key: str) -> Any:
    if key not in table:
        raise params.UserError(f"README.md: marker {key!r} is unknown")
    return table[key]


if __name__ == "__main__":
    try:
        print("README.md: " + ("brought up to date" if update() else "is up to date"))
    except params.UserError as error:
        sys.exit(f"lib.tools.readme: {error}")
