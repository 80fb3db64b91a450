"""Collect what the studies and the benchmarks wrote: `python -m lib gather PROFILE`.

Makes `results/<profile>/metrics.json` (every metric with n, spread, band, and the record of its run),
`headline.json` (a flat dictionary of the numbers that readers and checks look at) and `verdicts.md`.
"""

import json
import math
from pathlib import Path
from typing import Any

from lib.common import claims, files, params


def gather(profile: str, folder: Path | None = None) -> dict[str, Any]:
    """Merge `results/<profile>/*/metrics.json` and `benchmarks/*.json`.

    Args:
        folder: the project's root; given by tests.

    Raises:
        UserError: a file is not a study's record, or two studies write the same metric.
    """
    folder = folder or params.root()
    target = folder / "results" / profile
    merged: dict[str, dict] = {}
    runs: dict[str, dict] = {}
    for path in [*sorted(target.glob("*/metrics.json")), *records(folder / "benchmarks")]:
        study, place = read_study(path), path.relative_to(folder)
        if twice := sorted(merged.keys() & study["metrics"].keys()):
            raise params.UserError(f"{place}: another study already measures {', '.join(twice)}")
        if study["study"] in runs:
            raise params.UserError(
                f"{place}: study {study['study']!r} already has a record in another file"
            )
        origin = {
            "study": study["study"],
            "profile": "benchmark" if path.parent.name == "benchmarks" else profile,
        }
        merged |= {name: {**entry, **origin} for name, entry in study["metrics"].items()}
        runs[study["study"]] = study["run"]
    # The full profile is run study by study, in several sittings.
    verdicts = claims.judge_all(
        merged, claims.load_ledger(folder / "claims.yaml"), complete=profile != "full"
    )
    merged |= claims.tally_metrics(verdicts)
    page = claims.verdict_page(verdicts)
    headline = {name: entry["value"] for name, entry in merged.items() if entry.get("headline")}
    files.write_json(target / "metrics.json", {"profile": profile, "metrics": merged, "runs": runs})
    files.write_json(target / "headline.json", headline)
    files.write_text(target / "verdicts.md", page + "\n")
    return merged


def records(folder: Path) -> list[Path]:
    """The records in a folder, without the hidden partial ones that a killed writer left (see `files.atomic`)."""
    return sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))


def read_study(path: Path) -> dict[str, Any]:
    """The record that `record.write_metrics` wrote. Raises UserError: it is broken, or a metric lacks value or n."""
    try:
        study = json.loads(path.read_text(encoding="utf-8"))
        complete = all(
            math.isfinite(entry["value"]) and entry["n"] >= 1 for entry in study["metrics"].values()
        )
        if complete and {"study", "run"} <= study.keys():
            return study
    except (ValueError, KeyError, AttributeError, TypeError):
        pass
    raise params.UserError(
        f"{path.parent.name}/{path.name}: not a study's metrics; run the stage that writes it again"
    ) from None
