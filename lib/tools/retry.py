"""Measure one claim again: `python -m lib retry CLAIM`.

The notebook that measures the claim is executed in a copy of the last commit, with the trainings that it reads taken from
the store, or trained again where that is asked for. The recorded and the new verdict stand side by side; the exit code is 0
when they agree, so that `git bisect run` can use it.
"""

import difflib
import time
from pathlib import Path
from typing import NamedTuple

from lib.common import claims, params, tables
from lib.common.claims import Claim, Verdict
from lib.tools import reproduce


class Plan(NamedTuple):
    """What has to run: the claim, the profile, and the stage whose notebook measures it."""

    claim: Claim
    profile: str
    stage: str


def retry(folder: Path, name: str, profile: str | None = None, trainings: bool = False) -> bool:
    """Measure a claim again and print both verdicts; True when they agree.

    Args:
        folder: the project's root.
        name: the claim's id.
        profile: where to measure; without it the sample if that measures the claim, else the full profile.
        trainings: also run the stages again that the notebook's stage needs.

    Raises:
        UserError: see `plan`; or a stage failed.
    """
    recorded = {name: read(folder, name) for name in params.PROFILES if has(folder, name)}
    what = plan(recorded, claims.load_ledger(folder / "claims.yaml"), name, profile)
    before = claims.judge(what.claim, recorded[what.profile])
    with reproduce._only_one(folder / ".retry"):
        copy = reproduce.clone(folder, folder / ".retry" / "tree")
        if what.profile == "full":
            reproduce.choose_full(copy / "params.yaml")
        after = claims.judge(what.claim, run(copy, what, trainings))
    print(compared(before, after))
    agree = before.verdict == after.verdict
    print("the verdicts agree" if agree else "the verdicts differ")
    return agree


def has(folder: Path, profile: str) -> bool:
    """Whether the results of a profile were gathered."""
    return (folder / "results" / profile / "metrics.json").is_file()


def read(folder: Path, profile: str) -> dict[str, dict]:
    """The gathered metrics of a profile."""
    place = f"results/{profile}/metrics.json"
    text = (folder / place).read_text(encoding="utf-8")
    return reproduce.read_collected(text, place)["metrics"]


def plan(
    recorded: dict[str, dict], ledger: list[Claim], name: str, profile: str | None = None
) -> Plan:
    """Which stage measures a claim again, and in which profile.

    Args:
        recorded: profile -> its gathered metrics.

    Raises:
        UserError: no such claim (the nearest ones are named), one that cannot be tested, or one that no stage measures.
    """
    known = {claim.id: claim for claim in ledger}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.3)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise params.UserError(f"{name}: no such claim in claims.yaml{hint}")
    claim = known[name]
    if claim.metric is None:
        raise params.UserError(f"{name} cannot be tested: {claim.rule.not_testable}")
    for chosen in [profile] if profile else params.PROFILES:
        entry = recorded.get(chosen, {}).get(claim.metric)
        needs_full = claim.profile == "full" and chosen == "sample"
        if entry is None or needs_full:
            continue
        if entry["profile"] == "benchmark":
            script = f"benchmarks/{entry['study'].removeprefix('benchmark_')}.py"
            raise params.UserError(f"{name} is measured by a benchmark and no stage: run {script}")
        return Plan(claim, chosen, f"{entry['study'].partition('_')[2]}@{chosen}")
    where = f"the {profile} profile" if profile else "any profile"
    raise params.UserError(f"{name}: not measured in {where} yet")


def run(copy: Path, what: Plan, trainings: bool) -> dict[str, dict]:
    """Run the stages in a copy; the metrics that the claim's study wrote, name -> entry."""
    reproduce._call(copy, "dvc", "pull", "--quiet", "data.dvc")
    first = needed(copy, what.stage) if trainings else []
    if not trainings:
        reproduce._call(copy, "dvc", "pull", "--quiet", "--allow-missing")
    progress = reproduce.Progress(len(first) + 1, time.time())
    for stage in [*first, what.stage]:
        reproduce._repro(copy, progress, what.profile, "--force", "--single-item", stage)
    folder = f"{what.profile}/{study_of(copy, what.stage)}"
    path = copy / "results" / folder / "metrics.json"
    entries = params.read_yaml(path)["metrics"]
    return {name: {**entry, "profile": what.profile} for name, entry in entries.items()}


def needed(copy: Path, stage: str) -> list[str]:
    """The stages that a stage needs, themselves and through others, each after what it needs."""
    needs = reproduce.stage_needs(copy)
    found: list[str] = []

    def visit(name: str) -> None:
        for other in sorted(needs[name]):
            visit(other)
            if other not in found:
                found.append(other)

    visit(stage)
    return found


def study_of(copy: Path, stage: str) -> str:
    """The folder of a notebook's results, by the name of its stage: `em_diffusion@sample` makes 02_em_diffusion."""
    title = stage.partition("@")[0]
    (path,) = (copy / "notebooks").glob(f"*_{title}.ipynb")
    return path.stem


def compared(before: Verdict, after: Verdict) -> tables.Table:
    """Both verdicts with what was measured."""
    rows = []
    for title, verdict in (("recorded", before), ("now", after)):
        rows.append([title, claims.measured(verdict), verdict.verdict])
    return tables.Table([before.claim.announced, "measured", "verdict"], rows)
