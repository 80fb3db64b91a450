"""What a study measured, and the record of the run that measured it."""

from pathlib import Path
from typing import Any

import numpy as np

from lib.common import files, machine
from lib.common.intervals import Interval


def metric(
    value: float | Interval,
    *,
    unit: str = "",
    what: str = "",
    n: int | None = None,
    sd: float | None = None,
    low: float | None = None,
    high: float | None = None,
    band: float = 0.0,
    headline: bool = False,
) -> dict[str, Any]:
    """One entry of a study's metrics.

    Args:
        value: the number, or an Interval that also fills n, sd, low, high.
        unit, what: for readers ("dB", "PSNR of ...").
        n: the number of cases behind it.
        band: how far the value may be off, in its unit, on another processor, number of threads or version; 0 for
            what must be equal everywhere.
        headline: also stands in `headline.json`, the short list that readers and checks look at.
    """
    if isinstance(value, Interval):
        value, low, high, n, sd = value
    entry = {
        "value": value,
        "unit": unit,
        "what": what,
        "n": n,
        "sd": sd,
        "low": low,
        "high": high,
        "band": band,
    }
    entry |= {"headline": True} if headline else {}
    return {key: _plain(item) for key, item in entry.items() if item is not None}


def write_metrics(
    path: Path | str,
    study: str,
    metrics: dict,
    *,
    profile: str,
    seed: int,
    device: str,
    threads: int,
):
    """Write a study's metrics as JSON, with the record of the run that made them."""
    for name, entry in metrics.items():
        if "n" not in entry:
            raise ValueError(
                f"metric {name!r} of {study} has no n: say how many cases stand behind it"
            )
    run = {
        "profile": profile,
        "seed": seed,
        "device": device,
        "threads": threads,
        **machine.environment(),
    }
    files.write_json(
        path, {"study": study, "metrics": metrics, "run": {**run, "code": machine.code_hash(study)}}
    )


def _plain(item: Any) -> Any:
    return item.item() if isinstance(item, np.generic) else item
