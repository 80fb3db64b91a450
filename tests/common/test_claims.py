"""lib/common/claims.py: what each rule can say, what the ledger refuses, and what readers see of it."""

import json
import shutil

import pytest

from lib.common import claims, params
from lib.common.claims import EXCEEDED, PENDING, REFUTED, REPRODUCED, UNTESTABLE
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


def claim(rule, **changes) -> claims.Claim:
    values = {**ENTRY, "rule": rule, **changes}
    return claims.Claim.model_validate(
        {key: value for key, value in values.items() if value is not None}
    )


def judge(rule, value, low=None, high=None, better=None, **changes) -> str:
    entry = {"value": value, "n": 3} | ({} if low is None else {"low": low, "high": high})
    return claims.judge(claim(rule, better=better, **changes), {"gain_db": entry}).verdict


def ledger(folder, *entries) -> list[claims.Claim]:
    path = folder / "claims.yaml"
    path.write_text(json.dumps({"claims": entries}), encoding="utf-8")  # JSON is YAML
    return claims.load_ledger(path)


# rules


@pytest.mark.parametrize(
    "rule, value, better, wanted",
    [
        ({"exact": 5}, 5, None, REPRODUCED),
        ({"exact": 5}, 4, None, REFUTED),
        ({"exact": 5}, 6, None, REFUTED),
        ({"exact": 5}, 6, "higher", EXCEEDED),
        ({"exact": 5}, 4, "lower", EXCEEDED),
        ({"exact": 5}, 4, "higher", REFUTED),
        ({"interval": [12, 14]}, 12, None, REPRODUCED),
        ({"interval": [12, 14]}, 14, None, REPRODUCED),
        ({"interval": [12, 14]}, 14.01, None, REFUTED),
        ({"interval": [12, 14]}, 11.99, None, REFUTED),
        ({"interval": [12, 14]}, 14.01, "higher", EXCEEDED),
        ({"interval": [12, 14]}, 14.01, "lower", REFUTED),
        ({"interval": [12, 14]}, 11.99, "lower", EXCEEDED),
        ({"interval": [12, 14]}, 11.99, "higher", REFUTED),
        ({"at_least": 2}, 2, None, REPRODUCED),
        ({"at_least": 2}, 1e9, "higher", REPRODUCED),
        ({"at_least": 2}, 1.99, None, REFUTED),
        ({"at_least": 2}, 1.99, "lower", EXCEEDED),
        ({"at_most": 2}, 2, None, REPRODUCED),
        ({"at_most": 2}, -1e9, "lower", REPRODUCED),
        ({"at_most": 2}, 2.01, None, REFUTED),
        ({"at_most": 2}, 2.01, "higher", EXCEEDED),
    ],
)
def test_a_value_without_an_interval(rule, value, better, wanted):
    assert judge(rule, value, better=better) == wanted


@pytest.mark.parametrize(
    "rule, low, high, better, wanted",
    [
        (
            {"interval": [12, 14]},
            14.0,
            15.0,
            None,
            REPRODUCED,
        ),  # touching is enough, on either side
        ({"interval": [12, 14]}, 11.0, 12.0, None, REPRODUCED),
        ({"interval": [12, 14]}, 10.0, 20.0, None, REPRODUCED),
        ({"interval": [12, 14]}, 14.001, 15.0, None, REFUTED),
        ({"interval": [12, 14]}, 14.001, 15.0, "higher", EXCEEDED),
        ({"interval": [12, 14]}, 11.0, 11.999, None, REFUTED),
        ({"exact": 5}, 4.9, 5.1, None, REPRODUCED),
        ({"exact": 5}, 5.01, 5.1, None, REFUTED),
        ({"at_least": 2}, 1.0, 2.0, None, REPRODUCED),
        ({"at_least": 2}, 1.0, 1.999, None, REFUTED),
        ({"at_most": 2}, 2.0, 3.0, None, REPRODUCED),
        ({"at_most": 2}, 2.001, 3.0, None, REFUTED),
    ],
)
def test_a_claim_falls_only_when_the_interval_does_not_touch_the_range(
    rule, low, high, better, wanted
):
    assert judge(rule, (low + high) / 2, low, high, better) == wanted


