"""The ledger of claims (`claims.yaml`), and what the metrics say of each.

The ledger holds two kinds of entries, and they are counted apart. An announced claim is a number or requirement that
somebody announced; our own targets (`own: true`) are what we set ourselves for the rebuilt systems.

A rule names a range. An announced claim is supported when the whole 95 % interval of what was measured lies inside the
range, which is a test of equivalence (two one-sided tests, Schuirmann 1987); refuted when it lies wholly outside; exceeded
when that is on the better side; inconclusive when it straddles an end. A count is exact: its value decides. Anything else
without an interval is inconclusive. A refutation that only a smaller study shows than the announced one is refuted at
reduced scale. A target of our own is met when the measured value lies inside the range: no interval excuses it.
"""

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lib.common import intervals, params, tables
from lib.common.tables import Table

SUPPORTED = "supported"
EXCEEDED = "exceeded"
INCONCLUSIVE = "inconclusive"
REFUTED = "refuted"
REDUCED = "refuted at reduced scale"
UNTESTABLE = "not testable"
PENDING = "not run yet"
VERDICTS = (SUPPORTED, EXCEEDED, INCONCLUSIVE, REFUTED, REDUCED, UNTESTABLE, PENDING)
# What can become of a target of our own, beside PENDING.
MET = "met"
MISSED = "missed"
ABOUT_ORDER = (
    "*In git* says whether the rule was committed before the first result of its metric, in the same commit, or after "
    "it. Only the first kind shows that a rule was not bent to its result."
)
ABOUT_VERDICTS = (
    "*Supported*: the whole 95 % interval lies inside the announced range, or the exact count does. *Refuted*: it lies wholly "
    "outside; *at reduced scale* where the study here is smaller than the announced one. *Inconclusive*: it straddles an "
    "end, or there is no interval."
)
ABOUT_HOLM = (
    "Each decision alone is wrong in at most 5 %; of many, some are. These are the decisions whose p-value is not tiny, "
    "before and after Holm's correction; the others stand by a wide margin."
)
ABOUT_SEEN = (
    "That an effect was not found says little where the test was too blunt to find it. Beside every announced comparison "
    "that was not confirmed: the smallest true effect that this many cases show in four tests of five."
)
NORMAL_OF_POWER = 0.8416  # the normal quantile of a power of 80 %
MARKS = {
    SUPPORTED: "✓",
    EXCEEDED: "↑",
    INCONCLUSIVE: "~",
    REFUTED: "✗",
    REDUCED: "✗",
    UNTESTABLE: "–",
    PENDING: "…",
    MET: "✓",
    MISSED: "✗",
}
NO_BREAK = "\u00a0"  # not by its name: that needs a compiled module, which a user without rights may not read
SYSTEMS = {
    "em": "EM graph diffusion",
    "mixture": "Sparse-attention mixture",
    "language": "Causal attention",
}
Number = Annotated[float, Field(allow_inf_nan=False)]
Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{7,40}$")]
RULE_FIRST = "rule first"
SAME_COMMIT = "same commit"
RESULT_FIRST = "result first"


# --- the ledger ------------------------------------------------------------------------------------------------------


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
        if low > high:
            raise ValueError(f"the range {low} to {high} is empty")
        return self

    def bounds(self) -> tuple[float, float]:
        """The range (low, high) of this rule; a side without an end is infinite."""
        if self.exact is not None:
            return self.exact, self.exact
        if self.interval is not None:
            return self.interval
        low = -math.inf if self.at_least is None else self.at_least
        high = math.inf if self.at_most is None else self.at_most
        return low, high


