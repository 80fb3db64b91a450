"""lib/tools/pedigree.py: what git shows of each rule, in small histories and in the real one."""

import json
import os
import subprocess

import pytest

from lib.common import claims, params
from lib.tools import cli, pedigree

ROOT = params.root()
# The last change of a rule before the two promises were made; see docs/log.md, 2026-11-25.
PROMISED_SINCE = "9c319f0"
# The metric of these two had its name before it had its meaning: it was the price of another mixture (docs/log.md). Git
# knows names only, so that it dates their first result too early.
MIXER_TARGETS = ("language-target-mixed-alice", "language-target-mixed-hamlet")
MIXER_RULE, FIRST_MIXER_RESULT = "798202e", "1f38aae"
ENTRY = {
    "id": "a-claim",
    "system": "em",
    "announced": "gains 2 dB",
    "test": "mean gain",
    "metric": "gain_db",
    "rule": {"at_least": 2},
}


class History:
    """A git repository in which a test commits ledgers and records."""

    def __init__(self, folder):
        self.folder = folder
        self.day = 0
        self.git("init", "-q", "-b", "main")

    def git(self, *arguments):
        self.day += 1
        date = f"2026-01-01T00:00:{self.day:02d}Z"
        names = {"GIT_AUTHOR_NAME": "a", "GIT_COMMITTER_NAME": "a"}
        mails = {"GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_EMAIL": "a@b"}
        dates = {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
        environment = os.environ | names | mails | dates
        command = ["git", *arguments]
        run = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=True
        )
        return run.stdout.strip()

    def rule(self, **changes):
        entry = {**ENTRY, **changes}
        (self.folder / "claims.yaml").write_text(json.dumps({"claims": [entry]}))

    def result(self, name="results/sample/02_em/metrics.json", metric="gain_db"):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"metrics": {metric: {"value": 3, "n": 1}}}))

    def commit(self):
        """The short name of a new commit of everything."""
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "x")
        return self.git("rev-parse", "HEAD")[: pedigree.SHORT]

    def found(self):
        return pedigree.compute(self.folder)["a-claim"]


@pytest.fixture
def history(tmp_path):
    return History(tmp_path)


def test_a_rule_before_its_result(history):
    history.rule()
    rule = history.commit()
    history.result()
    result = history.commit()
    assert history.found() == (rule, result, claims.RULE_FIRST)


def test_a_rule_with_its_result(history):
    history.rule()
    history.result()
    both = history.commit()
    assert history.found() == (both, both, claims.SAME_COMMIT)


@pytest.mark.parametrize(
    "name",
    [
        "results/sample/02_em/metrics.json",
        "results/full/metrics/02_em.json",
        "benchmarks/speed.json",
    ],
)
def test_a_rule_after_its_result_in_any_kind_of_record(history, name):
    history.result(name)
    result = history.commit()
    history.rule()
    rule = history.commit()
    assert history.found() == (rule, result, claims.RESULT_FIRST)


def test_a_rule_whose_metric_nobody_measured_yet(history):
    history.rule()
    rule = history.commit()
    history.result(metric="another")
    history.commit()
    assert history.found() == (rule, None, None)


@pytest.mark.parametrize(
    "change",
    [
        {"rule": {"at_least": 1}},
        {"rule": {"at_most": 2}},
        {"better": "higher"},
        {"profile": "full"},
    ],
)
def test_a_changed_rule_is_as_old_as_its_change(history, change):
    history.rule()
    history.commit()
    history.result()
    result = history.commit()
    history.rule(**change)
    changed = history.commit()
    assert history.found() == (changed, result, claims.RESULT_FIRST)


def test_a_rule_that_was_changed_and_changed_back_is_as_old_as_the_last_change(history):
    history.rule()
    history.commit()
    history.rule(rule={"at_least": 1})
    history.commit()
    history.rule()
    back = history.commit()
    assert history.found().rule == back


@pytest.mark.parametrize(
    "change",
    [
        {"announced": "gains two dB"},
        {"test": "mean gain over images"},
        {"registered": {"rule": "0123456"}},
    ],
)
def test_other_words_do_not_make_a_rule_younger(history, change):
    history.rule()
    rule = history.commit()
    history.result()
    result = history.commit()
    history.rule(**change)
    history.commit()
    assert history.found() == (rule, result, claims.RULE_FIRST)


def test_a_rule_from_a_merged_branch_is_as_old_as_on_the_branch(history):
    history.commit()
    history.git("checkout", "-q", "-b", "side")
    history.rule()
    rule = history.commit()
    history.git("checkout", "-q", "main")
    history.result(metric="another")
    history.commit()
    history.git("merge", "-q", "--no-edit", "side")
    history.result()
    result = history.commit()
    assert history.found() == (rule, result, claims.RULE_FIRST)


def test_a_file_that_is_no_record_counts_for_nothing(history):
    path = history.folder / "results" / "sample" / "02_em"
    path.mkdir(parents=True)
    (path / "metrics.json").write_text('{"half": ')
    history.commit()
    history.rule()
    history.commit()
    assert history.found().result is None


