"""Keep datastore/ to what dvc.lock and data.dvc name, for both profiles: `python -m lib tidy`.

DVC's own `gc` knows the profile that params.yaml names and would drop what the other one needs.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from lib.common import files, params
from lib.tools import reproduce

OBJECTS = "datastore/files/md5"


def tidy(folder: Path) -> tuple[list[str], list[Path]]:
    """Drop lock entries of stages that no profile has, then the objects that nothing names any more.

    Returns:
        The names of the stages and the paths of the objects that are gone.

    Raises:
        UserError: an object that an entry names is not in the store; then nothing is dropped.
    """
    lock = params.read_yaml(folder / "dvc.lock")
    gone = sorted(lock["stages"].keys() - all_stages(folder))
    kept = {name: stage for name, stage in lock["stages"].items() if name not in gone}
    needed = named_objects(folder, kept)
    if absent := [str(path.relative_to(folder)) for path in needed if not path.is_file()]:
        raise params.UserError(f"not in the store: {', '.join(absent)}; `dvc push` brings them")
    extra = sorted(set(stored_objects(folder)) - needed)
    if gone:
        text = yaml.safe_dump({**lock, "stages": kept}, sort_keys=False)
        files.write_text(folder / "dvc.lock", text)
    for path in extra:
        path.unlink()
    return gone, extra


def all_stages(folder: Path) -> set[str]:
    """The names of the stages of both profiles."""
    return stages_of(folder, "sample") | stages_of(folder, "full")


def stages_of(folder: Path, profile: str) -> set[str]:
    """The names of the stages that dvc.yaml has for a profile."""
    from dvc.repo import Repo

    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch)
        for name in ("dvc.yaml", "params.yaml"):
            shutil.copy(folder / name, copy)
        if profile == "full":
            reproduce.choose_full(copy / "params.yaml")
        (copy / ".dvc").mkdir()
        (copy / ".dvc" / "config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
        with Repo(str(copy)) as repo:
            return {stage.name for stage in repo.index.stages if hasattr(stage, "name")}


def named_objects(folder: Path, stages: dict[str, Any]) -> set[Path]:
    """The paths of all objects that data.dvc and these stages' outputs are made of."""
    outputs = list(params.read_yaml(folder / "data.dvc")["outs"])
    for stage in stages.values():
        # git keeps what lies in results/; DVC stores the rest
        outputs += [out for out in stage.get("outs", []) if not out["path"].startswith("results/")]
    found = set()
    for output in outputs:
        found |= set(objects_of(folder, output["md5"]))
    return found


def objects_of(folder: Path, md5: str) -> Iterator[Path]:
    """The object of a hash; for a folder, whose hash ends in `.dir`, also those of its files."""
    path = object_path(folder, md5)
    yield path
    if md5.endswith(".dir") and path.is_file():
        for entry in json.loads(path.read_text(encoding="utf-8")):
            yield object_path(folder, entry["md5"])


def object_path(folder: Path, md5: str) -> Path:
    """Where the store keeps an object."""
    return folder / OBJECTS / md5[:2] / md5[2:]


def stored_objects(folder: Path) -> Iterator[Path]:
    """All objects of the store."""
    return (path for path in (folder / OBJECTS).rglob("*") if path.is_file())
