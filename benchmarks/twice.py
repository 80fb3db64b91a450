"""Run the whole sample pipeline twice in clones of their own and compare every output byte by byte: `make twice`.

Two clones of the last commit for each number of threads (without an argument: the one of params.yaml), every stage
forced. Compared are all outputs of all stages: notebooks, figures, metrics, weights, prices, logs. Equal bytes are
promised for the same number of threads; between two numbers of threads each metric must lie within its band.
Writes benchmarks/twice.json; the clones stay under .reproduce/ until the next call.
"""

import itertools
import json
import re
import sys
import time
from pathlib import Path

import recording
from dvc.repo import Repo

from lib.common import files, params, record
from lib.tools import reproduce
from lib.tools.compare import outside_band


def outputs(copy: Path) -> dict[str, str]:
    """sha256 of every file that a stage of the clone declares as an output or a metric, by its path."""
    with Repo(str(copy)) as repo:
        places = [
            Path(out.fs_path) for stage in repo.index.stages if stage.cmd for out in stage.outs
        ]
    found = [
        f
        for place in places
        for f in (place.rglob("*") if place.is_dir() else [place])
        if f.is_file()
    ]
    return {path.relative_to(copy).as_posix(): files.sha256(path) for path in sorted(found)}


def run(folder: Path, name: str, threads: int) -> Path:
    """A clone of the last commit in which every stage has run with that many threads."""
    copy = reproduce.clone(folder, folder / ".reproduce" / name)
    path = copy / "params.yaml"
    text = re.sub(
        r"^threads: \d+",
        f"threads: {threads}",
        path.read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
    files.write_text(path, text)
    print(f"--- {name}", flush=True)
    reproduce.run_pipeline(copy, "sample", time.time())
    return copy


def differing(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Paths that only one side has, or whose bytes differ."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def metrics_of(copy: Path) -> dict:
    return json.loads((copy / "results" / "sample" / "metrics.json").read_text())["metrics"]


def compare(folder: Path, threads: list[int]) -> dict:
    """Run all clones; the metrics for the record, with the names of what differs."""
    with reproduce._only_one(folder / ".reproduce"):
        copies = {
            (n, turn): run(folder, f"threads-{n}-{turn}", n) for n in threads for turn in "ab"
        }
    found = {key: outputs(copy) for key, copy in copies.items()}
    differ = {n: differing(found[n, "a"], found[n, "b"]) for n in threads}
    compared = sum(len(found[n, "a"].keys() | found[n, "b"].keys()) for n in threads)
    identical = compared - sum(map(len, differ.values()))
    what = "output files of two runs of every stage in separate clones"
    written = {
        "compared_files": record.metric(compared, n=len(copies), what=what, headline=True),
        "identical_files": record.metric(
            identical, n=compared, what=f"{what}: equal byte by byte", headline=True
        ),
    }
    off = {}
    for one, other in itertools.pairwise(threads):
        first, second = (metrics_of(copies[n, "a"]) for n in (one, other))
        off[f"{one} against {other}"] = outside_band(first, second, exact=False)
        same = len(found[one, "a"]) - len(differing(found[one, "a"], found[other, "a"]))
        text = f"output files that are equal with {one} and {other} threads; nothing promises it"
        written[f"files_equal_with_{one}_and_{other}_threads"] = record.metric(
            same, n=len(found[one, "a"]), what=text
        )
        text = f"metrics whose value with {other} threads leaves the band around that with {one}"
        count = len(off[f"{one} against {other}"])
        written[f"metrics_off_with_{one}_and_{other}_threads"] = record.metric(
            count, n=len(first), what=text
        )
    return {
        "metrics": written,
        "differ": {str(n): names for n, names in differ.items()},
        "off_band": off,
    }


def main(arguments: list[str], folder: Path | None = None) -> int:
    """0 when every promised byte is equal and no metric leaves its band."""
    folder = folder or params.root()
    threads = [int(word) for word in arguments] or [
        params.load("sample", folder / "params.yaml").threads
    ]
    try:
        found = compare(folder, threads)
    except (params.UserError, OSError) as error:
        print(f"twice: {error}", file=sys.stderr)
        return 1
    how = {"device": "cpu", "threads": threads}
    recording.write("twice", run=how, folder=folder / "benchmarks", **found)
    for name, entry in found["metrics"].items():
        print(f"{name}: {entry['value']} of {entry['n']}")
    print("differ:", found["differ"], "outside their band:", found["off_band"])
    return int(any(found["differ"].values()) or any(found["off_band"].values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
