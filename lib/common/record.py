"""What a notebook measured: entries with their n, tables for readers, and the record of the run.

record = Record("01_data_verification", profile=profile, seed=seed, threads=threads)
record.add("data_noise_std", interval, what="deviation of the clamped noise", announced="0.18")
record.table()         # last in a cell: quantity | announced | measured | n
record.write(results)  # metrics.json in the notebook's folder
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from lib.common import files, machine, tables
from lib.common.intervals import Interval


class Record:
    """The record of one run of one notebook, filled by `add`, shown by `table`, saved by `write`.

    Args:
        study: the notebook's name without suffix.
        profile, seed, threads, device: how it ran; they are saved beside the numbers.
    """

    def __init__(
        self, study: str, *, profile: str, seed: int, threads: int, device: str = "cpu"
    ) -> None:
        self.study = study
        self.run = {"profile": profile, "seed": seed, "device": device, "threads": threads}
        self.metrics: dict[str, dict[str, Any]] = {}
        self._waiting: list[tuple[str, str, dict]] = []  # rows of the next table

    def add(
        self,
        name: str,
        value: float | Interval,
        *,
        what: str = "",
        unit: str = "",
        n: int | None = None,
        sd: float | None = None,
        low: float | None = None,
        high: float | None = None,
        band: float = 0.0,
        headline: bool = False,
        announced: str | float | tuple[float, float] | None = None,
        label: str | None = None,
        show: bool = True,
    ) -> None:
        """Add one measured number.

        Args:
            name: its key; claims.yaml and other notebooks find it by this name.
            value: the number, or an Interval that also brings low, high, n and sd.
            what, unit: what readers see: "deviation of the clamped noise", "dB".
            n: the number of cases behind it.
            band: how far it may be off, in its unit, on another processor, number of threads or version; 0 for what
                must be equal everywhere.
            headline: also stands in `headline.json`, the short list that readers and checks look at.
            announced: what was announced: text, a number, or a range (low, high). Shown in the table only.
            label: what the table says in place of `what`. Shown in the table only.
            show: False keeps it out of the tables.

        Raises:
            ValueError: the name is taken, n is missing, or a number is not finite.
        """
        entry = metric(
            value,
            unit=unit,
            what=what,
            n=n,
            sd=sd,
            low=low,
            high=high,
            band=band,
            headline=headline,
        )
        if name in self.metrics:
            raise ValueError(f"metric {name!r} of {self.study} is there already")
        _check(name, entry, self.study)
        self.metrics[name] = entry
        if show:
            text = "" if announced is None else announced_text(announced, unit)
            self._waiting.append((label or what or name, text, entry))

    def add_with_ends(self, name: str, value: Interval, **options: Any) -> None:
        """Add an interval and, as numbers of their own, its two ends: `name`, `name_low`, `name_high`.

        Claims about an end of an interval need it under a name. The options are those of `add`; the ends are in no
        table, since the interval shows them.
        """
        self.add(name, value, **options)
        hidden = {**options, "n": value.n, "show": False}
        self.add(f"{name}_low", value.low, **hidden)
        self.add(f"{name}_high", value.high, **hidden)

    def __getitem__(self, name: str) -> dict[str, Any]:
        """The entry of a metric: its "value", and "low" and "high" where it has an interval."""
        return self.metrics[name]

    def table(self) -> tables.Table:
        """What was added since the last table: quantity, announced (where any row has it), measured, n.

        Raises:
            ValueError: nothing was added since.
        """
        if not self._waiting:
            raise ValueError(f"nothing was added to {self.study} since its last table")
        rows = []
        for quantity, announced, entry in self._waiting:
            rows.append([quantity, announced, tables.measured(entry), f"{entry['n']:,}"])
        self._waiting = []
        if any(announced for _, announced, _, _ in rows):
            return tables.Table(["quantity", "announced", "measured", "n"], rows)
        return tables.Table(
            ["quantity", "measured", "n"], [[quantity, value, n] for quantity, _, value, n in rows]
        )

    def write(self, folder: Path | str, name: str = "metrics.json") -> None:
        """Write `<folder>/<name>`: the metrics, how the notebook ran, on what machine, and a hash of its code."""
        write_metrics(Path(folder) / name, self.study, self.metrics, **self.run)


def check(claims: dict[str, bool]) -> tables.Table:
    """The table of a notebook's checked claims. AssertionError names those that do not hold."""
    failed = [text for text, holds in claims.items() if not holds]
    if failed:
        raise AssertionError(f"does not hold: {'; '.join(failed)}")
    return tables.Table(["checked", "holds"], [[text, "yes"] for text in claims])


def announced_text(announced: str | float | tuple[float, float], unit: str = "") -> str:
    """An announced value as the table shows it: text as it is, a number or a range with its unit."""
    if isinstance(announced, str):
        return announced
    numbers = announced if isinstance(announced, tuple) else (announced,)
    text = " to ".join(f"{number:,}" for number in numbers)
    return f"{text} {unit}" if unit else text


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
    """One entry as it is saved; the arguments are those of `Record.add`. Benchmarks use it directly."""
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
    if headline:
        entry["headline"] = True
    return {key: _plain(item) for key, item in entry.items() if item is not None}


def write_metrics(
    path: Path | str,
    study: str,
    metrics: dict[str, dict],
    *,
    profile: str,
    seed: int,
    device: str,
    threads: int,
) -> None:
    """Write metrics as JSON, with the record of the run that made them. ValueError: one without n."""
    for name, entry in metrics.items():
        _check(name, entry, study)
    run = {
        "profile": profile,
        "seed": seed,
        "device": device,
        "threads": threads,
        **machine.environment(),
        "code": machine.code_hash(study),
    }
    files.write_json(path, {"study": study, "metrics": metrics, "run": run})


def _check(name: str, entry: dict[str, Any], study: str) -> None:
    if "n" not in entry:
        raise ValueError(f"metric {name!r} of {study} has no n: say how many cases stand behind it")
    for key in ("value", "low", "high", "sd"):
        if key in entry and not math.isfinite(entry[key]):
            raise ValueError(
                f"metric {name!r} of {study}: {key} is {entry[key]}, not a finite number"
            )


def _plain(item: Any) -> Any:
    """A NumPy number as Python's own, which JSON can hold."""
    return item.item() if isinstance(item, np.generic) else item
