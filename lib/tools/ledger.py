"""Every claim as data: `results/<profile>/claims.json`, and the schema that it follows.

One object a claim: what was announced and where, the rule and since when it stands, what was measured, on what and how, the
verdict, and what makes it true. `docs/claims.schema.json` describes it; `python -m lib gather` writes it.
"""

from typing import Any

from lib.common import claims
from lib.common.claims import Verdict

SCHEMA = "docs/claims.schema.json"
OF_RUN = ("device", "processor", "python", "threads", "seed", "code", "gpu")


def as_data(
    verdicts: list[Verdict], metrics: dict[str, dict], runs: dict[str, dict]
) -> list[dict[str, Any]]:
    """An object for each entry of the ledger, in its order.

    Args:
        metrics: all that was measured, for what makes a claim true.
        runs: study -> the record of its run.
    """
    counted = {v.claim.id for v in [*claims.announced(verdicts), *claims.own_targets(verdicts)]}
    found = []
    for verdict in verdicts:
        entry = {
            **stated(verdict),
            **measured(verdict, runs),
            "verdict": verdict.verdict,
            "counted": verdict.claim.id in counted,
            "makes_true": what_makes_true(verdict, verdicts, metrics),
        }
        found.append(entry)
    return found


def stated(verdict: Verdict) -> dict[str, Any]:
    """What the ledger says of a claim."""
    said = verdict.claim.model_dump(mode="json", exclude={"makes_true"})
    said["rule"] = {key: value for key, value in said["rule"].items() if value is not None}
    return said


def measured(verdict: Verdict, runs: dict[str, dict]) -> dict[str, Any]:
    """What was measured, where, and by which run; nulls where nothing was."""
    entry = verdict.entry
    found = {key: entry.get(key) for key in ("value", "low", "high", "n", "sd", "unit", "study")}
    run = runs.get(entry.get("study"), {})
    found["measured_on"] = entry.get("profile")
    found["run"] = {key: run[key] for key in OF_RUN if key in run} if entry else None
    return found


def what_makes_true(
    verdict: Verdict, verdicts: list[Verdict], metrics: dict[str, dict]
) -> dict[str, Any] | None:
    """The successor or the bound of a refuted claim, with its number; null where there is none."""
    found = claims.made_true(verdict, verdicts, metrics)
    if found is None:
        return None
    source = verdict.claim.makes_true
    numbers = {key: found.entry.get(key) for key in ("value", "low", "high", "n", "unit")}
    return {"says": found.says, "claim": source.claim, "metric": source.metric, **numbers}
