"""lib/common/files.py: a file is whole or absent, whatever happens in the middle of writing it."""

import hashlib
import os
import signal
import stat
import subprocess
import sys

import pytest

from lib.common import files, params

ANSWERS_THEN_HANGS = """
import sys, time
from lib.common import files
with files.atomic(sys.argv[1]) as partial:
    partial.write_text("half of the new")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_the_file_appears_at_the_end_and_not_before(tmp_path):
    path = tmp_path / "new" / "deeper" / "record.json"
    with files.atomic(path) as partial:
        partial.write_text("whole")
        assert not path.exists()
        assert partial.parent == path.parent and partial.suffix == ".json"
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_an_exception_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "record.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), files.atomic(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_exception_leaves_no_file_where_there_was_none(tmp_path):
    with pytest.raises(RuntimeError), files.atomic(tmp_path / "record.json") as partial:
        partial.write_text("half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())


@pytest.mark.fault("kill -9 while any file is written", "the old file stays whole")
def test_a_kill_in_the_middle_leaves_the_old_file(tmp_path):
    path = tmp_path / "record.json"
    path.write_text("old")
    process = subprocess.Popen(
        [sys.executable, "-c", ANSWERS_THEN_HANGS, str(path)],
        cwd=params.root(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "writing\n"
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL
    process.stdout.close()
    assert path.read_text() == "old"
    files.write_text(path, "new")
    assert path.read_text() == "new"


def test_permissions_are_those_of_an_ordinary_file(tmp_path):
    files.write_text(tmp_path / "a.txt", "a")
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o644


def test_two_writers_at_once_do_not_share_a_temporary(tmp_path):
    path = tmp_path / "a.txt"
    with files.atomic(path) as first, files.atomic(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # the outer block ends last


def test_text_keeps_its_letters(tmp_path):
    files.write_text(tmp_path / "a.txt", "σ ≤ 0,2 – Künsch\n")
    assert (tmp_path / "a.txt").read_bytes() == "σ ≤ 0,2 – Künsch\n".encode()


def test_json_of_equal_values_has_equal_bytes(tmp_path):
    files.write_json(tmp_path / "a.json", {"b": 1, "a": {"d": 0.1, "c": "σ"}})
    files.write_json(tmp_path / "b.json", {"a": {"c": "σ", "d": 0.1}, "b": 1})
    written = (tmp_path / "a.json").read_bytes()
    assert written == (tmp_path / "b.json").read_bytes()
    assert written == '{\n  "a": {\n    "c": "σ",\n    "d": 0.1\n  },\n  "b": 1\n}\n'.encode()


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_json_refuses_what_is_not_a_number_and_keeps_the_old_file(tmp_path, number):
    files.write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(tmp_path / "a.json", {"a": [number]})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": 1\n}\n'
    assert len(list(tmp_path.iterdir())) == 1


def test_sha256(tmp_path):
    (tmp_path / "empty").touch()
    (tmp_path / "large").write_bytes(bytes(range(256)) * 10_000)
    assert (
        files.sha256(tmp_path / "empty")
        == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )
    assert (
        files.sha256(tmp_path / "large") == hashlib.sha256(bytes(range(256)) * 10_000).hexdigest()
    )
