"""The Makefile: its help, its one-line faults on a machine where something is missing, and a set-up done only once.

A copy of the Makefile runs with a PATH of its own, where small scripts stand for python and uv; nothing is installed.
"""

import os
import re
import shutil
import subprocess

import pytest

from lib.common import params

ROOT = params.root()
TOOLS = ("make", "sh", "env", "printf", "tr", "touch", "rm", "mkdir", "date", "cat")
STAMP = ".venv/.complete"
GOOD_PYTHON = 'case "$*" in --version) echo Python 3.11.0;; -c*|"-m venv -h") ;; *) exit 1;; esac'
UV = 'echo "$UV_FIND_LINKS|$*" >> calls'


@pytest.fixture
def copy(tmp_path):
    """A folder with the Makefile and the pins, and a folder `bin` that is the whole PATH."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in ("Makefile", "requirements.txt", "requirements.lock"):
        shutil.copy(ROOT / name, folder)
    (folder / "bin").mkdir()
    for name in TOOLS:
        (folder / "bin" / name).symlink_to(shutil.which(name))
    script(folder / "bin" / "git", "exit 0")
    script(folder / "bin" / "python3", GOOD_PYTHON)
    return folder


def script(path, body):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def make(folder, *arguments, **environment):
    """Exit code and what the recipes print."""
    given = {"PATH": str(folder / "bin"), "HOME": str(folder), **environment}
    command = [str(folder / "bin" / "make"), "--no-print-directory", *arguments]
    run = subprocess.run(
        command, cwd=folder, env=given, capture_output=True, text=True, check=False
    )
    return run.returncode, run.stdout


def test_help_is_the_default_and_names_every_target(copy):
    code, said = make(copy)
    assert code == 0 and (code, said) == make(copy, "help")
    targets = re.search(r"^\.PHONY: (.+)$", (copy / "Makefile").read_text(), flags=re.MULTILINE)[
        1
    ].split()
    assert {"reproduce", "test", "lint", "full"} < set(targets)
    for target in set(targets) - {"help"}:
        assert (
            re.search(rf"^make {target}  +\w", said, flags=re.MULTILINE)
            or f", make {target} " in said
        )


@pytest.mark.fault("no git, no fitting Python, no venv", "one line that names it; nothing is begun")
@pytest.mark.parametrize(
    "change, wanted",
    [
        ({"git": None}, "git is missing: install git"),
        (
            {"python3": None},
            "Python 3.11, 3.12 or 3.13 is missing: install one, or name it with PYTHON=...",
        ),
        (
            {"python3": "exit 1"},
            "Python 3.11, 3.12 or 3.13 is missing: install one, or name it with PYTHON=...",
        ),
        (
            {"python3": 'case "$1" in -c) ;; *) exit 1;; esac'},
            "the venv module is missing: install python3-venv",
        ),
    ],
)
@pytest.mark.parametrize("target", ["reproduce", "test"])
def test_what_is_missing_is_named_in_one_line_and_nothing_is_begun(copy, target, change, wanted):
    for name, body in change.items():
        (copy / "bin" / name).unlink()
        if body:
            script(copy / "bin" / name, body)
    code, said = make(copy, target)
    assert code != 0 and said == wanted + "\n"
    assert not (copy / ".venv").exists()


def test_a_later_python_on_the_path_is_found_when_the_first_does_not_suit(copy):
    script(copy / "bin" / "python3", "exit 1")
    script(copy / "bin" / "python3.12", GOOD_PYTHON)
    said = make(copy, "-n", STAMP)[1]
    assert "python3.12 -m venv" in said and "python3 -m venv" not in said


def test_the_set_up_shows_its_steps_runs_once_and_again_only_for_new_pins(copy):
    script(copy / ".venv" / "bin" / "uv", UV)
    code, said = make(copy, STAMP)
    assert code == 0
    assert [line[:5] for line in said.splitlines()] == ["[1/3]", "[2/3]", "[3/3]"]
    assert "Python 3.11.0" in said
    (call,) = (copy / "calls").read_text().splitlines()
    assert "--compile-bytecode" in call and call.endswith(
        "-r requirements.txt -c requirements.lock"
    )
    assert make(copy, "-q", STAMP)[0] == 0
    make(copy, STAMP)
    assert len((copy / "calls").read_text().splitlines()) == 1
    for name in ("requirements.txt", "requirements.lock"):
        later = (copy / STAMP).stat().st_mtime + 10
        os.utime(copy / name, (later, later))
        assert make(copy, "-q", STAMP)[0] == 1
        os.utime(copy / name, (0, 0))


@pytest.mark.fault("an installation that fails half-way", "the next call installs again")
def test_an_interrupted_set_up_is_not_taken_for_a_whole_one(copy):
    script(copy / ".venv" / "bin" / "uv", "exit 2")
    assert make(copy, STAMP)[0] != 0
    assert not (copy / STAMP).exists()


@pytest.mark.fault("kill -9 of an installation", "the next call installs again")
def test_a_killed_set_up_is_not_taken_for_a_whole_one(copy):
    script(copy / ".venv" / "bin" / "uv", "kill -9 $PPID")  # the recipe's shell
    assert make(copy, STAMP)[0] != 0
    assert not (copy / STAMP).exists()
    script(copy / ".venv" / "bin" / "uv", UV)
    assert make(copy, STAMP)[0] == 0 and (copy / STAMP).exists()


@pytest.mark.parametrize(
    "environment, links",
    [
        ({}, ""),
        ({"PIP_FIND_LINKS": "wheels"}, "wheels"),
        ({"PIP_FIND_LINKS": "wheels more"}, "wheels,more"),
        ({"PIP_FIND_LINKS": "wheels", "UV_FIND_LINKS": "mine"}, "mine"),
    ],
)
def test_folders_of_wheels_are_handed_on(copy, environment, links):
    script(copy / ".venv" / "bin" / "uv", UV)
    assert make(copy, STAMP, **environment)[0] == 0
    assert (copy / "calls").read_text().split("|")[0] == links


def test_folders_that_only_pips_settings_name_are_handed_on(copy):
    script(copy / ".venv" / "bin" / "uv", UV)
    tells = (
        'case "$*" in *"config get global.find-links") echo from-settings;; *) '
        + f"{GOOD_PYTHON};; esac"
    )
    script(copy / "bin" / "python3", tells)
    assert make(copy, STAMP)[0] == 0
    assert (copy / "calls").read_text().split("|")[0] == "from-settings"


def test_the_tools_of_the_environment_come_first_for_every_recipe(copy):
    script(copy / ".venv" / "bin" / "uv", UV)
    make(copy, STAMP)
    with (copy / "Makefile").open("a") as makefile:
        makefile.write("\nshow:\n\t@echo $$PATH\n")
    assert make(copy, "show")[1].split(":")[0] == str(copy / ".venv" / "bin")
