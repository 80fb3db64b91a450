"""What ships: large files in their two places only, and in datastore/ what the pipeline can ask for, nothing else."""

import hashlib
import json
import shutil
import subprocess

import pytest
import yaml

from lib.common import params
from lib.common.params import UserError
from lib.tools import store

ROOT = params.root()
LARGE = 1_000_000  # bytes


def test_large_files_lie_in_datastore_and_models_only():
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in names.splitlines()]
    large = [path for path in paths if path.is_file() and path.stat().st_size > LARGE]
    assert large  # there are some
    assert {path.relative_to(ROOT).parts[0] for path in large} == {"datastore", "models"}


def test_the_store_holds_what_the_lock_names_and_nothing_else():
    lock = params.read_yaml(ROOT / "dvc.lock")
    needed = store.named_objects(ROOT, lock["stages"])
    assert set(store.stored_objects(ROOT)) == needed, "run `python -m lib tidy`"
    assert lock["stages"].keys() <= store.all_stages(ROOT), "run `python -m lib tidy`"


def test_weights_that_nothing_reads_are_not_stored():
    """Notebooks open the two large networks of the first seed; of the other language trainings they read prices."""
    first = params.load().seed
    opened = {f"attention-{first}", f"lstm-{first}"}
    for name, stage in params.read_yaml(ROOT / "dvc.lock")["stages"].items():
        if not name.startswith("train_language"):
            continue
        (out,) = stage["outs"]
        listing = store.object_path(ROOT, out["md5"]).read_text(encoding="utf-8")
        files = {entry["relpath"] for entry in json.loads(listing)}
        kept = {path for path in files if path.endswith("weights.safetensors")}
        assert bool(kept) == (out["path"].split("/")[-1] in opened), name
        assert any(path.endswith("prices.safetensors") for path in files)


# tidy, on a small project

DVC = """
vars: [params.yaml]
stages:
  train:
    matrix: {profile: ["${profile}"], seed: "${seeds.language}"}
    cmd: train ${item.profile} ${item.seed}
    outs: ["runs/${item.profile}/${item.seed}"]
"""


def put(folder, content: bytes, suffix="") -> str:
    """Store an object; its hash."""
    md5 = hashlib.md5(content).hexdigest() + suffix
    path = store.object_path(folder, md5)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return md5


@pytest.fixture
def project(tmp_path):
    """A stage of each profile, one that is no more, and an object that nothing names."""
    (tmp_path / "dvc.yaml").write_text(DVC)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    data = {"outs": [{"path": "data", "md5": put(tmp_path, b"data")}]}
    (tmp_path / "data.dvc").write_text(yaml.safe_dump(data))
    stages = {}
    for name in ("train@sample-0", "train@full-2", "train@sample-9"):
        inner = put(tmp_path, f"weights of {name}".encode())
        listing = json.dumps([{"md5": inner, "relpath": "weights"}]).encode()
        place = {"path": f"runs/{name}", "md5": put(tmp_path, listing, ".dir")}
        result = {"path": f"results/{name}", "md5": "0" * 32}  # git keeps it
        stages[name] = {"cmd": "train", "outs": [place, result]}
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
    put(tmp_path, b"left over")
    return tmp_path


def test_tidy_drops_what_no_profile_names(project):
    stages, objects = store.tidy(project)
    assert stages == ["train@sample-9"] and len(objects) == 3  # its folder, its weights, the rest
    left = params.read_yaml(project / "dvc.lock")
    assert set(left["stages"]) == {"train@sample-0", "train@full-2"} and left["schema"] == "2.0"
    assert len(list(store.stored_objects(project))) == 5
    assert store.tidy(project) == ([], [])


@pytest.mark.fault("an object of datastore/ that is missing", "one line; nothing is dropped")
def test_tidy_refuses_a_store_that_is_not_complete(project):
    store.object_path(project, hashlib.md5(b"data").hexdigest()).unlink()
    before = set(store.stored_objects(project))
    with pytest.raises(UserError, match="not in the store: datastore/files/md5/8d/777f"):
        store.tidy(project)
    assert set(store.stored_objects(project)) == before
