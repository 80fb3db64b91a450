"""What stands behind a number: its spread, its interval, and the record of the run that made it.

Intervals are 95 % percentile bootstrap (Efron and Tibshirani 1993); blocks for series whose neighbours depend on
each other (Künsch 1989). Every resampling takes its seed as an argument.
"""

import hashlib
import importlib.metadata
import platform
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lib import files, params

LEVEL = 0.95
PACKAGES = ("numpy", "scipy", "scikit-image", "numba", "torch", "tensorflow", "keras")
MODULES = {"scikit-image": "skimage"}


class Interval(NamedTuple):
    """A mean with its 95 % interval [low, high], number of cases n and their standard deviation sd."""

    mean: float
    low: float
    high: float
    n: int
    sd: float


def bootstrap_mean(values: np.ndarray, seed: int = 0, n_boot: int = 2000) -> Interval:
    """Mean of independent cases (one number per image, per seed ...) with its bootstrap interval.

    Args:
        values: (N,) finite numbers, N >= 2.

    Raises:
        ValueError: fewer than two values, or one that is not finite.
    """
    return block_bootstrap(values, np.ones(len(values)), block=1, seed=seed, n_boot=n_boot)


def paired_difference(a: np.ndarray, b: np.ndarray, seed: int = 0, n_boot: int = 2000) -> Interval:
    """Mean of a - b over the same cases, (N,) each, with its bootstrap interval."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        raise ValueError(f"paired values must have equal shapes, found {a.shape} and {b.shape}")
    return bootstrap_mean(a - b, seed, n_boot)


def block_bootstrap(values: np.ndarray, weights: np.ndarray, block: int, seed: int = 0, n_boot: int = 2000) -> Interval:
    """Weighted mean sum(values) / sum(weights) of a series, resampled in contiguous blocks.

    Args:
        values, weights: (N,); with unit weights and block 1 this is the ordinary bootstrap of the mean. For bits
            per character: bits of each token, and its characters. Weights are positive.
        block: length of a block in cases, less than N; the last one may be shorter.

    Raises:
        ValueError: fewer than two values or blocks, one that is not finite, or a weight that is not positive.
    """
    values, weights = np.asarray(values, float), np.asarray(weights, float)
    if values.ndim != 1 or values.shape != weights.shape or len(values) < 2:
        raise ValueError(f"at least two values are needed, (N,) and (N,); found {values.shape}, {weights.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"values must be finite; {np.sum(~np.isfinite(values))} of {len(values)} are not")
    if not (np.isfinite(weights) & (weights > 0)).all():
        raise ValueError("weights must be positive and finite")
    if not 1 <= block < len(values):
        raise ValueError(f"block must lie in 1 to {len(values) - 1} for {len(values)} values, found {block}")
    starts = np.arange(0, len(values), block)
    sums, masses = np.add.reduceat(values, starts), np.add.reduceat(weights, starts)  # (M,), M blocks
    rng = np.random.default_rng(seed)
    means = np.empty(n_boot)
    for i in range(n_boot):
        drawn = rng.integers(len(starts), size=len(starts))
        means[i] = sums[drawn].sum() / masses[drawn].sum()
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    mean = values.sum() / weights.sum()
    return Interval(float(mean), float(low), float(high), len(values), float(np.std(values / weights, ddof=1)))


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
    entry = {"value": value, "unit": unit, "what": what, "n": n, "sd": sd, "low": low, "high": high, "band": band}
    entry |= {"headline": True} if headline else {}
    return {key: _plain(item) for key, item in entry.items() if item is not None}


def write_metrics(path: Path | str, study: str, metrics: dict, *, profile: str, seed: int, device: str, threads: int):
    """Write a study's metrics as JSON, with the record of the run that made them."""
    for name, entry in metrics.items():
        if "n" not in entry:
            raise ValueError(f"metric {name!r} of {study} has no n: say how many cases stand behind it")
    run = {"profile": profile, "seed": seed, "device": device, "threads": threads, **environment()}
    files.write_json(path, {"study": study, "metrics": metrics, "run": {**run, "code": code_hash(study)}})


def environment() -> dict[str, Any]:
    """Processor, Python and the versions of the numerical packages that this process has loaded."""
    versions = {name: _version(name) for name in PACKAGES if MODULES.get(name, name) in sys.modules}
    return {"processor": processor(), "python": platform.python_version(), "versions": versions}


def processor() -> str:
    """The processor's model and the vector extensions that decide which kernels a library picks."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}".strip()
    facts = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    flags = set(facts.get("flags", "").split())
    vector = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile") if flag in flags]
    numbers = [facts[key] for key in ("cpu family", "model", "stepping") if key in facts]
    return " ".join([facts.get("model name", platform.machine()), "/".join(numbers), *vector])


def code_hash(study: str) -> str:
    """One hash over the notebook `study` and every module of lib that this process has loaded."""
    folder = params.root()
    used = {Path(m.__file__) for name, m in sys.modules.items() if name.split(".")[0] == "lib" and m.__file__}
    used.add(folder / "notebooks" / f"{study}.ipynb")
    digest = hashlib.sha256()
    for path in sorted(path for path in used if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()} {files.sha256(path)}\n".encode())
    return digest.hexdigest()[:16]


def _version(name: str) -> str:
    for distribution in (name, f"{name}-cpu"):  # TensorFlow for the CPU alone goes by another name
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"


def _plain(item: Any) -> Any:
    return item.item() if isinstance(item, np.generic) else item
