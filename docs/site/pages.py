"""The pages of the site: executed notebooks with their plumbing folded, Markdown pages, and the first page."""

import html
import json
import re
import unicodedata
from pathlib import Path

from lib.common import claims, tables

# What the button says that opens a folded cell, by another tag of the cell.
PROMPTS = {
    "bootstrap": "How this notebook finds the project",
    "parameters": "Parameters",
    "injected-parameters": "Parameters of this run",
    "record": "How the numbers are recorded",
}
OTHER_PROMPT = "The code of this cell"


# --- notebooks -------------------------------------------------------------------------------------------------------


def executed(root: Path, stem: str) -> tuple[Path, str]:
    """The executed copy of a notebook that the site shows, and its profile.

    That of the full profile where there is one of the notebook's present text, else that of the sample.

    Raises:
        SystemExit: there is none.
    """
    source = load(root / "notebooks" / f"{stem}.ipynb")
    full = root / "results" / "full" / stem / "notebook.ipynb"
    if full.is_file() and texts(load(full)) == texts(source):
        return full, "full"
    sample = root / "results" / "sample" / stem / "notebook.ipynb"
    if not sample.is_file():
        raise SystemExit(f"{stem}: no executed copy; `dvc repro` makes it")
    return sample, "sample"


def load(path: Path) -> dict:
    """A notebook as it stands in its file."""
    return json.loads(path.read_text(encoding="utf-8"))


def texts(notebook: dict) -> list[str]:
    """The text of each cell but the one with the parameters of the run."""
    found = []
    for cell in notebook["cells"]:
        if "injected-parameters" not in cell["metadata"].get("tags", []):
            found.append("".join(cell["source"]))
    return found


def write_notebook(path: Path, profile: str, target: Path) -> None:
    """One executed notebook into the site: plumbing folded, figures described, profile named."""
    notebook = load(path)
    heading = ""
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            heading = last_heading(text) or heading
            cell["source"] = [without_links(text)]
        else:
            fold(cell)
            describe_figures(cell, heading)
    first = notebook["cells"][0]
    first["source"] = [*first["source"], f"\n\n*Executed copy from `results/{profile}`.*\n"]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(notebook), encoding="utf-8")


def last_heading(markdown: str) -> str | None:
    """The last heading of a cell: that of the code which follows."""
    found = re.findall(r"^#+ (.+)$", markdown, re.MULTILINE)
    return found[-1] if found else None


def fold(cell: dict) -> None:
    """Name the button of a cell that its notebook folds by the tag `hide-input`; the run's parameters are folded too."""
    tags = cell["metadata"].setdefault("tags", [])
    if "injected-parameters" in tags:
        tags.append("hide-input")
    if "hide-input" in tags:
        named = [PROMPTS[tag] for tag in tags if tag in PROMPTS]
        prompt = named[0] if named else OTHER_PROMPT
        cell["metadata"].setdefault("mystnb", {})["code_prompt_show"] = prompt


def describe_figures(cell: dict, heading: str) -> None:
    """Give the figures of a cell a text for those who do not see them."""
    if any("image/png" in output.get("data", {}) for output in cell["outputs"]):
        text = description("".join(cell["source"]), heading)
        cell["metadata"].setdefault("mystnb", {})["image"] = {"alt": text}


def description(code: str, heading: str) -> str:
    """What a figure shows, from the titles and axes that its code writes."""
    quoted = r"""\s*"([^"{]+)\""""
    titles = re.findall(r"(?<!\w)(?:title=|set_title\(|suptitle\()" + quoted, code)
    axes = re.findall(r"(?<!\w)(?:xlabel=|ylabel=|set_xlabel\(|set_ylabel\()" + quoted, code)
    parts = [heading, *titles]
    if axes:
        parts.append(f"axes: {', '.join(axes)}")
    different = dict.fromkeys(part.strip() for part in parts)
    return "Figure. " + "; ".join(part for part in different if part)


# --- Markdown pages --------------------------------------------------------------------------------------------------


def page_name(path: Path) -> str:
    """The name of a page in the site; a model's card says that it is one."""
    return f"model_{path.stem}" if path.parent.name == "models" else path.stem


def write_page(path: Path, target: Path) -> None:
    """A Markdown file of the repository into the site."""
    target.write_text(without_links(path.read_text(encoding="utf-8")), encoding="utf-8")


def without_links(markdown: str) -> str:
    """Markdown whose links to files of the repository, which is not part of the site, are plain text."""
    return re.sub(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)[^)\s]+\)", r"\1", markdown)


