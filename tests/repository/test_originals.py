"""benchmarks/announced_originals.py: cited sizes are compared as announced, and can be counted again."""

import importlib.util
import json

import pytest

from lib.common import params

ROOT = params.root()
SPEC = importlib.util.spec_from_file_location(
    "announced_originals", ROOT / "benchmarks" / "announced_originals.py"
)
originals = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(originals)


@pytest.mark.parametrize(
    "announced, counted, wanted",
    [
        ("8.6 KB", 8_783, True),
        ("8.6 KB", 8_900, False),
        ("11 KB", 10_800, True),
        ("11 KB", 10_700, False),
        ("about 250", 254, True),
        ("about 250", 256, False),
        ("more than 320", 321, True),
        ("more than 320", 320, False),
        ("2,180", 2_180, True),
        ("2,180", 2_179, False),
    ],
)
def test_a_size_holds_when_it_rounds_to_what_was_announced(announced, counted, wanted):
    file = originals.File("mixture", "some.py", "bytes", announced, counted)
    assert originals.holds(file) is wanted


def test_the_committed_record_is_what_the_cited_sizes_give():
    path = ROOT / "benchmarks" / "announced_originals.json"
    recorded = json.loads(path.read_text(encoding="utf-8"))
    assert recorded["metrics"] == originals.measure(originals.FILES)
    assert recorded["run"]["source"] == originals.REPOSITORIES


def test_a_clone_is_counted_again(tmp_path):
    (tmp_path / "some.py").write_text("one\ntwo\nthree\n")
    lines = originals.File("em", "some.py", "lines", "3", 0)
    assert originals.count_again(lines, tmp_path).counted == 3
    assert originals.count_again(lines._replace(unit="bytes"), tmp_path).counted == 14
    with pytest.raises(params.UserError, match=r"other.py: not found; clone https://"):
        originals.count_again(lines._replace(path="other.py"), tmp_path)
