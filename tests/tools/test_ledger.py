"""lib/tools/ledger.py: every claim as data, as the committed schema describes it."""

import copy
import json

import jsonschema
import pytest

from lib.common import claims, params
from lib.tools import gather, ledger

ROOT = params.root()
SCHEMA = json.loads((ROOT / ledger.SCHEMA).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def data():
    """The objects of the committed sample results."""
    collected = json.loads((ROOT / "results" / "sample" / "metrics.json").read_text())
    metrics, runs = collected["metrics"], collected["runs"]
    return ledger.as_data(claims.judge_all(metrics), metrics, runs)


def test_the_committed_claims_follow_the_schema(data):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(data, SCHEMA)
    assert [entry["id"] for entry in data] == [claim.id for claim in claims.load_ledger()]


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "reproduced"},
        {"kind": "guess"},
        {"rule": {"at_least": 1, "at_most": 2}},
        {"rule": {}},
        {"n": 0},
        {"value": "much"},
        {"note": "new"},
        {"id": "Two Words"},
    ],
)
def test_the_schema_refuses_what_is_no_claim(data, change):
    broken = copy.deepcopy(data[:1])
    broken[0].update(change)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, SCHEMA)


@pytest.mark.parametrize("key", SCHEMA["items"]["required"])
def test_the_schema_asks_for_every_key(data, key):
    broken = copy.deepcopy(data[:1])
    del broken[0][key]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, SCHEMA)


def test_verdicts_numbers_and_runs_are_those_of_the_results(data):
    collected = json.loads((ROOT / "results" / "sample" / "metrics.json").read_text())
    by_id = {entry["id"]: entry for entry in data}
    for verdict in claims.judge_all(collected["metrics"]):
        entry = by_id[verdict.claim.id]
        assert entry["verdict"] == verdict.verdict
        if verdict.entry:
            assert entry["value"] == verdict.entry["value"]
            run = collected["runs"][entry["study"]]
            assert entry["run"] == {key: run[key] for key in ledger.OF_RUN if key in run}
            assert entry["measured_on"] == "benchmark" or "code" in entry["run"]
        else:
            assert entry["value"] is None and entry["run"] is None


def test_an_amended_entry_is_there_and_not_counted(data):
    by_id = {entry["id"]: entry for entry in data}
    amended = {entry["amends"] for entry in data if entry["amends"] and not entry["own"]}
    assert amended
    for name in amended:
        assert by_id[name]["counted"] is by_id[name]["own"]


def test_gather_writes_them(tmp_path):
    line = "{id: a, system: em, announced: gains 2 dB, test: mean gain, metric: gain, kind: count, rule: {at_least: 2}}"
    (tmp_path / "claims.yaml").write_text(f"claims:\n  - {line}\n")
    folder = tmp_path / "results" / "sample" / "01_one"
    folder.mkdir(parents=True)
    record = {"study": "01_one", "metrics": {"gain": {"value": 3.0, "n": 4}}, "run": {"seed": 0}}
    (folder / "metrics.json").write_text(json.dumps(record))
    gather.gather("sample", tmp_path)
    (entry,) = json.loads((folder.parent / "claims.json").read_text())
    jsonschema.validate([entry], SCHEMA)
    assert (entry["verdict"], entry["value"], entry["run"]) == ("supported", 3.0, {"seed": 0})