# --- the first page --------------------------------------------------------------------------------------------------


def landing(
    readme: str,
    verdicts: list[claims.Verdict],
    view: str,
    notebooks: list[str],
    background: list[str],
) -> str:
    """Markdown of the first page.

    Args:
        readme: the text of README.md, whose first screen opens the page.
        view: HTML of the interactive view.
        notebooks, background: names of the other pages.
    """
    parts = [first_screen(readme)]
    parts += ["## Try the denoiser", VIEW_TEXT, raw(view)]
    parts += ["## Every claim", CLAIMS_TEXT, summary(verdicts)]
    for system, name in claims.SYSTEMS.items():
        chosen = claims.announced(verdicts, system)
        parts += [f"### {name}", verdict_table(chosen, f"Claims: {name}")]
    parts += ["### Our own targets"]
    parts += [verdict_table(claims.own_targets(verdicts), "Our own targets")]
    parts += ["## Run it yourself", COMMANDS]
    parts += [toctree("Notebooks", notebooks), toctree("Background", background)]
    return "\n\n".join(parts) + "\n"


VIEW_TEXT = """The shipped mixture network removes noise from each picture. Its router sends every window of
16 x 16 pixels to one of three experts: global attention, local attention, or none."""

CLAIMS_TEXT = """Measured values with their 95 % interval and the number of cases n. How each was tested stands in
[notebook 06](notebooks/06_verdicts.ipynb)."""

COMMANDS = """```sh
make reproduce   # every result again, compared with the committed ones
make test        # all tests, and the committed notebooks executed again
make site        # these pages
```"""


def first_screen(readme: str) -> str:
    """The README from its heading to its picture: what was announced, what is true, what makes it work."""
    text = readme.partition("\n![")[0]
    text = re.sub(r"<!-- v [\w-]+ -->(.+?)<!-- /v -->", lambda mark: chip(mark[1]), text)
    text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL)
    return unbroken(without_links(text)).strip()


def unbroken(text: str) -> str:
    """Text whose numbers of cases are not torn apart at the end of a line."""
    return text.replace("(n = ", "(n\u00a0=\u00a0")


# --- a page for each claim -------------------------------------------------------------------------------------------


def claim_page(
    root: Path, verdict: claims.Verdict, everything: list[claims.Verdict], metrics: dict
) -> str:
    """Markdown of one claim: words announced, rule and pedigree, where it is measured, value, seeds, verdict.

    Args:
        everything: the verdicts of the whole ledger. metrics: all that was measured.
    """
    claim = verdict.claim
    rows = [["announced", claim.announced], ["where", claim.source or "our own target"]]
    rows += [["how it is tested", claim.test], ["rule", rule_words(claim.rule)]]
    if claim.tolerance_reason:
        rows.append(["why this range", claim.tolerance_reason])
    rows.append(["rule and result in git", claims.order(verdict)])
    if claim.registered:
        first = claim.registered.result or "none yet"
        rows.append(["commits", f"rule {claim.registered.rule}, first result {first}"])
    if verdict.entry:
        rows += measured_rows(root, verdict)
    if claim.reduced:
        rows.append(["smaller here", claim.reduced])
    found = claims.made_true(verdict, everything, metrics)
    if found is not None:
        rows.append(["what makes it true", f"{found.says}: {tables.measured(found.entry)}"])
    if claim.relates_to:
        rows.append(
            ["the same fact", ", ".join(claim_link(name, name) for name in claim.relates_to)]
        )
    if claim.amends:
        rows.append(["amends", claim_link(claim.amends, claim.amends)])
    cells = [
        [html.escape(name), value if "<a " in value else html.escape(value)] for name, value in rows
    ]
    cells.append(["verdict", chip(verdict.verdict)])
    parts = [
        "---\norphan: true\n---",
        f"# {claim.id}",
        table(["what", "answer"], cells, label=claim.id, kind="claim"),
    ]
    parts.append(f"Measure it again: `python -m lib retry {claim.id}`.")
    return "\n\n".join(parts) + "\n"


def measured_rows(root: Path, verdict: claims.Verdict) -> list[list[str]]:
    """What was measured, on what, and the cell that does it."""
    entry = verdict.entry
    rows = [["measured", tables.number(entry)]]
    if verdict.claim.unit_of_replication:
        rows.append(["what n counts", verdict.claim.unit_of_replication])
    rows.append(["on", f"{entry['profile']}, {entry['study']}"])
    place = notebook_place(root, entry["study"], verdict.claim.metric)
    if place is not None:
        heading, link = place
        rows.append(["in the notebook", f'<a href="../{link}">{html.escape(heading)}</a>'])
    return rows