@pytest.mark.fault("pedigree of a shallow clone or outside git", "one line; the ledger stays")
def test_a_shallow_clone_and_a_folder_outside_git_are_told(history, tmp_path_factory):
    history.rule()
    history.commit()
    history.rule(rule={"at_least": 1})
    history.commit()
    shallow = tmp_path_factory.mktemp("shallow")
    history.git("clone", "-q", "--depth", "1", f"file://{history.folder}", str(shallow))
    with pytest.raises(params.UserError, match=r"shallow and has no history.*--unshallow"):
        pedigree.compute(shallow)
    bare = tmp_path_factory.mktemp("bare")
    with pytest.raises(params.UserError, match="no git history here"):
        pedigree.compute(bare)


# the ledger keeps it


LEDGER = """# a comment
claims:
  # --- a part
  - id: a-claim
    system: em
    announced: gains 2 dB
    test: mean gain
    metric: gain_db
    registered: {rule: '0000000'}
    rule: {at_least: 2}
  - id: b-claim
    system: em
    announced: gains 3 dB
    test: mean gain
    metric: loss_db
    rule: {at_least: 3}
"""


def test_the_ledger_gets_one_line_an_entry_and_keeps_every_other(tmp_path):
    path = tmp_path / "claims.yaml"
    path.write_text(LEDGER)
    found = {
        "a-claim": pedigree.Pedigree("1111111", "2222222", claims.RULE_FIRST),
        "b-claim": pedigree.Pedigree("0123456", None, None),
    }
    assert pedigree.write(path, found) is True
    first, second = claims.load_ledger(path)
    assert first.registered.model_dump() == found["a-claim"]._asdict()
    assert second.registered.model_dump() == found["b-claim"]._asdict()
    others = [line for line in LEDGER.splitlines() if "registered" not in line]
    written = path.read_text().splitlines()
    assert [line for line in written if "registered" not in line] == others
    assert pedigree.write(path, found) is False


def test_the_command_brings_the_ledger_up_to_date(history, monkeypatch, capsys):
    (history.folder / "claims.yaml").write_text(LEDGER.partition("  - id: b-claim")[0])
    (history.folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    rule = history.commit()
    history.result()
    result = history.commit()
    metrics = {"gain_db": {"value": 3, "n": 1, "profile": "sample"}}
    gathered = history.folder / "results" / "sample" / "metrics.json"
    gathered.write_text(json.dumps({"metrics": metrics}))
    monkeypatch.setattr(params, "root", lambda: history.folder)
    assert cli.main(["claims", "--pedigree"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[2].split() == "| announced | 1 | 0 | 0 | 0 |".split()
    assert told[-1] == "claims.yaml was brought up to date"
    (claim,) = claims.load_ledger(history.folder / "claims.yaml")
    assert (claim.registered.rule, claim.registered.result) == (rule, result)
    assert cli.main(["claims", "--pedigree"]) == 0
    assert capsys.readouterr().out.endswith("claims.yaml is up to date\n")


# the promises


def test_a_rule_that_came_late_or_was_changed_breaks_a_promise(history):
    history.result(metric="old_db")
    since = history.commit()
    history.rule()
    history.commit()
    history.result()
    history.commit()
    assert pedigree.broken_promises(history.folder, since) == []
    history.rule(rule={"at_least": 1})
    changed = history.commit()
    history.rule(id="late", metric="old_db")
    late = history.commit()
    assert pedigree.broken_promises(history.folder, since) == [
        f"a-claim: its rule was changed in {changed}; a change is a new entry",
        f"late: its rule came in {late}, not before its result",
    ]
    assert pedigree.broken_promises(history.folder, late) == []


@pytest.fixture(scope="module")
def real():
    try:
        return pedigree.compute(ROOT)
    except params.UserError as reason:
        pytest.skip(str(reason))


def test_what_the_ledger_says_of_its_rules_is_what_git_shows(real):
    for claim in claims.load_ledger():
        if claim.registered is None or claim.id not in real:
            continue  # newer than the last look at the history
        assert claim.registered.rule == real[claim.id].rule, claim.id
        if claim.registered.result is not None:
            assert claim.registered.model_dump() == real[claim.id]._asdict(), claim.id


def test_every_claim_that_is_decided_shows_its_pedigree(real):
    head = pedigree.last_commit(ROOT)
    late = []
    for verdict in claims.judge_all(claims.read_best()):
        found = real.get(verdict.claim.id)
        known_to_git = found is not None and found.result not in (None, head)
        if known_to_git and claims.order(verdict) == "–":  # a commit cannot hold its own name
            late.append(verdict.claim.id)
    assert not late, "run `python -m lib claims --pedigree`"


def test_since_the_promises_every_rule_came_before_its_result_and_none_was_changed(real):
    broken = pedigree.broken_promises(ROOT, PROMISED_SINCE)
    assert broken == [
        f"{name}: its rule came in {MIXER_RULE}, not before its result" for name in MIXER_TARGETS
    ]


def test_the_rule_of_the_mixer_is_older_than_the_first_result_of_the_mixer(real):
    command = ["git", "merge-base", "--is-ancestor", MIXER_RULE, FIRST_MIXER_RESULT]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0
