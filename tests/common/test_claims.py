"""lib/common/claims.py: what each rule can say, what the ledger refuses, two tallies, and what readers see."""

import json
import shutil

import numpy as np
import pytest

from lib.common import claims, params
from lib.common.claims import (
    EXCEEDED,
    INCONCLUSIVE,
    MET,
    MISSED,
    PENDING,
    REDUCED,
    REFUTED,
    SUPPORTED,
    UNTESTABLE,
)
from lib.common.params import UserError

ROOT = params.root()
ENTRY = {
    "id": "some-claim",
    "system": "mixture",
    "announced": "gains 2 dB",
    "test": "mean gain over images",
    "metric": "gain_db",
    "rule": {"at_least": 2},
}


RULE_FIRST = {"rule": "0123456", "result": "89abcde", "order": claims.RULE_FIRST}
SAME_COMMIT = {"rule": "0123456", "result": "0123456", "order": claims.SAME_COMMIT}


def claim(rule, **changes) -> claims.Claim:
    values = {**ENTRY, "rule": rule, **changes}
    return claims.Claim.model_validate(
        {key: value for key, value in values.items() if value is not None}
    )


def judge(rule, value, low=None, high=None, better=None, **changes) -> str:
    entry = {"value": value, "n": 3} | ({} if low is None else {"low": low, "high": high})
    return claims.judge(claim(rule, better=better, **changes), {"gain_db": entry}).verdict


COUNT = {"kind": "count"}


def ledger(folder, *entries) -> list[claims.Claim]:
    path = folder / "claims.yaml"
    path.write_text(json.dumps({"claims": entries}), encoding="utf-8")  # JSON is YAML
    return claims.load_ledger(path)


# rules


@pytest.mark.parametrize(
    "rule, value, better, wanted",
    [
        ({"exact": 5}, 5, None, SUPPORTED),
        ({"exact": 5}, 4, None, REFUTED),
        ({"exact": 5}, 6, None, REFUTED),
        ({"exact": 5}, 6, "higher", EXCEEDED),
        ({"exact": 5}, 4, "lower", EXCEEDED),
        ({"exact": 5}, 4, "higher", REFUTED),
        ({"interval": [12, 14]}, 12, None, SUPPORTED),
        ({"interval": [12, 14]}, 14, None, SUPPORTED),
        ({"interval": [12, 14]}, 14.01, None, REFUTED),
        ({"interval": [12, 14]}, 11.99, None, REFUTED),
        ({"interval": [12, 14]}, 14.01, "higher", EXCEEDED),
        ({"interval": [12, 14]}, 14.01, "lower", REFUTED),
        ({"interval": [12, 14]}, 11.99, "lower", EXCEEDED),
        ({"interval": [12, 14]}, 11.99, "higher", REFUTED),
        ({"at_least": 2}, 2, None, SUPPORTED),
        ({"at_least": 2}, 1e9, "higher", SUPPORTED),
        ({"at_least": 2}, 1.99, None, REFUTED),
        ({"at_least": 2}, 1.99, "lower", EXCEEDED),
        ({"at_most": 2}, 2, None, SUPPORTED),
        ({"at_most": 2}, -1e9, "lower", SUPPORTED),
        ({"at_most": 2}, 2.01, None, REFUTED),
        ({"at_most": 2}, 2.01, "higher", EXCEEDED),
    ],
)
def test_a_count_is_decided_by_its_value(rule, value, better, wanted):
    assert judge(rule, value, better=better, kind="count") == wanted


@pytest.mark.parametrize("kind", ["measurement", "comparison", "timing"])
@pytest.mark.parametrize("value", [2.0, 99.0])
def test_anything_else_without_an_interval_decides_nothing(kind, value):
    assert judge({"at_least": 3}, value, kind=kind) == INCONCLUSIVE


