"""One training run on two processes beside the same run on one: `python benchmarks/processes.py` (four minutes).

Both are the command that the pipeline calls, `python -m lib train mixture`, on the shipped images and on a copy of
params.yaml with fewer of them; `torchrun` joins the two processes over gloo. Writes benchmarks/processes.json: the
largest difference of a step's loss in the first steps and over a whole epoch, without and with products in bfloat16.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import recording
from recording import ROOT

from lib.common import files, record

ARMS = "announced", "ours", "ours_committed"
HORIZONS = (
    5,
    10,
    20,
    None,
)  # steps looked at: rounding tells the two apart at first, then training amplifies it
TORCHRUN = "-m", "torch.distributed.run", "--standalone", "--no-python"


def project(folder: Path, bf16: bool, images: int) -> Path:
    """A copy of the project that trains on few images, one epoch, and logs every step."""
    folder.mkdir()
    shutil.copytree(ROOT / "lib", folder / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "data").symlink_to(ROOT / "data")
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    for key, value in {
        "train_images": images,
        "epochs": 1,
        "log_every": 1,
        "val_images": 8,
    }.items():
        text = re.sub(rf"^(    {key}:).*", rf"\1 {value}", text, flags=re.MULTILINE)
    files.write_text(
        folder / "params.yaml",
        re.sub(r"^(    bf16:).*", rf"\1 {str(bf16).lower()}", text, flags=re.M),
    )
    return folder


def trained(folder: Path, arm: str, processes: int) -> list[dict]:
    """The log lines of a training of `arm` on so many processes, one for each step."""
    out = folder / "runs" / f"{arm}-{processes}"
    start = (
        [sys.executable, *TORCHRUN, f"--nproc_per_node={processes}", "--"] if processes > 1 else []
    )
    command = [
        *start,
        sys.executable,
        "-m",
        "lib",
        "train",
        "mixture",
        "--arm",
        arm,
        "--profile",
        "sample",
        "--out",
        out,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{arm} on {processes} processes: {done.stderr[-2000:]}")
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def differences(folder: Path, arm: str) -> list[float]:
    """|loss on two processes - loss on one| for each step."""
    one, two = (trained(folder, arm, processes) for processes in (1, 2))
    return [abs(a["loss"] - b["loss"]) for a, b in zip(one, two, strict=True)]


def main() -> None:
    metrics = {}
    with tempfile.TemporaryDirectory() as folder:
        for bf16 in (False, True):
            copy = project(Path(folder) / f"bf16-{bf16}", bf16, images=2560)
            found = {
                arm: differences(copy, arm) for arm in ARMS if not (bf16 and arm == "announced")
            }
            how = f"{'products in bfloat16' if bf16 else '32-bit floats'}: {', '.join(found)}"
            for steps in HORIZONS:
                chosen = [value for values in found.values() for value in values[:steps]]
                when = (
                    f"first {steps} steps"
                    if steps
                    else f"{min(map(len, found.values()))} steps or more"
                )
                what = f"largest difference of a step's loss on two processes and on one, {when}, {how}"
                tail = ("_bf16" if bf16 else "") + {HORIZONS[0]: "", None: "_long"}.get(
                    steps, f"_{steps}"
                )
                entry = record.metric(max(chosen), n=len(chosen), what=what, headline=tail == "")
                metrics[f"ddp_loss_difference{tail}"] = entry
    for name, entry in metrics.items():
        print(f"{name} {entry['value']:.2g}: {entry['what']}")
    recording.write("processes", metrics, {"device": "cpu", "cores": os.cpu_count()})


if __name__ == "__main__":
    main()
