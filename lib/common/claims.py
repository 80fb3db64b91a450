"""The ledger of announced claims (`claims.yaml`) and what the metrics say of each.

A rule is written before the run. It compares the announced range with the measured value, or, where the metric has
one, with its whole 95 % interval: a claim is refuted only when the two do not touch, which wrongs a true claim in
at most 5 % of repetitions. Beyond the range on the better side it is exceeded.
"""

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lib.common import params
from lib.common.tables import number

REPRODUCED, EXCEEDED, REFUTED, UNTESTABLE, PENDING = (
    "reproduced",
    "exceeded",
    "refuted",
    "not testable",
    "not run yet",
)
VERDICTS = (REPRODUCED, EXCEEDED, REFUTED, UNTESTABLE, PENDING)
SYSTEMS = {
    "em": "EM graph diffusion",
    "mixture": "Sparse-attention mixture",
    "language": "Causal attention",
}
Number = Annotated[float, Field(allow_inf_nan=False)]


class Rule(BaseModel):
    """Exactly one of: `exact` value, `interval` [low, high], `at_least`, `at_most`, or the reason `not_testable`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    exact: Number | None = None
    interval: tuple[Number, Number] | None = None
    at_least: Number | None = None
    at_most: Number | None = None
    not_testable: Annotated[str, Field(min_length=10)] | None = None

    @model_validator(mode="after")
    def _one_and_able_to_fail(self) -> "Rule":
        given = {name for name in type(self).model_fields if getattr(self, name) is not None}
        if len(given) != 1 or given != self.model_fields_set:
            raise ValueError(
                "exactly one of exact, interval, at_least, at_most, not_testable is needed"
            )
        low, high = self.bounds()
        if self.not_testable is None and not (low <= high):
            raise ValueError(f"the range {low} to {high} is empty")
        return self

    def bounds(self) -> tuple[float, float]:
        """The range (low, high) that the measured value must touch; an open side is infinite."""
        if self.exact is not None:
            return self.exact, self.exact
        if self.interval is not None:
            return self.interval
        low = -math.inf if self.at_least is None else self.at_least
        return low, math.inf if self.at_most is None else self.at_most


class Claim(BaseModel):
    """One announced number or requirement and how it is decided."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    system: Literal["em", "mixture", "language"]
    announced: Annotated[str, Field(min_length=5)]
    test: Annotated[str, Field(min_length=5)]
    metric: str | None = None
    better: Literal["higher", "lower"] | None = None
    profile: Literal["any", "full"] = "any"
    rule: Rule

    @model_validator(mode="after")
    def _metric_or_reason(self) -> "Claim":
        if (self.metric is None) != (self.rule.not_testable is not None):
            raise ValueError("a testable claim needs a metric, an untestable one has none")
        return self


class Verdict(NamedTuple):
    """What the metrics say of one claim; `entry` is the metric's entry, empty where there is none."""

    claim: Claim
    verdict: str
    entry: dict[str, Any]


def load_ledger(path: Path | None = None) -> list[Claim]:
    """Read `claims.yaml`. Raises UserError: a faulty entry, named by its id, or an id that stands twice."""
    path = path or params.root() / "claims.yaml"
    entries = params.read_yaml(path).get("claims")
    if not isinstance(entries, list) or not entries:
        raise params.UserError(
            f"{path.name}: no claims; expected a list of them under the key `claims`"
        )
    claims = []
    for position, raw in enumerate(entries, start=1):
        name = raw.get("id", f"entry {position}") if isinstance(raw, dict) else f"entry {position}"
        try:
            claims.append(Claim.model_validate(raw))
        except ValidationError as error:
            faults = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'entry'}: {e['msg']}" for e in error.errors()
            )
            raise params.UserError(f"{path.name}: {name}: {faults}") from None
    ids = [claim.id for claim in claims]
    if twice := sorted({i for i in ids if ids.count(i) > 1}):
        raise params.UserError(f"{path.name}: id {', '.join(twice)} stands twice")
    return claims