@pytest.mark.parametrize(
    "rule, low, high, better, wanted",
    [
        ({"interval": [12, 14]}, 12.0, 14.0, None, SUPPORTED),
        ({"interval": [12, 14]}, 13.9, 14.1, None, INCONCLUSIVE),
        ({"interval": [12, 14]}, 11.0, 12.0, None, INCONCLUSIVE),  # touching is not outside
        ({"interval": [12, 14]}, 10.0, 20.0, None, INCONCLUSIVE),
        ({"interval": [12, 14]}, 14.001, 15.0, None, REFUTED),
        ({"interval": [12, 14]}, 14.001, 15.0, "higher", EXCEEDED),
        ({"interval": [12, 14]}, 14.001, 15.0, "lower", REFUTED),
        ({"interval": [12, 14]}, 11.0, 11.999, None, REFUTED),
        ({"interval": [12, 14]}, 11.0, 11.999, "lower", EXCEEDED),
        ({"exact": 5}, 4.9, 5.1, None, INCONCLUSIVE),
        ({"exact": 5}, 5.01, 5.1, None, REFUTED),
        ({"at_least": 2}, 2.0, 9.0, "higher", SUPPORTED),
        ({"at_least": 2}, 1.9, 9.0, "higher", INCONCLUSIVE),
        ({"at_least": 2}, 1.0, 1.999, None, REFUTED),
        ({"at_most": 2}, -9.0, 2.0, "lower", SUPPORTED),
        ({"at_most": 2}, 2.001, 3.0, None, REFUTED),
    ],
)
def test_the_whole_interval_decides(rule, low, high, better, wanted):
    assert judge(rule, (low + high) / 2, low, high, better) == wanted


@pytest.mark.parametrize(
    "low, high, wanted", [(2.0, 9.0, SUPPORTED), (4.9, 9.0, SUPPORTED), (5.1, 9.0, EXCEEDED)]
)
def test_a_one_sided_rule_is_exceeded_where_the_claim_says_from_where_on(low, high, wanted):
    assert judge({"at_least": 2}, 6, low, high, "higher", exceeded_at=5) == wanted
    assert judge({"at_most": -2}, -6, -high, -low, "lower", exceeded_at=-5) == wanted


def test_a_smaller_study_than_the_announced_one_refutes_at_reduced_scale_only():
    entry = {"value": 1, "low": 0.5, "high": 1.5, "n": 3}

    def verdict(profile, **changes):
        metrics = {"gain_db": {**entry, "profile": profile}}
        return claims.judge(claim({"at_least": 2}, **changes), metrics).verdict

    assert verdict("full") == REFUTED
    assert verdict("sample") == REDUCED
    assert verdict("full", reduced="a tenth of the announced training") == REDUCED
    assert verdict("sample", kind="count") == REFUTED


def test_what_cannot_be_tested_says_so_without_a_metric():
    verdict = claims.judge(claim({"not_testable": "no code, no data"}, metric=None), {})
    assert verdict.verdict == UNTESTABLE and verdict.entry == {}


def test_a_claim_about_the_full_profile_waits_for_it():
    full = claim({"at_least": 2}, profile="full")
    assert claims.judge(full, {}).verdict == PENDING
    for profile, wanted in (("sample", PENDING), ("full", SUPPORTED), ("benchmark", SUPPORTED)):
        entry = {"value": 3, "low": 2.5, "high": 3.5, "n": 1, "profile": profile}
        assert claims.judge(full, {"gain_db": entry}).verdict == wanted


def test_a_study_that_is_still_to_be_run_leaves_its_claims_waiting():
    assert claims.judge(claim({"at_least": 2}), {}, complete=False).verdict == PENDING


def test_an_unknown_metric_is_an_error_and_not_a_verdict():
    with pytest.raises(UserError, match="some-claim: no study measures 'gain_db'"):
        claims.judge(claim({"at_least": 2}), {"other": {"value": 1, "n": 1}})


# our own targets


@pytest.mark.parametrize(
    "rule, value, low, high, wanted",
    [
        ({"at_least": 2}, 2, 2, 2, MET),
        ({"at_least": 2}, 3, 1, 5, MET),
        ({"at_least": 2}, 1.998, 1.9, 2.1, MISSED),  # no interval excuses a target
        ({"at_most": 2}, 2.002, 1.9, 2.1, MISSED),
        ({"at_most": 2}, -5, -6, -4, MET),
        ({"exact": 1}, 1, 1, 1, MET),
        ({"exact": 1}, 0, 0, 0, MISSED),
        ({"interval": [1, 2]}, 2.5, 1.5, 3.5, MISSED),
    ],
)
def test_a_target_of_our_own_is_met_by_its_value_alone(rule, value, low, high, wanted):
    assert judge(rule, value, low, high, better="higher", own=True) == wanted


