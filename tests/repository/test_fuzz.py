"""A few hundred broken inputs for each entry point, with other seeds than the recorded run of benchmarks/fuzz.py."""

import json

import fuzz
import pytest

from lib.common import params

ROOT = params.root()


@pytest.mark.parametrize(
    "name, share", [(name, 40 if name == "params" else 10) for name in fuzz.COUNTS]
)
def test_broken_input_is_refused_and_never_crashes(tmp_path, name, share):
    found, _ = fuzz.fuzz(name, fuzz.COUNTS[name] // share, 1, tmp_path)
    assert not found, found[0]


def test_a_crash_would_be_seen(tmp_path, monkeypatch):
    entry = fuzz.Entry([b"ab"], lambda path: path.read_bytes().decode("ascii"))
    monkeypatch.setattr(fuzz, "entries", lambda: {"letters": lambda: entry})
    found, accepted = fuzz.fuzz("letters", 50, 0, tmp_path)
    assert (
        found and len(found) + accepted == 50 and found[0]["error"].startswith("UnicodeDecodeError")
    )


def test_the_recorded_run_is_of_this_size_and_without_a_crash():
    record = json.loads((ROOT / "benchmarks" / "fuzz.json").read_text())
    assert record["inputs"] == fuzz.COUNTS and record["crashes"] == []
    values = {name: entry["value"] for name, entry in record["metrics"].items()}
    assert values == {"fuzz_inputs": sum(fuzz.COUNTS.values()), "fuzz_crashes": 0}
