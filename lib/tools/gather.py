"""Collect what the studies and the benchmarks wrote: `python -m lib gather PROFILE`.

| file in results/<profile> | for |
|---|---|
| metrics.json | everything: each metric with n, spread and band, and the record of the run that made it |
| headline.json | readers and checks: the headline numbers, name -> value |
| summary.json | `dvc metrics show`: a handful of them under short names, which fit on a line |
| verdicts.md | readers: every claim, what was measured and the verdict |
| claims.json | programs: the same as data, by docs/claims.schema.json |
"""

import json
import math
from pathlib import Path
from typing import Any

from lib.common import claims, files, params
from lib.tools.ledger import as_data

# Of summary.json: short name -> metric.
SUMMARY = {
    "supported": "claims_supported",
    "refuted": "claims_refuted",
    "announced_dB": "announced_mixture_psnr_db",
    "ours_dB": "mixture_psnr_db",
    "em_dB_10": "em_psnr_db_10",
    "em_dB_20": "em_psnr_db_20",
    "alice_bpc": "attention_bpc_alice",
    "over_lstm_bpc": "attention_minus_lstm_bpc",
}


def gather(profile: str, folder: Path | None = None) -> dict[str, Any]:
    """Merge the records of the studies and the benchmarks, judge every claim, and write the files above.

    Args:
        folder: the project's root; given by tests.

    Returns:
        All metrics, name -> entry; each entry also names its study and the profile that it was measured on.

    Raises:
        UserError: a file is not a study's record, or two studies write the same metric. Then nothing is written.
    """
    folder = folder or params.root()
    target = folder / "results" / profile
    metrics, runs = merge(folder, profile)
    ledger = claims.load_ledger(folder / "claims.yaml")
    # The full profile is run study by study, on several days.
    verdicts = claims.judge_all(metrics, ledger, complete=profile != "full")
    metrics |= claims.tally_metrics(verdicts)

    values = {name: entry["value"] for name, entry in metrics.items()}
    headline = {name: values[name] for name in metrics if metrics[name].get("headline")}
    summary = {short: values[name] for short, name in SUMMARY.items() if name in values}
    everything = {"profile": profile, "metrics": metrics, "runs": runs}

    files.write_json(target / "metrics.json", everything)
    files.write_json(target / "headline.json", headline)
    files.write_json(target / "summary.json", summary)
    files.write_json(target / "claims.json", as_data(verdicts, metrics, runs))
    files.write_text(target / "verdicts.md", claims.verdict_page(verdicts, metrics) + "\n")
    return metrics


def merge(folder: Path, profile: str) -> tuple[dict[str, dict], dict[str, dict]]:
    """The metrics of all records, name -> entry, and the runs that made them, study -> run."""
    studies = sorted((folder / "results" / profile).glob("*/metrics.json"))
    benchmarks = records(folder / "benchmarks")
    metrics: dict[str, dict] = {}
    runs: dict[str, dict] = {}
    for path in [*studies, *benchmarks]:
        record, place = read_study(path), path.relative_to(folder)
        study = record["study"]
        twice = sorted(metrics.keys() & record["metrics"].keys())
        if twice:
            raise params.UserError(f"{place}: another study already measures {', '.join(twice)}")
        if study in runs:
            raise params.UserError(f"{place}: study {study!r} already has a record in another file")
        origin = {"study": study, "profile": "benchmark" if path in benchmarks else profile}
        for name, entry in record["metrics"].items():
            metrics[name] = {**entry, **origin}
        runs[study] = record["run"]
    return metrics, runs


def records(folder: Path) -> list[Path]:
    """The records in a folder, without the hidden partial ones that a killed writer left (see `files.atomic`)."""
    return sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))


def read_study(path: Path) -> dict[str, Any]:
    """A record that `Record.write` wrote. Raises UserError: it is broken, or a metric lacks its value or n."""
    try:
        study = json.loads(path.read_text(encoding="utf-8"))
        complete = {"study", "run"} <= study.keys()
        for entry in study["metrics"].values():
            complete = complete and math.isfinite(entry["value"]) and entry["n"] >= 1
    except (ValueError, KeyError, AttributeError, TypeError):
        complete = False
    if not complete:
        place = f"{path.parent.name}/{path.name}"
        raise params.UserError(
            f"{place}: not a study's metrics; run the stage that writes it again"
        )
    return study