def test_a_target_on_the_full_profile_waits_for_it_too():
    target = claim({"at_least": 2}, own=True, profile="full")
    assert claims.judge(target, {}).verdict == PENDING


def mixed_verdicts() -> list[claims.Verdict]:
    """Three announced claims of two systems, and two targets, of which one is met."""
    metrics = {"gain_db": {"value": 1.0, "n": 3, "unit": "dB", "profile": "sample"}}
    ledger = [
        claim({"at_least": 2}, registered=RULE_FIRST, **COUNT),
        claim({"not_testable": "no code, no data"}, metric=None, system="em"),
        claim({"at_most": 2}, profile="full"),
        claim({"at_least": 2}, own=True, announced="we want 2 dB", registered=SAME_COMMIT),
        claim({"at_least": 1}, own=True, announced="we want 1 dB"),
    ]
    return claims.judge_all(metrics, ledger)


def test_what_was_announced_and_our_own_targets_are_counted_apart():
    verdicts = mixed_verdicts()
    assert claims.counts(verdicts) == {
        SUPPORTED: 0,
        EXCEEDED: 0,
        INCONCLUSIVE: 0,
        REFUTED: 1,
        REDUCED: 0,
        UNTESTABLE: 1,
        PENDING: 1,
    }
    assert claims.count_met(verdicts) == 1
    assert [v.claim.own for v in claims.announced(verdicts)] == [False] * 3
    assert [v.claim.own for v in claims.own_targets(verdicts)] == [True] * 2
    assert len(claims.announced(verdicts, "em")) == 1
    tally = {name: entry["value"] for name, entry in claims.tally_metrics(verdicts).items()}
    assert tally == {
        "claims_total": 3,
        "claims_supported": 0,
        "claims_exceeded": 0,
        "claims_inconclusive": 0,
        "claims_refuted": 1,
        "claims_refuted_reduced": 0,
        "claims_made_true": 0,
        "claims_untestable": 1,
        "claims_rule_first": 1,
        "own_targets": 2,
        "own_targets_met": 1,
    }
    assert claims.tally_sentence(verdicts) == (
        "3 announced claims: 1 refuted, 1 not testable, 1 not run yet."
        " Of our own 2 targets, 1 are met."
    )
    assert claims.tally_sentence(verdicts[:1]) == "1 announced claims: 1 refuted."


def test_the_real_ledger_has_both_kinds_and_no_target_hides_among_the_announced():
    ledger = claims.load_ledger()
    targets = [entry for entry in ledger if entry.own]
    assert 0 < len(targets) < len(ledger)
    for entry in ledger:
        named_as_target = entry.id.startswith(
            ("em-target-", "mixture-target-", "mixture-required-")
        )
        assert entry.own or not named_as_target, entry.id
    assert all(entry.rule.not_testable is None for entry in targets)


# the ledger


@pytest.mark.fault("a faulty entry in claims.yaml", "one line that names it")
@pytest.mark.parametrize(
    "changes, wanted",
    [
        ({"metric": None}, "a testable claim needs a metric"),
        ({"rule": {"not_testable": "no code, no data"}}, "an untestable one has none"),
        ({"rule": {"at_least": 2, "at_most": 3}}, "exactly one of"),
        ({"rule": {"at_least": 2, "at_most": None}}, "exactly one of"),
        ({"rule": {}}, "exactly one of"),
        ({"rule": {"at_leats": 2}}, "at_leats"),
        ({"rule": {"at_least": None}}, "exactly one of"),
        ({"rule": {"not_testable": None}, "metric": None}, "exactly one of"),
        ({"rule": {"interval": [14, 12]}}, "14.0 to 12.0 is empty"),
        ({"rule": {"interval": [12]}}, "rule.interval"),
        ({"rule": {"interval": [12, float("inf")]}}, "finite"),
        ({"rule": {"at_least": float("nan")}}, "finite"),
        ({"rule": {"at_least": "much"}}, "rule.at_least"),
        ({"rule": {"not_testable": "no"}, "metric": None}, "at least 10 characters"),
        ({"system": "lstm"}, "system"),
        ({"system": "repository"}, "own: true"),
        ({"own": "perhaps"}, "own"),
        ({"registered": {"rule": "no commit"}}, "registered.rule"),
        ({"registered": {"rule": "0123456", "result": "0123456"}}, "an order needs a result"),
        ({"registered": {"rule": "0123456", "order": "rule first"}}, "an order needs a result"),
        ({"better": "more"}, "better"),
        ({"profile": "sample"}, "profile"),
        ({"note": "x"}, "note"),
        ({"announced": ""}, "announced"),
        ({"test": None}, "test"),
    ],
)
def test_a_faulty_entry_is_named_by_its_id(tmp_path, changes, wanted):
    values = {key: value for key, value in {**ENTRY, **changes}.items() if value is not None}
    with pytest.raises(UserError) as caught:
        ledger(tmp_path, {**ENTRY, "id": "sound-claim"}, values)
    assert str(caught.value).startswith("claims.yaml: some-claim: ")
    assert wanted in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "entry, wanted", [("text", "entry 1"), ({"system": "em"}, "entry 1"), ({"id": "Ä"}, "Ä")]
)
def test_an_entry_without_a_good_id_is_named_by_its_place(tmp_path, entry, wanted):
    with pytest.raises(UserError, match=f"claims.yaml: {wanted}: "):
        ledger(tmp_path, entry)