class Registered(BaseModel):
    """What git shows of a rule: the commit of its present form, that of its metric's first result, and their order.

    `python -m lib claims --pedigree` computes it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    rule: Commit
    result: Commit | None = None
    order: Literal["rule first", "same commit", "result first"] | None = None

    @model_validator(mode="after")
    def _order_of_two(self) -> "Registered":
        if (self.result is None) != (self.order is None):
            raise ValueError("an order needs a result, and a result an order")
        return self


class MakesTrue(BaseModel):
    """What makes a refuted effect true, or the bound that shows that nothing here can.

    Either `claim`, the entry of a successor that shows the effect, or `metric`, a measured bound or tipping point;
    `says` is what readers see before its number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    claim: str | None = None
    metric: str | None = None
    says: Annotated[str, Field(min_length=10)]

    @model_validator(mode="after")
    def _one_of_two(self) -> "MakesTrue":
        if (self.claim is None) == (self.metric is None):
            raise ValueError("exactly one of claim and metric is needed")
        return self


class Claim(BaseModel):
    """One entry of the ledger: what was announced, or what we set ourselves (`own`), and how it is decided.

    kind: a count is exact; a measurement, a comparison of two, or a timing needs an interval.
    source: where it was announced. unit_of_replication: what n counts and the interval resamples.
    tolerance_reason: why the range is as wide as it is. relates_to: entries that state the same fact.
    exceeded_at: from where on a one-sided rule is exceeded. reduced: what is smaller here than in the announcement.
    amends: the entry whose rule this one changes; the old entry stays, and is not counted any more.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    system: Literal["em", "mixture", "language", "repository"]
    own: bool = False
    announced: Annotated[str, Field(min_length=5)]
    test: Annotated[str, Field(min_length=5)]
    metric: str | None = None
    better: Literal["higher", "lower"] | None = None
    profile: Literal["any", "full"] = "any"
    kind: Literal["count", "measurement", "comparison", "timing"] = "measurement"
    source: str | None = None
    unit_of_replication: str | None = None
    tolerance_reason: str | None = None
    relates_to: tuple[str, ...] = ()
    exceeded_at: Number | None = None
    reduced: Annotated[str, Field(min_length=10)] | None = None
    makes_true: MakesTrue | None = None
    amends: str | None = None
    registered: Registered | None = None
    rule: Rule

    @model_validator(mode="after")
    def _metric_or_reason(self) -> "Claim":
        if (self.metric is None) != (self.rule.not_testable is not None):
            raise ValueError("a testable claim needs a metric, an untestable one has none")
        if self.system == "repository" and not self.own:
            raise ValueError("nobody announced anything of this repository; say `own: true`")
        return self


def load_ledger(path: Path | None = None) -> list[Claim]:
    """Read `claims.yaml`. Raises UserError: a faulty entry, named by its id, or an id that stands twice."""
    path = path or params.root() / "claims.yaml"
    entries = params.read_yaml(path).get("claims")
    if not isinstance(entries, list) or not entries:
        raise params.UserError(
            f"{path.name}: no claims; expected a list of them under the key `claims`"
        )
    ledger = []
    known = set()
    for position, entry in enumerate(entries, start=1):
        claim = _read_entry(entry, position, path.name)
        if claim.id in known:
            raise params.UserError(f"{path.name}: id {claim.id} stands twice")
        known.add(claim.id)
        ledger.append(claim)
    for claim in ledger:
        _check_names(claim, known, path.name)
    return ledger


def _check_names(claim: Claim, known: set[str], file: str) -> None:
    """Every entry that a claim names is in the ledger."""
    if claim.amends is not None and claim.amends not in known:
        raise params.UserError(f"{file}: {claim.id} amends {claim.amends}, which is not there")
    named = set(claim.relates_to)
    if claim.makes_true is not None and claim.makes_true.claim is not None:
        named.add(claim.makes_true.claim)
    missing = sorted(named - known)
    if missing:
        raise params.UserError(f"{file}: {claim.id} names {missing[0]}, which is not there")


def _read_entry(entry: Any, position: int, file: str) -> Claim:
    name = f"entry {position}"
    if isinstance(entry, dict):
        name = entry.get("id", name)
    try:
        return Claim.model_validate(entry)
    except ValidationError as error:
        faults = []
        for fault in error.errors():
            place = ".".join(str(part) for part in fault["loc"]) or "entry"
            faults.append(f"{place}: {fault['msg']}")
        raise params.UserError(f"{file}: {name}: {'; '.join(faults)}") from None


# --- verdicts --------------------------------------------------------------------------------------------------------


class Verdict(NamedTuple):
    """What the metrics say of one claim; `entry` is the metric's entry, empty where there is none."""

    claim: Claim
    verdict: str
    entry: dict[str, Any]


