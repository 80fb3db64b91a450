"""When two results are the same: equal on the machine that made the record, inside their bands on any other.

A record (`metrics.json` of a notebook) names the machine that made it under `run`. The last bits of a result depend
on the processor, the versions, the device and the number of threads, and on nothing else.
"""

from typing import Any

FINGERPRINT = ("processor", "python", "versions", "device", "threads")


def fingerprint(run: dict[str, Any]) -> list:
    """What decides the last bits of a run's results; `gpu` stands in the record of a run that used one."""
    return [*(run[key] for key in FINGERPRINT), run.get("gpu")]


def outside_band(recorded: dict[str, dict], found: dict[str, dict], exact: bool) -> list[str]:
    """Names of the metrics that are missing, new, or off by more than allowed.

    Args:
        recorded: the committed metrics, name -> entry; the bands are theirs.
        found: the metrics of the new run.
        exact: allow nothing, since both were made on the same machine.
    """
    off = sorted(recorded.keys() ^ found.keys())
    for name in sorted(recorded.keys() & found.keys()):
        before, now = recorded[name]["value"], found[name]["value"]
        allowed = 0.0 if exact else recorded[name].get("band", 0.0)
        if not abs(now - before) <= allowed:  # also when one of them is not a number
            off.append(f"{name} {now:.6g} (recorded {before:.6g} ± {allowed:g})")
    return off
