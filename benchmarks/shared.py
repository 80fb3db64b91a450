"""What the benchmarks share: the root of the project on the path, and the writing of a record.

Scripts import it first (`import shared`): it makes `lib` importable, wherever they are started from.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from lib.common import files, machine

FOLDER = ROOT / "benchmarks"


def known_metrics(study: str) -> dict:
    """The metrics that the last run of `study` wrote; none if there was none."""
    path = FOLDER / f"{study}.json"
    return json.loads(path.read_text(encoding="utf-8"))["metrics"] if path.is_file() else {}


def write_record(study: str, metrics: dict, run: dict, **more) -> Path:
    """Write benchmarks/<study>.json: the metrics, the run with its machine, and what else a reader may want.

    Args:
        metrics: entries of `lib.common.record.metric` by name.
        run: what the script knows of its run: device, seed, threads.
        more: further top-level keys, such as the single values behind a mean.
    """
    path = FOLDER / f"{study}.json"
    content = {"study": study, "metrics": metrics, "run": {**run, **machine.environment()}}
    files.write_json(path, content | more)
    return path