def judge(claim: Claim, metrics: dict[str, dict], complete: bool = True) -> Verdict:
    """Apply the claim's rule to what was measured.

    Args:
        metrics: name -> entry of `record.metric`, with the `profile` that it was measured on.
        complete: every study has been run; otherwise a claim whose study is missing waits for it.

    Raises:
        UserError: the claim's metric is not among those measured.
    """
    if claim.rule.not_testable:
        return Verdict(claim, UNTESTABLE, {})
    entry = metrics.get(claim.metric)
    # A target of our own enters the ledger before its first run.
    if entry is None and complete and claim.profile == "any" and not claim.own:
        raise params.UserError(f"claims.yaml: {claim.id}: no study measures {claim.metric!r}")
    if entry is None or (claim.profile == "full" and entry.get("profile") == "sample"):
        return Verdict(claim, PENDING, {})
    decide = _decide_target if claim.own else _decide_announced
    return Verdict(claim, decide(claim, entry), entry)


def _decide_announced(claim: Claim, entry: dict[str, Any]) -> str:
    if claim.kind != "count" and not has_interval(entry):
        return INCONCLUSIVE
    range_low, range_high = claim.rule.bounds()
    low, high = interval(entry)
    if claim.exceeded_at is not None and _beyond(claim, low, high):
        return EXCEEDED
    if range_low <= low and high <= range_high:
        return SUPPORTED
    if low <= range_high and range_low <= high:
        return INCONCLUSIVE
    side = "lower" if high < range_low else "higher"
    if claim.better == side:
        return EXCEEDED
    smaller = claim.reduced is not None or entry.get("profile") == "sample"
    return REDUCED if smaller and claim.kind != "count" else REFUTED


def _beyond(claim: Claim, low: float, high: float) -> bool:
    """Whether the whole interval lies beyond the point from which a one-sided rule is exceeded."""
    if claim.better == "lower":
        return high < claim.exceeded_at
    return low > claim.exceeded_at


def _decide_target(claim: Claim, entry: dict[str, Any]) -> str:
    low, high = claim.rule.bounds()
    return MET if low <= entry["value"] <= high else MISSED


def has_interval(entry: dict[str, Any]) -> bool:
    """Whether a metric has both ends of an interval."""
    return "low" in entry and "high" in entry


def interval(entry: dict[str, Any]) -> tuple[float, float]:
    """The 95 % interval [low, high] of a metric; twice its value where there is none."""
    value = entry["value"]
    return entry.get("low", value), entry.get("high", value)


def judge_all(
    metrics: dict[str, dict], ledger: list[Claim] | None = None, complete: bool = True
) -> list[Verdict]:
    """A verdict for each claim of the ledger, in its order; without a ledger that of `claims.yaml`."""
    if ledger is None:
        ledger = load_ledger()
    return [judge(claim, metrics, complete) for claim in ledger]


def announced(verdicts: list[Verdict], system: str | None = None) -> list[Verdict]:
    """The verdicts on what was announced, of one system or of all; of an amended claim, the newest."""
    replaced = {v.claim.amends for v in verdicts if not v.claim.own}
    chosen = [v for v in verdicts if not v.claim.own and v.claim.id not in replaced]
    return [v for v in chosen if system in (None, v.claim.system)]


def own_targets(verdicts: list[Verdict]) -> list[Verdict]:
    """The verdicts on our own targets."""
    return [v for v in verdicts if v.claim.own]


# --- two tallies -----------------------------------------------------------------------------------------------------


def counts(verdicts: list[Verdict]) -> dict[str, int]:
    """How many announced claims got each verdict, also those that none got."""
    found = [v.verdict for v in announced(verdicts)]
    return {verdict: found.count(verdict) for verdict in VERDICTS}