def judge(claim: Claim, metrics: dict[str, dict], complete: bool = True) -> Verdict:
    """Apply the claim's rule to `metrics` (name -> entry of `record.metric`, and the `profile` it was measured on).

    Args:
        complete: every study has been run; otherwise a claim whose study is missing waits for it.

    Raises:
        UserError: the claim's metric is not among those measured.
    """
    if claim.rule.not_testable:
        return Verdict(claim, UNTESTABLE, {})
    entry = metrics.get(claim.metric)
    if entry is None and complete and claim.profile == "any":
        raise params.UserError(f"claims.yaml: {claim.id}: no study measures {claim.metric!r}")
    if entry is None or (claim.profile == "full" and entry.get("profile") == "sample"):
        return Verdict(claim, PENDING, {})
    low, high = claim.rule.bounds()
    found_low, found_high = entry.get("low", entry["value"]), entry.get("high", entry["value"])
    if found_high < low:
        return Verdict(claim, EXCEEDED if claim.better == "lower" else REFUTED, entry)
    if found_low > high:
        return Verdict(claim, EXCEEDED if claim.better == "higher" else REFUTED, entry)
    return Verdict(claim, REPRODUCED, entry)


def judge_all(
    metrics: dict[str, dict], ledger: list[Claim] | None = None, complete: bool = True
) -> list[Verdict]:
    """A verdict for each claim of the ledger, in its order; without a ledger that of `claims.yaml`."""
    return [
        judge(claim, metrics, complete) for claim in (load_ledger() if ledger is None else ledger)
    ]


def counts(verdicts: list[Verdict]) -> dict[str, int]:
    """How many claims got each verdict, also those that none got."""
    return {name: sum(v.verdict == name for v in verdicts) for name in VERDICTS}


def tally_metrics(verdicts: list[Verdict]) -> dict[str, dict]:
    """The counts as headline metrics `claims_total`, `claims_reproduced` and so on.

    Their band of 3 stands for claims whose interval ends near an announced limit.
    """
    found = {"total": len(verdicts), **counts(verdicts)}
    found["untestable"] = found.pop(UNTESTABLE)
    fixed = {"n": len(verdicts), "unit": "", "band": 3, "headline": True, "study": "claims"}
    known = {
        f"claims_{key}": {"value": value, "what": f"claims, {key}"} | fixed
        for key, value in found.items()
    }
    return {name: entry for name, entry in known.items() if name != f"claims_{PENDING}"}


def markdown_table(verdicts: list[Verdict]) -> str:
    """The verdict table of the README, a row for each claim."""
    lines = ["| system | announced | measured | on | verdict |", "|---|---|---|---|---|"]
    for v in verdicts:
        reason = v.claim.rule.not_testable
        measured = reason or ("needs the full profile" if v.verdict == PENDING else number(v.entry))
        cells = [
            SYSTEMS[v.claim.system],
            v.claim.announced,
            measured,
            v.entry.get("profile", "–"),
            f"**{v.verdict}**",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def summary_table(verdicts: list[Verdict]) -> str:
    """How many claims of each system got each verdict."""
    lines = ["| system | " + " | ".join(VERDICTS) + " |", "|---" * (len(VERDICTS) + 1) + "|"]
    for key, name in SYSTEMS.items():
        tally = counts([v for v in verdicts if v.claim.system == key])
        lines.append(
            f"| {name} | " + " | ".join(str(tally[verdict]) for verdict in VERDICTS) + " |"
        )
    return "\n".join(lines)


def read_best() -> dict[str, dict]:
    """The metrics of the full profile where a study has been run on it, of the sample elsewhere.

    Each entry's `profile` says which; `claims_total` and its like count the verdicts over this mixture.
    """
    metrics = read_metrics("sample")
    if (params.root() / "results" / "full" / "metrics.json").is_file():
        metrics |= read_metrics("full")
    return metrics | tally_metrics(judge_all(metrics))


def read_metrics(profile: str) -> dict[str, dict]:
    """All metrics that `gather` collected for a profile, name -> entry."""
    path = params.root() / "results" / profile / "metrics.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))["metrics"]
    except FileNotFoundError:
        raise params.UserError(
            f"results/{profile}/metrics.json: not found; `dvc repro` makes it"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise params.UserError(
            f"results/{profile}/metrics.json: not readable; `dvc repro` makes it again"
        ) from None
