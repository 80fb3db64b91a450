"""What the benchmarks share: the project on Python's path, and the writing of a record.

A script imports it first; then `lib` can be imported, wherever the script is started from.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks"
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from lib.common import files, machine
from lib.common.params import UserError


def metrics_of(study: str) -> dict:
    """The metrics that the last run of `study` wrote; none if there was none."""
    path = FOLDER / f"{study}.json"
    return json.loads(path.read_text(encoding="utf-8"))["metrics"] if path.is_file() else {}


def write(study: str, metrics: dict, run: dict, folder: Path = FOLDER, **more) -> Path:
    """Write <folder>/<study>.json and return its path.

    Args:
        metrics: entries of `lib.common.record.metric` by name.
        run: what the script knows of its run: device, seed, threads; the machine is added.
        more: further top-level keys, such as the single values behind a mean.
    """
    path = folder / f"{study}.json"
    content = {"study": study, "metrics": metrics, "run": {**run, **machine.environment()}}
    files.write_json(path, content | more)
    return path


def run(main: Callable[[], int | None]) -> None:
    """Run a script's `main`; what its user got wrong, or has not made yet, is one line on stderr."""
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