def is_refuted(verdict: Verdict) -> bool:
    """Whether a claim is refuted, at full or at reduced scale."""
    return verdict.verdict in (REFUTED, REDUCED)


def count_made_true(verdicts: list[Verdict]) -> int:
    """How many refuted claims have a successor that is met, or a measured bound."""
    return sum(made_true(v, verdicts) is not None for v in announced(verdicts))


class Successor(NamedTuple):
    """What makes a refuted claim true: the words, and the entry of the metric that was measured."""

    says: str
    entry: dict[str, Any]


def made_true(
    verdict: Verdict, verdicts: list[Verdict], metrics: dict[str, dict] | None = None
) -> Successor | None:
    """What makes a refuted claim true; None where nothing does, or the successor's own rule is not held.

    Args:
        verdicts: of the whole ledger, where the successor's verdict stands.
        metrics: where a bound is looked up; without it a bound counts, but its entry is empty.
    """
    found = verdict.claim.makes_true
    if found is None or not is_refuted(verdict):
        return None
    if found.claim is None:
        return Successor(found.says, (metrics or {}).get(found.metric, {}))
    for other in verdicts:
        if other.claim.id == found.claim and other.verdict in (SUPPORTED, EXCEEDED, MET):
            return Successor(found.says, other.entry)
    return None


def count_met(verdicts: list[Verdict]) -> int:
    """How many of our own targets are met."""
    return sum(v.verdict == MET for v in own_targets(verdicts))


def tally_sentence(verdicts: list[Verdict]) -> str:
    """Both tallies in one line: what became of the announced claims, and of our own targets."""
    tally = counts(verdicts)
    parts = [f"{count} {verdict}" for verdict, count in tally.items() if count]
    sentence = f"{sum(tally.values())} announced claims: {', '.join(parts)}."
    targets = own_targets(verdicts)
    if targets:
        sentence += f" Of our own {len(targets)} targets, {count_met(verdicts)} are met."
    return sentence


def order(verdict: Verdict) -> str:
    """Whether the rule stood before its first result, as git shows it; a dash where there is no result."""
    registered = verdict.claim.registered
    return registered.order if registered and registered.order else "–"


def order_table(verdicts: list[Verdict]) -> Table:
    """How many rules stood before their first result, of what was announced and of our own targets."""
    rows = []
    for name, chosen in (("announced", announced(verdicts)), ("our own", own_targets(verdicts))):
        orders = [order(v) for v in chosen]
        counted = [orders.count(kind) for kind in (RULE_FIRST, SAME_COMMIT, RESULT_FIRST, "–")]
        rows.append([name, *counted])
    return Table(["", RULE_FIRST, SAME_COMMIT, RESULT_FIRST, "no result"], rows)


def tally_metrics(verdicts: list[Verdict]) -> dict[str, dict]:
    """Both tallies as headline metrics: `claims_total`, `claims_supported` ..., `own_targets`, `own_targets_met`.

    The band of 3 on what is decided stands for claims whose interval ends near a limit.
    """
    tally = counts(verdicts)
    total = sum(tally.values())
    rule_first = sum(order(v) == RULE_FIRST for v in announced(verdicts))
    targets = len(own_targets(verdicts))
    return {
        "claims_total": _count(total, total, 0, "announced claims"),
        "claims_supported": _count(tally[SUPPORTED], total, 3, "announced claims, supported"),
        "claims_exceeded": _count(tally[EXCEEDED], total, 3, "announced claims, exceeded"),
        "claims_inconclusive": _count(
            tally[INCONCLUSIVE], total, 3, "announced claims, inconclusive"
        ),
        "claims_refuted": _count(
            tally[REFUTED] + tally[REDUCED], total, 3, "announced claims, refuted at any scale"
        ),
        "claims_refuted_reduced": _count(
            tally[REDUCED], total, 3, "announced claims, refuted at reduced scale"
        ),
        "claims_made_true": _count(
            count_made_true(verdicts), total, 3, "refuted claims with what makes them true"
        ),
        "claims_untestable": _count(tally[UNTESTABLE], total, 0, "announced claims, not testable"),
        "claims_rule_first": _count(rule_first, total, 0, "announced claims, rule first in git"),
        "own_targets": _count(targets, targets, 0, "our own targets"),
        "own_targets_met": _count(count_met(verdicts), targets, 3, "our own targets, met"),
    }


