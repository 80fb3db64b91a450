"""When was a rule written, and when did its first result come? Read from git, for each entry of the ledger.

A rule that stands before its result cannot have been bent to it. Git shows the order of two commits: of the one since
which the rule has its present form (metric, range, better side, profile), and of the first one in which any record
holds the metric. `python -m lib claims --pedigree` computes both and keeps them in `claims.yaml` under `registered`.

Git shows what was committed when, and no more: a rule may have been known before it was committed, and so may a result.
"""

import functools
import io
import json
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

from lib.common import files, params
from lib.common.claims import RESULT_FIRST, RULE_FIRST, SAME_COMMIT

# Records of studies and benchmarks, in today's layout and in earlier ones; what is gathered from them is left out.
RECORD = re.compile(r"results/[^/]+/[^/]+/[^/]+\.json|benchmarks/[^/]+\.json")
LEDGER = "claims.yaml"
# Parents before children, else by date; commits of side branches too.
HISTORY = ("--reverse", "--date-order", "--full-history")
# The C parser, where PyYAML has it: dozens of ledgers are read.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
SHORT = 7  # digits of a commit, as the ledger shows it


class Pedigree(NamedTuple):
    """The commit of the rule's present form, that of the metric's first result, and which came first."""

    rule: str
    result: str | None
    order: str | None


class Change(NamedTuple):
    """A commit in which the rule of an entry got another form; `before` is None where the entry is new."""

    commit: str
    id: str
    before: dict | None
    after: dict


def compute(folder: Path) -> dict[str, Pedigree]:
    """The pedigree of each entry of the committed ledger, by its id.

    Raises:
        UserError: no history to read: no repository, or a shallow clone.
    """
    _need_history(folder)
    born = {}
    for change in rule_changes(folder):
        born[change.id] = change.commit  # the last one is that of the present form
    first = first_results(folder)
    (ledger,) = _ledgers(folder, ["HEAD"]).values()
    found = {}
    for id, entry in ledger.items():
        rule, result = born[id], first.get(entry.get("metric"))
        if result is None:
            found[id] = Pedigree(rule[:SHORT], None, None)
        else:
            found[id] = Pedigree(rule[:SHORT], result[:SHORT], order_of(folder, rule, result))
    return found


def rule_changes(folder: Path) -> list[Change]:
    """Every change of a rule's form, from the first commit to HEAD; other words of an entry do not count."""
    lines = _git(folder, "rev-list", *HISTORY, "--parents", "HEAD", "--", LEDGER).splitlines()
    families = [line.split() for line in lines]  # a commit and its parents, as the ledger saw them
    ledgers = _ledgers(folder, [family[0] for family in families])
    changes = []
    for commit, *parents in families:
        earlier = [ledgers[parent] for parent in parents]
        for id, entry in ledgers[commit].items():
            form = _form(entry)
            forms_before = [_form(ledger[id]) for ledger in earlier if id in ledger]
            if form not in forms_before:
                before = forms_before[0] if forms_before else None
                changes.append(Change(commit, id, before, form))
    return changes


def first_results(folder: Path) -> dict[str, str]:
    """Metric -> the first commit in which a record holds it."""
    options = [*HISTORY, "-m", "--name-only", "--format=:%H"]
    places = {}  # commit:path of each record that a commit wrote, in the order of history
    for line in _git(folder, "log", *options, "HEAD", "--", "results", "benchmarks").splitlines():
        if line.startswith(":"):
            commit = line[1:]
        elif RECORD.fullmatch(line):
            places[f"{commit}:{line}"] = commit
    first = {}
    for place, content in _contents(folder, places):
        for metric in _metrics_of(content):
            first.setdefault(metric, places[place])
    return first


def last_commit(folder: Path) -> str:
    """The commit of HEAD, as the ledger would write it."""
    return _git(folder, "rev-parse", "HEAD")[:SHORT]


@functools.cache
def order_of(folder: Path, rule: str, result: str) -> str:
    """Which of two commits came first; of two that no line of history joins, by their dates."""
    if rule == result:
        return SAME_COMMIT
    if _is_ancestor(folder, rule, result):
        return RULE_FIRST
    if _is_ancestor(folder, result, rule):
        return RESULT_FIRST
    dates = [int(_git(folder, "show", "-s", "--format=%ct", commit)) for commit in (rule, result)]
    return RULE_FIRST if dates[0] <= dates[1] else RESULT_FIRST


