"""lib/common/record.py: entries that carry their n, tables that readers understand, records of the run."""

import json
import sys

import numpy as np
import pytest

from lib.common import record
from lib.common.intervals import Interval
from lib.common.record import Record

GAIN = Interval(mean=1.234567, low=1.2, high=1.27, n=1000, sd=0.5)


@pytest.fixture
def study():
    return Record("01_data_verification", profile="sample", seed=3, threads=2)


def written(folder, name="metrics.json"):
    return json.loads((folder / name).read_text(encoding="utf-8"))


# adding


def test_an_entry_holds_what_is_known_and_plain_types_only():
    assert record.metric(np.float32(0.5), n=np.int64(3)) == {
        "value": 0.5,
        "unit": "",
        "what": "",
        "n": 3,
        "band": 0.0,
    }
    entry = record.metric(
        Interval(1.0, 0.5, 1.5, 7, 0.2), unit="dB", band=0.01, what="gain", headline=True
    )
    assert entry == {
        "value": 1.0,
        "unit": "dB",
        "what": "gain",
        "n": 7,
        "sd": 0.2,
        "low": 0.5,
        "high": 1.5,
        "band": 0.01,
        "headline": True,
    }
    json.dumps(
        record.metric(np.int64(4), n=1, sd=np.float64(1), low=np.float32(0), high=np.float32(1))
    )


def test_added_numbers_are_found_by_name(study):
    study.add("gain_db", GAIN, what="gain", unit="dB")
    assert study["gain_db"]["high"] == 1.27
    assert study.metrics["gain_db"] == record.metric(GAIN, what="gain", unit="dB")


def test_what_only_the_table_shows_is_not_saved(study):
    study.add("gain_db", GAIN, what="gain", announced=(1, 2), label="our gain", show=False)
    assert study["gain_db"] == record.metric(GAIN, what="gain")


def test_a_name_added_twice_is_refused_and_the_first_stays(study):
    study.add("gain_db", 1.0, n=1)
    with pytest.raises(ValueError, match="'gain_db' of 01_data_verification is there already"):
        study.add("gain_db", 2.0, n=1)
    assert study["gain_db"]["value"] == 1.0


@pytest.mark.parametrize(
    "options, text",
    [
        ({"value": 1.0}, "'gain_db' of 01_data_verification has no n"),
        ({"value": float("nan"), "n": 1}, "value is nan, not a finite number"),
        ({"value": np.float32("inf"), "n": 1}, "value is inf"),
        ({"value": 1.0, "n": 1, "low": -np.inf}, "low is -inf"),
        ({"value": GAIN._replace(sd=np.nan)}, "sd is nan"),
    ],
)
def test_a_number_without_n_or_not_finite_is_refused(study, options, text):
    value = options.pop("value")
    with pytest.raises(ValueError, match=text):
        study.add("gain_db", value, **options)
    assert not study.metrics


def test_an_interval_with_its_ends_makes_three_numbers_and_one_row(study):
    study.add_with_ends("gain_db", GAIN, what="gain", unit="dB", headline=True)
    assert list(study.metrics) == ["gain_db", "gain_db_low", "gain_db_high"]
    assert study["gain_db_low"] == record.metric(1.2, what="gain", unit="dB", n=1000, headline=True)
    assert study["gain_db_high"]["value"] == 1.27
    assert len(study.table().rows) == 1


# tables


def test_a_table_shows_quantity_announced_measured_with_interval_and_n(study):
    study.add("psnr_db", GAIN, what="PSNR", unit="dB", announced=25)
    study.add("images", 10_000, n=1, what="test images")
    table = study.table()
    assert table.columns == ["quantity", "announced", "measured", "n"]
    assert table.rows == [
        ["PSNR", "25 dB", "1.235 [1.200, 1.270] dB", "1,000"],
        ["test images", "", "10,000", "1"],
    ]


def test_without_announced_values_the_column_is_left_out(study):
    study.add("psnr_db", GAIN, what="PSNR", unit="dB")
    assert study.table().columns == ["quantity", "measured", "n"]


@pytest.mark.parametrize(
    "announced, unit, text",
    [
        ("about a third", "dB", "about a third"),
        (25.12, "dB", "25.12 dB"),
        ((20, 22), "dB", "20 to 22 dB"),
        (599_689, "", "599,689"),
        (0, "%", "0 %"),
    ],
)
def test_announced_values_are_shown_as_text_number_or_range(study, announced, unit, text):
    study.add("a", 1.0, n=1, unit=unit, announced=announced)
    assert study.table().rows[0][1] == text


def test_each_table_starts_where_the_last_one_ended(study):
    study.add("a", 1.0, n=1, what="first")
    assert [row[0] for row in study.table().rows] == ["first"]
    study.add("b", 2.0, n=1, what="second")
    study.add("c", 3.0, n=1, label="third", what="recorded text")
    study.add("d", 4.0, n=1, what="hidden", show=False)
    assert [row[0] for row in study.table().rows] == ["second", "third"]
    with pytest.raises(ValueError, match="nothing was added to 01_data_verification since"):
        study.table()


def test_checked_claims_become_a_table_and_a_failed_one_is_named():
    table = record.check({"one is one": True, "two is two": np.bool_(True)})
    assert table.rows == [["one is one", "yes"], ["two is two", "yes"]]
    with pytest.raises(AssertionError, match=r"does not hold: pigs fly$"):
        record.check({"one is one": True, "pigs fly": False})


# writing


def test_a_record_tells_profile_seed_device_threads_versions_and_code(study, tmp_path):
    study.add("gain", 1.5, n=2)
    study.write(tmp_path)
    saved = written(tmp_path)
    assert saved["study"] == "01_data_verification"
    assert saved["metrics"] == {"gain": record.metric(1.5, n=2)}
    run = saved["run"]
    assert set(run) == {
        "profile",
        "seed",
        "device",
        "threads",
        "processor",
        "python",
        "versions",
        "code",
    }
    assert (run["profile"], run["seed"], run["device"], run["threads"]) == ("sample", 3, "cpu", 2)
    assert run["versions"]["numpy"] == np.__version__
    assert run["python"] == ".".join(map(str, sys.version_info[:3]))


def test_another_name_in_a_new_folder(study, tmp_path):
    study.add("gain", 1.5, n=2)
    study.write(tmp_path / "new", "verdicts.json")
    assert written(tmp_path / "new", "verdicts.json")["metrics"]["gain"]["value"] == 1.5


@pytest.mark.parametrize(
    "entry, text",
    [
        ({"value": 1.0}, "'gain' of 01_data_verification has no n"),
        (record.metric(1.0), "has no n"),
        (record.metric(float("nan"), n=1), "value is nan"),
        (record.metric(np.float32("inf"), n=1), "value is inf"),
        ({**record.metric(1.0, n=1), "band": float("nan")}, "JSON compliant"),
    ],
)
def test_a_bad_entry_is_not_written_and_the_old_file_stays(study, tmp_path, entry, text):
    study.add("gain", 1.0, n=1)
    study.write(tmp_path)
    before = (tmp_path / "metrics.json").read_bytes()
    study.metrics["gain"] = entry
    with pytest.raises(ValueError, match=text):
        study.write(tmp_path)
    assert (tmp_path / "metrics.json").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