def _count(value: int, n: int, band: float, what: str) -> dict[str, Any]:
    entry = {"value": value, "n": n, "unit": "", "band": band, "headline": True}
    return entry | {"what": what, "study": "claims"}


# --- what readers see ------------------------------------------------------------------------------------------------


def measured(verdict: Verdict) -> str:
    """What was measured, or why nothing was."""
    if verdict.entry:
        return tables.measured(verdict.entry)
    return verdict.claim.rule.not_testable or "needs the full profile"


def marked(verdict: str) -> str:
    """A verdict with its mark, refuted and missed ones in bold, so that a column of them can be scanned."""
    unbroken = verdict.replace(" ", NO_BREAK)
    word = f"**{unbroken}**" if verdict in (REFUTED, REDUCED, MISSED) else unbroken
    return f"{MARKS[verdict]}{NO_BREAK}{word}"


def summary_table(verdicts: list[Verdict]) -> Table:
    """How many announced claims of each system got each verdict; a verdict that none got has no column."""
    shown = [verdict for verdict, count in counts(verdicts).items() if count]
    rows = []
    for system, name in SYSTEMS.items():
        tally = counts(announced(verdicts, system))
        rows.append([name, *(str(tally[verdict]) for verdict in shown)])
    total = counts(verdicts)
    rows.append(["**all**", *(f"**{total[verdict]}**" for verdict in shown)])
    return Table(["system", *shown], rows)


def system_table(verdicts: list[Verdict], system: str) -> Table:
    """What was announced of a system, what was measured, and the verdict."""
    rows = []
    for v in announced(verdicts, system):
        rows.append([v.claim.announced, measured(v), marked(v.verdict), order(v)])
    return Table(["announced", "measured", "verdict", "in git"], rows)


def true_table(verdicts: list[Verdict], metrics: dict[str, dict]) -> Table:
    """Refuted effects beside what makes them true: announced | as announced | what makes it true."""
    rows = []
    for v in announced(verdicts):
        found = made_true(v, verdicts, metrics)
        if found is not None:
            number = tables.measured(found.entry) if found.entry else "–"
            rows.append([v.claim.announced, measured(v), f"{found.says}: {number}"])
    return Table(["announced", "as announced", "what makes it true, or how far it is"], rows)


def holm_table(verdicts: list[Verdict]) -> Table:
    """The decisions with an interval whose p-value, corrected for their number, lies above 1 in 1,000.

    p: two-sided, that the nearest end of the range is the truth, from the interval's width (normal). Holm (1979).
    """
    decided = [
        v
        for v in announced(verdicts)
        if v.verdict in (SUPPORTED, EXCEEDED, REFUTED, REDUCED) and has_interval(v.entry)
    ]
    p_values = [boundary_p(v) for v in decided]
    rows = []
    for v, p, corrected in zip(decided, p_values, intervals.holm(p_values), strict=True):
        if corrected > 0.001:
            stands = "stands" if corrected < 1 - intervals.LEVEL else "does not stand"
            rows.append([v.claim.announced, v.verdict, f"{p:.3f}", f"{corrected:.3f}", stands])
    head = ["announced", "verdict", "p", f"p of {len(decided)} tests (Holm)", "after correction"]
    return Table(head, rows)


def boundary_p(verdict: Verdict) -> float:
    """The two-sided p-value that the nearest end of the claim's range is the true value."""
    low, high = interval(verdict.entry)
    ends = [end for end in verdict.claim.rule.bounds() if math.isfinite(end)]
    distance = min(abs(verdict.entry["value"] - end) for end in ends)
    if high == low:
        return 0.0 if distance else 1.0
    deviation = (high - low) / (2 * intervals.NORMAL)
    return math.erfc(distance / deviation / math.sqrt(2))


