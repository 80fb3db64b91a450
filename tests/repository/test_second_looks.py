"""Each refutation again, by an independent path (tests/second_looks.py)."""

import pytest
from second_looks import LOOKS

from lib.common import claims

SAMPLE = claims.read_metrics("sample")
BEST = claims.read_best()
LEDGER = {claim.id: claim for claim in claims.load_ledger()}


def recorded(name: str) -> float:
    """What the claim's study recorded, in the sample where it measures the claim: most looks use what ships."""
    metric = LEDGER[name].metric
    if LOOKS[name].profile == "full":
        return BEST[metric]["value"]
    return SAMPLE.get(metric, BEST.get(metric))["value"]


@pytest.mark.parametrize("name", sorted(LOOKS))
def test_a_second_look_finds_the_same(name):
    low, high = LEDGER[name].rule.bounds()
    found = LOOKS[name].measure()
    assert not low <= found <= high, f"{found} lies in the announced range"
    first = recorded(name)
    assert (found < low) == (first < low), f"{found} and {first} lie on different sides"
    assert abs(found - first) <= LOOKS[name].within, f"{found}, recorded {first}"


def test_every_refuted_claim_has_a_second_look():
    refuted = {v.claim.id for v in claims.announced(claims.judge_all(BEST)) if claims.is_refuted(v)}
    assert refuted - LOOKS.keys() == set()


def test_a_second_look_that_finds_another_number_would_be_noticed():
    """The tolerance of no look is so wide that the announced range lies within it."""
    for name, look in LOOKS.items():
        low, high = LEDGER[name].rule.bounds()
        first = recorded(name)
        distance = min(abs(first - end) for end in (low, high))
        assert look.within < distance or look.within == 0, name