def rule_words(rule: claims.Rule) -> str:
    """A rule in words."""
    if rule.not_testable:
        return f"not testable: {rule.not_testable}"
    if rule.exact is not None:
        return f"exactly {rule.exact:g}"
    if rule.interval is not None:
        return f"from {rule.interval[0]:g} to {rule.interval[1]:g}"
    if rule.at_least is not None:
        return f"at least {rule.at_least:g}"
    return f"at most {rule.at_most:g}"


def claim_link(name: str, text: str, folder: str = "") -> str:
    """A link to the page of a claim."""
    return f'<a href="{folder}{name}.html">{html.escape(text)}</a>'


def notebook_place(root: Path, study: str, metric: str) -> tuple[str, str] | None:
    """The heading above the cell of a study's notebook that adds a metric, and the link to it; None for a benchmark.

    Where several cells could make the name, the one that spells most of it.
    """
    if not (root / "notebooks" / f"{study}.ipynb").is_file():
        return None
    copy, _ = executed(root, study)
    heading, spelled = study, 0
    found = study, f"notebooks/{study}.html"
    for cell in load(copy)["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            heading = last_heading(text) or heading
        if "record.add" not in text:
            continue
        for pieces in names_added(text):
            letters = sum(len(piece) for piece in pieces)
            pattern = ".+".join(re.escape(piece) for piece in pieces)
            if letters > spelled and re.fullmatch(pattern, metric):
                spelled = letters
                found = heading, f"notebooks/{study}.html#{anchor(heading)}"
    return found


def names_added(code: str) -> list[list[str]]:
    """The names that a cell's strings can make, as the pieces around what an f-string fills in."""
    names = []
    for quoted in re.findall(r'"([a-z][\w{}:./* -]*)"', code):
        pieces = re.split(r"\{[^}]*\}", quoted)
        if len("".join(pieces)) >= 3:
            names.append(pieces)
    return names


def anchor(heading: str) -> str:
    """The anchor that a heading gets from docutils: lower case, hyphens for all but letters and digits, a letter first."""
    plain = unicodedata.normalize("NFKD", heading.lower()).encode("ascii", "ignore").decode()
    joined = re.sub(r"[^a-z0-9]+", "-", plain)
    return re.sub(r"^[-0-9]+|-+$", "", joined)


def summary(verdicts: list[claims.Verdict]) -> str:
    """How many announced claims of each system got each verdict."""
    counts = claims.counts(verdicts)
    shown = [verdict for verdict, count in counts.items() if count]
    rows = []
    for system, name in claims.SYSTEMS.items():
        of_system = claims.counts(claims.announced(verdicts, system))
        rows.append([name, *(str(of_system[verdict]) for verdict in shown)])
    head = ["system", *(chip(verdict) for verdict in shown)]
    return table(head, rows, label="Verdicts by system", kind="summary")


def verdict_table(verdicts: list[claims.Verdict], label: str) -> str:
    """Claims or targets, a row each."""
    rows = []
    for verdict in verdicts:
        measured = tables.number(verdict.entry) if verdict.entry else claims.measured(verdict)
        said = claim_link(verdict.claim.id, verdict.claim.announced, "claims/")
        rows.append([said, unbroken(html.escape(measured)), chip(verdict.verdict)])
    return table(["announced", "measured", "verdict"], rows, label=label, kind="verdicts")


def chip(verdict: str) -> str:
    """A verdict in its colour, with its mark."""
    name = "refuted" if verdict.startswith("refuted") else verdict.split()[-1]
    mark = f'<span aria-hidden="true">{claims.MARKS[verdict]}</span>'
    return f'<span class="verdict {name}">{mark} {verdict}</span>'


def table(head: list[str], rows: list[list[str]], label: str, kind: str) -> str:
    """A table of cells of HTML that scrolls sideways by itself on a narrow screen."""
    titles = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = [f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">']
    lines += [f'<table class="table {kind}"><thead><tr>{titles}</tr></thead><tbody>']
    for row in rows:
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>")
    return raw("\n".join([*lines, "</tbody></table></div>"]))


def raw(text: str) -> str:
    """HTML inside of Markdown."""
    return f"```{{raw}} html\n{text}\n```"


def toctree(caption: str, names: list[str]) -> str:
    """A part of the table of contents at the side."""
    return "\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *names, "```"])
