"""lib/tools/cli.py: every command with help and an example that parses; faults in one line, before anything is loaded."""

import shlex
import subprocess
import sys

import click
import pytest

from lib.common import params
from lib.common.params import UserError
from lib.tools import cli

ROOT = params.root()


def leaves(group: click.Group = cli.cli, path=()) -> list[tuple[tuple[str, ...], click.Command]]:
    """Every command that runs something, with the words that lead to it."""
    found = []
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found += leaves(command, (*path, name))
        else:
            found.append(((*path, name), command))
    return found


def parse(words: list[str]) -> click.Context:
    """Parse a command line as `main` would, without running it."""
    command, context = cli.cli, None
    while isinstance(command, click.Group):
        command, words = command.commands[words[0]], words[1:]
    return command.make_context(command.name, list(words), parent=context)


each = pytest.mark.parametrize(
    "path, command", leaves(), ids=lambda value: "-".join(value) if isinstance(value, tuple) else ""
)


@each
def test_a_command_has_help_and_an_example_that_parses(path, command, capsys):
    words = shlex.split(command.example)
    assert tuple(words[: len(path)]) == path
    parse(words)
    assert cli.main([*path, "--help"]) == 0
    said = capsys.readouterr().out
    assert f"python -m lib {command.example}" in said and "--debug" in said
    assert len(command.get_short_help_str(limit=80)) > 20


def test_help_lists_every_command_and_example(capsys):
    assert cli.main(["--help"]) == 0
    said = capsys.readouterr().out
    for path, command in leaves():
        assert f"  {path[0]} " in said and f"  python -m lib {command.example}\n" in said
    assert said.count("...") == 1  # of ARGS: no sentence is cut


def test_the_commands_that_readers_and_stages_need_are_there():
    names = {" ".join(path) for path, _ in leaves()}
    assert {"data fetch", "data verify", "data sample", "denoise", "generate", "claims"} <= names
    assert {"train mixture", "train language", "execute", "gather", "check", "reproduce"} <= names


# errors


@pytest.mark.parametrize(
    "words, wanted",
    [
        ("nonsense", "No such command 'nonsense'. See `python -m lib --help`."),
        ("data nonsense", "No such command 'nonsense'"),
        ("generate", "Missing option '--prompt'. See `python -m lib generate --help`."),
        ("generate --prompt x --length 0", "'--length': 0 is not in the range x>=1"),
        ("generate --prompt x --temperature -1", "'--temperature'"),
        ("generate --prompt x --top-p 0", "'--top-p'"),
        ("generate --prompt x --top-k -1", "'--top-k'"),
        ("generate --prompt x --length 99999999999", "allowed are 20,000,000"),
        ("generate --prompt ''", "--prompt: a text of one character or more"),
        ("denoise in.png", "Missing argument 'OUT'"),
        ("claims --profile smaple", "'smaple' is not one of 'sample', 'full'"),
        ("gather smaple", "'smaple' is not one of"),
        ("execute absent", "notebooks/absent.ipynb: not found; there are 01_data_verification"),
        ("check absent", "results/sample/absent/notebook.ipynb: not found"),
        ("train mixture --arm ours", "Missing option '--out'"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code_2(words, wanted, capsys):
    assert cli.main(shlex.split(words)) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1
    assert told.err.startswith("error: ") and wanted in told.err


def test_no_command_shows_the_help_and_fails(capsys):
    assert cli.main([]) == 2 and cli.main(["data"]) == 2
    assert "Examples:" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["--debug execute absent", "execute absent --debug"])
def test_debug_shows_the_traceback(words):
    with pytest.raises(UserError):
        cli.main(words.split())


@pytest.mark.parametrize("words", ["claims", "data verify"])
def test_a_broken_params_yaml_is_noticed(words, monkeypatch, tmp_path, capsys):
    broken = (ROOT / "params.yaml").read_text().replace("threads: 2", "threads: two", 1)
    (tmp_path / "params.yaml").write_text(broken)
    monkeypatch.setattr(params, "root", lambda: tmp_path)
    assert cli.main(words.split()) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith("error: params.yaml: threads = 'two'")


MISTAKEN = """
import sys
from lib.tools import cli
for words in (["generate", "--prompt", ""], ["generate", "--prompt", "x", "--length", "0"],
              ["denoise", "in.png"], ["train", "mixture", "--arm", "ours"]):
    assert cli.main(words) == 2
print({"torch", "tensorflow", "matplotlib"} & sys.modules.keys())
"""


def test_arguments_are_checked_before_a_framework_is_imported():
    run = subprocess.run(
        [sys.executable, "-c", MISTAKEN], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout == "set()\n"


def test_a_reader_that_stops_early_is_no_error():
    command = [sys.executable, "-m", "lib", "claims"]
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    run.stdout.close()
    assert run.stderr.read() == b"" and run.wait() == 0
    run.stderr.close()