def test_twin_ids(tmp_path):
    with pytest.raises(UserError, match=r"claims.yaml: id some-claim stands twice"):
        ledger(tmp_path, ENTRY, {**ENTRY, "announced": "another text"})


def test_an_amendment_names_an_entry_that_is_there(tmp_path):
    changed = {**ENTRY, "id": "new-claim", "amends": "some-claim", "rule": {"at_least": 1}}
    assert ledger(tmp_path, ENTRY, changed)[1].amends == "some-claim"
    with pytest.raises(UserError, match=r"claims.yaml: new-claim amends some-claim, which"):
        ledger(tmp_path, changed)


@pytest.mark.parametrize(
    "text", ["claims: []\n", "claims:\n", "other: 1\n", "claims: 5\n", "claims: {a: 1}\n"]
)
def test_a_ledger_without_claims(tmp_path, text):
    (tmp_path / "claims.yaml").write_text(text)
    with pytest.raises(UserError, match=r"claims.yaml: no claims"):
        claims.load_ledger(tmp_path / "claims.yaml")


def test_the_real_ledger_and_the_committed_metrics_know_each_other():
    metrics = claims.read_metrics("sample")
    real = claims.load_ledger()
    assert real
    now = [c for c in real if c.metric and c.profile != "full" and not c.own]
    missing = [c.id for c in now if c.metric not in metrics]
    assert not missing
    best = claims.read_best()
    unknown = {c.id for c in real if c.metric and c.metric not in best}
    waiting = {v.claim.id for v in claims.judge_all(best) if v.verdict == PENDING}
    assert unknown <= waiting  # a rule may stand before its result, and is shown as not run yet


@pytest.mark.parametrize("real", [c for c in claims.load_ledger() if c.metric], ids=lambda c: c.id)
def test_every_real_rule_can_hold_and_can_fail(real):
    low, high = real.rule.bounds()
    inside = low if low > -float("inf") else high
    values = [inside, low - 1, high + 1]  # a side without an end stays inside
    found = []
    for value in values:
        entry = {"value": value, "low": value, "high": value, "n": 1}
        found.append(claims.judge(real, {real.metric: entry}).verdict)
    assert found[0] == (MET if real.own else SUPPORTED)
    assert {REFUTED, REDUCED, EXCEEDED, MISSED} & set(found[1:])


# what readers see


def test_the_table_of_a_system_holds_what_was_announced_of_it():
    verdicts = mixed_verdicts()
    assert claims.system_table(verdicts, "mixture").rows == [
        ["gains 2 dB", "1 dB", "✗\N{NO-BREAK SPACE}**refuted**", "rule first"],
        [
            "gains 2 dB",
            "needs the full profile",
            "…\N{NO-BREAK SPACE}not\N{NO-BREAK SPACE}run\N{NO-BREAK SPACE}yet",
            "–",
        ],
    ]
    assert claims.system_table(verdicts, "em").rows == [
        ["gains 2 dB", "no code, no data", "–\N{NO-BREAK SPACE}not\N{NO-BREAK SPACE}testable", "–"]
    ]