def test_what_cannot_be_tested_says_so_without_a_metric():
    verdict = claims.judge(claim({"not_testable": "no code, no data"}, metric=None), {})
    assert verdict.verdict == UNTESTABLE and verdict.entry == {}


def test_a_claim_about_the_full_profile_waits_for_it():
    full = claim({"at_least": 2}, profile="full")
    assert claims.judge(full, {}).verdict == PENDING
    for profile, wanted in (("sample", PENDING), ("full", REPRODUCED), ("benchmark", REPRODUCED)):
        assert (
            claims.judge(full, {"gain_db": {"value": 3, "n": 1, "profile": profile}}).verdict
            == wanted
        )


def test_a_study_that_is_still_to_be_run_leaves_its_claims_waiting():
    assert claims.judge(claim({"at_least": 2}), {}, complete=False).verdict == PENDING


def test_an_unknown_metric_is_an_error_and_not_a_verdict():
    with pytest.raises(UserError, match="some-claim: no study measures 'gain_db'"):
        claims.judge(claim({"at_least": 2}), {"other": {"value": 1, "n": 1}})


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
    missing = [c.id for c in real if c.metric and c.profile != "full" and c.metric not in metrics]
    assert not missing
    if (ROOT / "results" / "full" / "metrics.json").is_file():
        unknown = {c.metric for c in real if c.metric} - claims.read_best().keys()
        assert not unknown


@pytest.mark.parametrize("real", [c for c in claims.load_ledger() if c.metric], ids=lambda c: c.id)
def test_every_real_rule_can_hold_and_can_fail(real):
    low, high = real.rule.bounds()
    inside = low if low > -float("inf") else high
    values = [inside, low - 1, high + 1]  # a side without an end stays inside
    found = [
        claims.judge(real, {real.metric: {"value": value, "n": 1}}).verdict for value in values
    ]
    assert found[0] == REPRODUCED
    assert REFUTED in found[1:] or EXCEEDED in found[1:]


# what readers see


@pytest.mark.parametrize(
    "entry, wanted",
    [
        ({}, "–"),
        ({"value": 599689, "n": 1, "unit": ""}, "599,689 (n = 1)"),
        (
            {"value": 14.78, "low": 14.76, "high": 14.82, "n": 500, "unit": "dB"},
            "14.780 [14.760, 14.820] dB (n = 500)",
        ),
        ({"value": 0.12345, "n": 7}, "0.1235 (n = 7)"),
        ({"value": 0.5, "low": 0.4, "high": 0.6, "n": 7}, "0.50 [0.40, 0.60] (n = 7)"),
        ({"value": 2.0, "n": 7, "unit": "px"}, "2 px (n = 7)"),
        ({"value": 2.0, "low": 1.9, "high": 2.1, "n": 7}, "2.00 [1.90, 2.10] (n = 7)"),
        ({"value": 12345.678, "n": 2}, "12,345.68 (n = 2)"),
    ],
)
def test_numbers_for_readers(entry, wanted):
    assert claims.number(entry) == wanted


def test_the_table_and_the_tally():
    metrics = {"gain_db": {"value": 1.0, "n": 3, "unit": "dB", "profile": "sample"}}
    rows = [
        claim({"at_least": 2}),
        claim({"not_testable": "no code, no data"}, metric=None),
        claim({"at_most": 2}, profile="full"),
    ]
    verdicts = claims.judge_all(metrics, rows)
    lines = claims.markdown_table(verdicts).splitlines()
    assert len(lines) == 5 and all(line.count("|") == 6 for line in lines)
    assert lines[2].endswith("| gains 2 dB | 1 dB (n = 3) | sample | **refuted** |")
    assert "no code, no data | – | **not testable**" in lines[3]
    assert "needs the full profile | – | **not run yet**" in lines[4]
    assert claims.counts(verdicts) == {
        REPRODUCED: 0,
        EXCEEDED: 0,
        REFUTED: 1,
        UNTESTABLE: 1,
        PENDING: 1,
    }


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
