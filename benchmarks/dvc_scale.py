"""What DVC itself costs as the number of runs grows: `python benchmarks/dvc_scale.py` (CPU minutes, no network).

Each stage writes a file of a few bytes, so that what is measured is DVC: loading the pipeline, running all stages on
one machine, running one stage in a clone (what a machine of a cluster pays for each run), pushing, and collecting
with `dvc repro --pull` in a fresh clone. Seconds are of CPU, of all processes, so that other work on the machine
does not count. Writes benchmarks/dvc_scale.json; docs/machines.md reads it.
"""

import json
import math
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import recording

from lib.common import files, params, record
from lib.tools import reproduce

COUNTS = (10, 100, 1000)
STAGES = """
vars: [runs.yaml]
stages:
  train:
    matrix: {run: "${names}"}
    cmd: mkdir -p runs && echo ${item.run} > runs/${item.run}
    outs: ["runs/${item.run}"]
"""
CONFIG = "[core]\n    analytics = false\n    check_update = false\n    remote = store\n['remote \"store\"']\n    url = ../../store\n"


def project(folder: Path, count: int) -> Path:
    """A committed DVC project of `count` stages, with a remote beside it."""
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc" / "config").write_text(CONFIG)
    (folder / ".dvc" / ".gitignore").write_text("/tmp\n/cache\n")
    (folder / ".gitignore").write_text("/runs\n")
    (folder / "dvc.yaml").write_text(STAGES)
    (folder / "runs.yaml").write_text("names: [" + ", ".join(f"r{i}" for i in range(count)) + "]\n")
    seconds(folder, "git", "init", "-q")
    seconds(folder, "git", "add", "-A")
    seconds(
        folder, "git", "-c", "user.name=b", "-c", "user.email=b@example.org", "commit", "-qm", "all"
    )
    return folder


def seconds(folder: Path, *command: str) -> float:
    """CPU seconds of a command that must succeed, with all that it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    how = {"cwd": folder, "env": reproduce.tool_environment(), "capture_output": True, "text": True}
    run = subprocess.run(command, check=False, **how)
    if run.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {run.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def size(folder: Path) -> int:
    """Bytes on the disk, blocks counted whole."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*"))


def measure(folder: Path, count: int) -> dict[str, float]:
    """CPU seconds and bytes at `count` stages."""
    one = project(folder / "one", count)
    seconds(folder, "git", "clone", "-q", str(one), "single")
    seconds(folder, "git", "clone", "-q", str(one), "collect")
    found = {
        "single_s": seconds(
            folder / "single", "dvc", "repro", "--quiet", "--single-item", "train@r0"
        ),
        "all_s": seconds(one, "dvc", "repro", "--quiet"),
        "status_s": seconds(one, "dvc", "status", "--quiet"),
        "push_s": seconds(one, "dvc", "push", "--quiet", "--run-cache"),
        "collect_s": seconds(folder / "collect", "dvc", "repro", "--quiet", "--pull"),
        "lock_bytes": (one / "dvc.lock").stat().st_size,
        "remote_bytes": size(folder / "store"),
    }
    return found


TEXTS = {
    "single_s": "dvc repro --single-item of one stage in a clone that knows all",
    "all_s": "dvc repro of all stages on one machine",
    "status_s": "dvc status when nothing changed",
    "push_s": "dvc push --run-cache of all",
    "collect_s": "dvc repro --pull in a fresh clone: all restored, none run",
    "lock_bytes": "dvc.lock",
    "remote_bytes": "the remote on its disk, for outputs of a few bytes",
}


def table(record: dict) -> str:
    """The costs for readers, a row each, with the power law through the two largest counts continued to 10,000."""
    counts = record["counts"]
    lines = [
        ["what", *(f"{count:,} stages" for count in counts), "growth", "10,000 stages, on paper"]
    ]
    lines.append(["---"] * len(lines[0]))
    for name, text in TEXTS.items():
        values = [record["metrics"][f"dvc_{name}_{count}"]["value"] for count in counts]
        paper = ["not known from one count", "–"]
        if len(counts) > 1:
            power = math.log(values[-1] / values[-2]) / math.log(counts[-1] / counts[-2])
            paper = [f"n^{power:.2f}", shown(name, values[-1] * (10_000 / counts[-1]) ** power)]
        lines.append([text, *(shown(name, value) for value in values), *paper])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(name: str, value: float) -> str:
    """Seconds or bytes with a unit."""
    return f"{value / 1e3:,.1f} kB" if name.endswith("bytes") else f"{value:,.1f} s"


def page(text: str, record: dict) -> str:
    """docs/machines.md with the table between its markers."""
    filled = f"<!-- begin cost -->\n{table(record)}\n<!-- end cost -->"
    return re.sub(r"<!-- begin cost -->.*<!-- end cost -->", filled, text, flags=re.DOTALL)


def main(counts: list[int]) -> None:
    """Measure every count and write the record, also after each one, since the large ones take minutes."""
    metrics = {}
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "at").mkdir()
            found = measure(Path(folder) / "at", count)
        print(count, found, flush=True)
        for name, value in found.items():
            unit = "B" if name.endswith("bytes") else "CPU s"
            text = f"{TEXTS[name]}, {count:,} stages"
            metrics[f"dvc_{name}_{count}"] = record.metric(value, unit=unit, n=count, what=text)
        measured = [n for n in counts if f"dvc_all_s_{n}" in metrics]
        path = recording.write("dvc_scale", metrics, {"device": "cpu"}, counts=measured)
    where = params.root() / "docs" / "machines.md"
    files.write_text(where, page(where.read_text(encoding="utf-8"), json.loads(path.read_text())))


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or list(COUNTS))