def test_the_table_of_our_own_targets():
    assert claims.target_table(mixed_verdicts()).rows == [
        ["we want 2 dB", "1 dB", "✗\N{NO-BREAK SPACE}**missed**", "same commit"],
        ["we want 1 dB", "1 dB", "✓\N{NO-BREAK SPACE}met", "–"],
    ]


def test_the_table_of_tests_gives_the_test_and_n():
    rows = claims.test_table(claims.announced(mixed_verdicts())).rows
    assert rows[0] == ["gains 2 dB", "mean gain over images", "3", "sample"]
    assert rows[1] == ["gains 2 dB", "mean gain over images", "–", "–"]


def test_the_summary_counts_the_announced_of_each_system_and_of_all():
    rows = claims.summary_table(mixed_verdicts()).rows
    assert rows == [
        ["EM graph diffusion", "0", "1", "0"],
        ["Sparse-attention mixture", "1", "0", "1"],
        ["Causal attention", "0", "0", "0"],
        ["**all**", "**1**", "**1**", "**1**"],
    ]


def test_the_table_of_orders_counts_both_kinds_apart():
    assert claims.order_table(mixed_verdicts()).rows == [
        ["announced", "1", "0", "0", "2"],
        ["our own", "0", "1", "0", "1"],
    ]


def test_the_page_of_verdicts_has_every_claim_once_in_a_table_and_once_in_the_tests():
    verdicts = claims.judge_all(claims.read_best())
    shown = [*claims.announced(verdicts), *claims.own_targets(verdicts)]
    page = claims.verdict_page(verdicts, claims.read_best())
    first_cells = [line.split(" | ")[0].strip("| ") for line in page.splitlines()]
    for v in verdicts:
        if v in shown:
            assert first_cells.count(v.claim.announced) >= 2, v.claim.announced
    assert page.startswith(f"# Verdicts\n\n{claims.tally_sentence(verdicts)}\n")
    headings = [line for line in page.splitlines() if line.startswith("## ")]
    systems = [f"## {name}" for name in claims.SYSTEMS.values()]
    assert [name for name in headings if name in systems] == systems
    assert headings[-1] == "## Our own targets"


@pytest.mark.fault("metrics.json damaged or missing", "one line that says which command makes it")
def test_missing_and_broken_metrics_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr(params, "root", lambda: tmp_path)
    with pytest.raises(
        UserError, match=r"results/full/metrics.json: not found; `dvc repro` makes it"
    ):
        claims.read_metrics("full")
    folder = tmp_path / "results" / "full"
    folder.mkdir(parents=True)
    for text in ("{", "{}", "[]"):
        (folder / "metrics.json").write_text(text)
        with pytest.raises(UserError, match=r"results/full/metrics.json: not readable"):
            claims.read_metrics("full")
    shutil.copy(ROOT / "results" / "sample" / "metrics.json", folder)
    assert claims.read_metrics("full")


# what makes it true


def successors(successor_value: float) -> list[claims.Verdict]:
    """A refuted claim whose successor may be met, and one that points to a bound."""
    metrics = {
        "gain_db": {"value": 1.0, "n": 3, "unit": "dB"},
        "new_gain_db": {"value": successor_value, "n": 5, "unit": "dB"},
        "most_db": {"value": 1.25, "n": 5, "unit": "dB"},
    }
    by_claim = {"claim": "successor", "says": "with unequal experts"}
    by_bound = {"metric": "most_db", "says": "no router can gain more"}
    ledger = [
        claim({"at_least": 2}, makes_true=by_claim, **COUNT),
        claim({"at_least": 2}, makes_true=by_bound, **COUNT),
        claim({"at_least": 2}, id="successor", own=True, metric="new_gain_db"),
    ]
    return claims.judge_all(metrics, ledger)


def test_a_successor_makes_a_claim_true_only_when_its_own_rule_holds():
    assert claims.made_true(successors(3)[0], successors(3)).entry["value"] == 3
    assert claims.made_true(successors(1)[0], successors(1)) is None
    assert claims.count_made_true(successors(3)) == 2
    assert claims.count_made_true(successors(1)) == 1  # the bound alone


