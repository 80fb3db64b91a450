"""How many refutations were derived a second time: `python benchmarks/second_looks.py`, a minute of one core.

The looks stand in tests/second_looks.py: other code, on the shipped data and on saved outputs. Counted is a refuted claim
whose second look falls outside the announced range on the same side; the tests also hold it near the recorded value.
"""

import sys

import recording

sys.path.insert(0, str(recording.ROOT / "tests"))
from second_looks import LOOKS

from lib.common import claims, record


def main() -> None:
    metrics = claims.read_best()
    verdicts = claims.announced(claims.judge_all(metrics))
    refuted = [v for v in verdicts if claims.is_refuted(v)]
    agree = 0
    for verdict in refuted:
        look = LOOKS.get(verdict.claim.id)
        if look is None:
            print(f"{verdict.claim.id}: no second look")
            continue
        low, high = verdict.claim.rule.bounds()
        found, first = look.measure(), verdict.entry["value"]
        same_side = (found < low) == (first < low) and not low <= found <= high
        agree += same_side
        print(f"{verdict.claim.id}: {first:.5g}, again {found:.5g}")
    entry = record.metric(
        agree,
        n=len(refuted),
        what="refuted claims whose second derivation agrees",
        headline=True,
    )
    path = recording.write("second_looks", {"claims_second_looks": entry}, {"device": "cpu"})
    print(f"{agree} of {len(refuted)} agree; wrote {path}")


if __name__ == "__main__":
    recording.run(main)
