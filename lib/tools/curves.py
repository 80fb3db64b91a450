"""Small series for `dvc plots show`: `python -m lib curves PROFILE` writes them into results/<profile>/curves.

| file | a row for each | columns |
|---|---|---|
| mixture.csv | validation in a training | run, step, psnr_db |
| language.csv | hundredth of a training | run, share of its CPU seconds, bits per character in it |
| growth.csv | length of a training | run, cpu_seconds, psnr_db on 10,000 test images |

A training writes no time, so that its bytes repeat. The two networks of the language race take equal CPU seconds, so
a share of the steps is a share of the same seconds. growth.csv has the seconds that benchmarks recorded.
"""

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from lib.common import files, weights

PARTS = 100  # rows for each training in language.csv


def write_curves(folder: Path, profile: str) -> Path:
    """Write the three files of a profile from its trainings and the benchmarks.

    Args:
        folder: the project's root.

    Returns:
        The folder that they are in.
    """
    target, runs = folder / "results" / profile / "curves", folder / "runs" / profile
    write_csv(target / "mixture.csv", ("run", "step", "psnr_db"), mixture_rows(runs / "mixture"))
    write_csv(target / "language.csv", ("run", "share", "bpc"), language_rows(runs / "language"))
    growth = ("run", "cpu_seconds", "psnr_db")
    write_csv(target / "growth.csv", growth, growth_rows(folder / "benchmarks"))
    return target


def mixture_rows(runs: Path) -> Iterable[tuple]:
    """(run, step, mean PSNR of the validation images in dB), a row for each time that a training looked."""
    for record in sorted(runs.glob("*/record.json")):
        for step, psnr in json.loads(record.read_text(encoding="utf-8"))["val_psnr"]:
            yield record.parent.name, step, round(psnr, 4)


def language_rows(runs: Path) -> Iterable[tuple]:
    """(run, share of the CPU seconds, mean bits per character in that hundredth of the steps)."""
    for place in sorted(runs.glob("*/prices.safetensors")):
        losses = weights.load(place).arrays["losses"] / math.log(2)  # (S,), bits per character
        parts = np.array_split(losses, min(PARTS, len(losses)))
        for number, part in enumerate(parts, start=1):
            yield place.parent.name, round(number / len(parts), 4), round(float(part.mean()), 4)


def growth_rows(benchmarks: Path) -> Iterable[tuple]:
    """(network, CPU seconds of its training, PSNR in dB) after three and six times the epochs of the full profile."""
    grown = read_values(benchmarks / "mixture_growth.json")
    for network in ("ours", "unet"):
        for times in (3, 6):
            name = f"growth_{network}_{times}x"
            yield network, round(grown[f"{name}_cpu_s"]), round(grown[f"{name}_psnr_db"], 4)


def read_values(path: Path) -> dict[str, float]:
    """The values of a benchmark's record, by name."""
    metrics = json.loads(path.read_text(encoding="utf-8"))["metrics"]
    return {name: entry["value"] for name, entry in metrics.items()}


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[tuple]) -> None:
    """A table as CSV, whole or absent."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    files.write_text(path, text.getvalue())