def write(path: Path, found: dict[str, Pedigree]) -> bool:
    """Put the pedigrees into the ledger, one line an entry, and leave every other line as it is.

    Returns:
        Whether anything changed.
    """
    before = path.read_text(encoding="utf-8")
    lines = []
    id = None
    for line in before.splitlines():
        if start := re.fullmatch(r"  - id: (\S+)", line):
            id = start[1]
        if line.startswith("    registered:"):
            continue
        if line.startswith("    rule:") and id in found:
            lines.append(_line(found[id]))
        lines.append(line)
    after = "\n".join(lines) + "\n"
    if after != before:
        files.write_text(path, after)
    return after != before


def _line(pedigree: Pedigree) -> str:
    parts = [f"rule: '{pedigree.rule}'"]  # quoted: a commit may look like a number
    if pedigree.result is not None:
        parts += [f"result: '{pedigree.result}'", f"order: {pedigree.order}"]
    return f"    registered: {{{', '.join(parts)}}}"


def _form(entry: dict) -> dict:
    """What decides a verdict; without the words that readers see."""
    return {
        "metric": entry.get("metric"),
        "better": entry.get("better"),
        "profile": entry.get("profile", "any"),
        "rule": {kind: value for kind, value in entry["rule"].items() if kind != "not_testable"},
    }


def _metrics_of(content: bytes) -> list[str]:
    """The names of the metrics in a record; nothing where a file is no record."""
    try:
        return list(json.loads(content)["metrics"])
    except (ValueError, KeyError, TypeError):
        return []


def _ledgers(folder: Path, commits: list[str]) -> dict[str, dict[str, dict]]:
    """The ledger of each commit, id -> entry; empty where it has none or a broken one."""
    ledgers = {commit: {} for commit in commits}
    for place, content in _contents(folder, [f"{commit}:{LEDGER}" for commit in commits]):
        commit = place.partition(":")[0]
        try:
            entries = yaml.load(content, LOADER)["claims"]
            ledgers[commit] = {entry["id"]: entry for entry in entries if "rule" in entry}
        except (yaml.YAMLError, KeyError, TypeError):
            continue
    return ledgers


def _contents(folder: Path, places: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Each `commit:path` that exists, and the file's content; all are read by one process."""
    places = list(places)
    names = "".join(f"{place}\n" for place in places)
    command = ["git", "cat-file", "--batch"]
    run = subprocess.run(command, cwd=folder, input=names.encode(), capture_output=True, check=True)
    stream = io.BytesIO(run.stdout)
    for place in places:
        header = stream.readline()
        if header.rstrip().endswith(b"missing"):
            continue
        size = int(header.split()[-1])
        yield place, stream.read(size)
        stream.read(1)  # the line end behind each file


def _is_ancestor(folder: Path, early: str, late: str) -> bool:
    command = ["git", "merge-base", "--is-ancestor", early, late]
    return subprocess.run(command, cwd=folder, check=False).returncode == 0


def _need_history(folder: Path) -> None:
    try:
        shallow = _git(folder, "rev-parse", "--is-shallow-repository").strip()
    except (subprocess.CalledProcessError, OSError):
        raise params.UserError(
            "no git history here to read the pedigree from; claims.yaml keeps what was found"
        ) from None
    if shallow == "true":
        raise params.UserError(
            "this clone is shallow and has no history to read the pedigree from; "
            "`git fetch --unshallow` brings it, and claims.yaml keeps what was found"
        )


def _git(folder: Path, *arguments: str) -> str:
    run = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return run.stdout


# --- what holds from now on ------------------------------------------------------------------------------------------


def broken_promises(folder: Path, since: str) -> list[str]:
    """What was done after the commit `since` against the ledger's two promises, one line each.

    A new rule is committed before its result, and an old one is never changed: its change is a new entry.
    """
    faults = []
    since = _git(folder, "rev-parse", since).strip()
    first = first_results(folder)
    for change in rule_changes(folder):
        if change.commit == since or not _is_ancestor(folder, since, change.commit):
            continue
        at = change.commit[:SHORT]
        if change.before is not None:
            faults.append(f"{change.id}: its rule was changed in {at}; a change is a new entry")
            continue
        result = first.get(change.after["metric"])
        if result and order_of(folder, change.commit, result) != RULE_FIRST:
            faults.append(f"{change.id}: its rule came in {at}, not before its result")
    return faults