def seen_table(verdicts: list[Verdict]) -> Table:
    """Announced comparisons that were not confirmed, beside the smallest effect that could have been seen."""
    rows = []
    for v in announced(verdicts):
        confirmed = not is_refuted(v) and v.verdict != INCONCLUSIVE
        if v.claim.kind != "comparison" or confirmed or not has_interval(v.entry):
            continue
        unit = v.entry.get("unit", "")
        rows.append([v.claim.announced, measured(v), f"{smallest_effect(v):.2g} {unit}".strip()])
    return Table(["announced", "measured", "smallest effect that would have shown"], rows)


def smallest_effect(verdict: Verdict) -> float:
    """The smallest true effect that an interval of this width shows to differ from zero in four tests of five.

    A two-sided test at 5 % finds an effect of (1.96 + 0.84) deviations of the estimate with a power of 80 % (normal); the
    interval is 2 * 1.96 deviations wide.
    """
    low, high = interval(verdict.entry)
    deviation = (high - low) / (2 * intervals.NORMAL)
    return (intervals.NORMAL + NORMAL_OF_POWER) * deviation


def target_table(verdicts: list[Verdict]) -> Table:
    """Our own targets of all systems, what was measured, and whether they are met."""
    rows = []
    for v in own_targets(verdicts):
        rows.append([v.claim.announced, measured(v), marked(v.verdict), order(v)])
    return Table(["our own target", "measured", "", "in git"], rows)


def test_table(verdicts: list[Verdict]) -> Table:
    """How each of these claims was tested, on how many cases, and on which profile."""
    rows = []
    for v in verdicts:
        cases = f"{v.entry['n']:,}" if v.entry else "–"
        rows.append([v.claim.announced, v.claim.test, cases, v.entry.get("profile", "–")])
    return Table(["claim", "how it was tested", "n", "measured on"], rows)


def folded(summary: str, content: Table | str) -> str:
    """A part of a page that opens with a click."""
    return f"<details><summary>{summary}</summary>\n\n{content}\n\n</details>"


def verdict_page(verdicts: list[Verdict], metrics: dict[str, dict] | None = None) -> str:
    """Every verdict, grouped by system, then our own targets: the text of `results/<profile>/verdicts.md`.

    Args:
        metrics: all that was measured, for the bounds beside refuted effects.
    """
    parts = ["# Verdicts", tally_sentence(verdicts), str(summary_table(verdicts)), ABOUT_VERDICTS]
    parts += [ABOUT_ORDER, str(order_table(verdicts))]
    what_makes_true = true_table(verdicts, metrics or {})
    if what_makes_true.rows:
        parts += ["## What makes it true", str(what_makes_true)]
    corrected = holm_table(verdicts)
    if corrected.rows:
        parts += ["## Many tests at once", ABOUT_HOLM, str(corrected)]
    seen = seen_table(verdicts)
    if seen.rows:
        parts += ["## What could have been seen", ABOUT_SEEN, str(seen)]
    for system, name in SYSTEMS.items():
        chosen = announced(verdicts, system)
        if chosen:
            parts += [f"## {name}", str(system_table(verdicts, system))]
            parts += [folded("How each was tested", test_table(chosen))]
    targets = own_targets(verdicts)
    if targets:
        parts += ["## Our own targets", str(target_table(verdicts))]
        parts += [folded("How each was tested", test_table(targets))]
    return "\n\n".join(parts)


# --- the committed metrics -------------------------------------------------------------------------------------------


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
    name = f"results/{profile}/metrics.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))["metrics"]
    except FileNotFoundError:
        raise params.UserError(f"{name}: not found; `dvc repro` makes it") from None
    except (ValueError, KeyError, TypeError):
        raise params.UserError(f"{name}: not readable; `dvc repro` makes it again") from None