def test_the_table_of_three_columns():
    metrics = {"most_db": {"value": 1.25, "n": 5, "unit": "dB"}}
    assert claims.true_table(successors(3), metrics).rows == [
        ["gains 2 dB", "1 dB", "with unequal experts: 3 dB"],
        ["gains 2 dB", "1 dB", "no router can gain more: 1.25 dB"],
    ]


@pytest.mark.parametrize(
    "made, wanted",
    [
        ({"says": "with more of it"}, "exactly one of claim and metric"),
        ({"says": "with more of it", "claim": "a", "metric": "b"}, "exactly one of"),
        ({"says": "with more of it", "claim": "nobody"}, "names nobody, which is not there"),
    ],
)
def test_a_successor_is_one_entry_that_is_there_or_one_metric(tmp_path, made, wanted):
    with pytest.raises(UserError, match=wanted):
        ledger(tmp_path, {**ENTRY, "makes_true": made})


def test_an_amended_claim_is_counted_once_in_its_newest_form():
    old = claim({"at_least": 2}, **COUNT)
    new = claim({"at_least": 0}, id="new-claim", amends="some-claim", **COUNT)
    verdicts = claims.judge_all({"gain_db": {"value": 1, "n": 3}}, [old, new])
    assert [v.claim.id for v in claims.announced(verdicts)] == ["new-claim"]


# many tests


def test_the_p_value_is_that_of_the_distance_to_the_nearest_end():
    entry = {"value": 1.0, "low": 1.0 - 1.96, "high": 1.0 + 1.96, "n": 9}  # deviation 1
    verdict = claims.judge(claim({"interval": [-1, 5]}), {"gain_db": entry})
    assert claims.boundary_p(verdict) == pytest.approx(0.0455, abs=1e-4)  # two deviations


def test_a_decision_that_does_not_survive_the_correction_is_shown():
    entry = {"value": 2.2, "low": 2.01, "high": 2.39, "n": 9}
    verdicts = claims.judge_all({"gain_db": entry}, [claim({"at_least": 2})] * 3)
    assert [v.verdict for v in verdicts] == [SUPPORTED] * 3
    rows = claims.holm_table(verdicts).rows
    assert len(rows) == 3 and {row[-1] for row in rows} == {"does not stand"}
    assert claims.holm_table(verdicts[:1]).rows[0][-1] == "stands"


# the committed verdicts are sound


def test_no_supported_claim_has_an_interval_that_leaves_its_range():
    for v in claims.judge_all(claims.read_best()):
        if v.verdict == SUPPORTED:
            low, high = claims.interval(v.entry)
            ends = v.claim.rule.bounds()
            assert ends[0] <= low and high <= ends[1], v.claim.id
            assert v.claim.kind == "count" or claims.has_interval(v.entry), v.claim.id


def test_every_entry_says_what_it_counts_and_where_it_was_announced():
    for entry in claims.load_ledger():
        if entry.own:
            continue
        assert entry.source, entry.id
        if entry.metric and entry.kind != "count":
            assert entry.unit_of_replication, entry.id
        if entry.rule.interval:
            assert entry.tolerance_reason, entry.id


# what could have been seen


def test_the_smallest_effect_is_found_in_four_tests_of_five():
    """Estimates drawn around the smallest effect, deviation 1: the share whose interval leaves out zero."""
    normal = claims.intervals.NORMAL
    entry = {"value": 0.0, "n": 9, "low": -normal, "high": normal}
    verdict = claims.judge(claim({"at_least": 3}, kind="comparison"), {"gain_db": entry})
    effect = claims.smallest_effect(verdict)
    estimates = np.random.default_rng(0).normal(effect, 1, 200_000)
    assert abs((np.abs(estimates) > normal).mean() - 0.8) < 0.005


def test_only_comparisons_that_were_not_confirmed_stand_beside_what_could_be_seen():
    entry = {"value": 0.0, "n": 9, "low": -1.0, "high": 1.0, "unit": "dB"}

    def rows(rule, kind, **changes):
        verdict = claims.judge(claim(rule, kind=kind), {"gain_db": entry | changes})
        return claims.seen_table([verdict]).rows

    (row,) = rows({"at_least": 3}, "comparison")
    assert row[-1] == "1.4 dB"
    assert rows({"at_least": 0.5}, "comparison")  # inconclusive
    assert not rows({"at_most": 3}, "comparison")  # supported
    assert not rows({"at_least": 3}, "measurement")
