"""The judge of a router: what it is worth over routes of other kinds, and over static networks, at equal operations.

Two questions that must not be confused. Against random routes of the same shares the router shows that it knows something; the
worse the cheap members, the easier that is. Against the static frontier, networks of other sizes that were trained alone and do
everything, it shows that a bank with a router is worth having.

Shapes: N images, K members of the bank, F networks of the static frontier, R x S cells of a photograph.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lib.mixture import allocate, bank, regions, router
from lib.mixture.bank import Size
from lib.mixture.router import Router

SEEN = {"learned": None, "level": router.LEVEL, "gradient": router.GRADIENT}
GOLDEN = 0.6180339887  # steps of the golden ratio spread anything evenly


class Frontier(NamedTuple):
    """Static networks on the same images: PSNR (N, F), and multiply-adds of an image (F,), in rising order."""

    psnr: np.ndarray
    costs: np.ndarray

    def at(self, spent: float) -> np.ndarray:
        """PSNR (N,) at `spent` operations: linear in their logarithm between neighbouring networks."""
        place = float(np.interp(math.log(spent), np.log(self.costs), np.arange(len(self.costs))))
        left = min(int(place), len(self.costs) - 2)
        share = place - left
        return (1 - share) * self.psnr[:, left] + share * self.psnr[:, left + 1]


class Judged(NamedTuple):
    """One budget. psnr: rule -> (N,), or a number for a photograph; spent: multiply-adds an image, all included."""

    psnr: dict
    plan: np.ndarray
    spent: float


def routers(found: Tensor, errors: Tensor, seed: int) -> dict[str, Router]:
    """The learned router and those that see the level or the edges only, from the same features (N, F) and errors (N, K)."""
    return {name: router.fit(found, errors, seed, seen) for name, seen in SEEN.items()}


def decibels(errors: np.ndarray) -> np.ndarray:
    """PSNR of mean squared errors, any shape."""
    return -10 * np.log10(np.maximum(errors, 1e-10))


def costs_of(sizes: list[Size]) -> np.ndarray:
    """Multiply-adds of each member for an image of 32 pixels. (K,) float64"""
    return np.array([bank.operations(size, 32, 32) for size in sizes], dtype=np.float64)


def judge_images(
    fitted: dict[str, Router], found: Tensor, errors: Tensor, sizes: list[Size], frontier: Frontier,
    budget: float,
) -> Judged:  # fmt: skip
    """Small images, one member each.

    Args:
        fitted: from `routers`; found: features (N, F); errors: measured (N, K).
        budget: mean multiply-adds of an image, the router's included.
    """
    rows = np.arange(len(errors))
    psnr = decibels(errors.double().numpy())  # (N, K)
    costs = torch.from_numpy(costs_of(sizes))
    routing = router.operations(len(sizes))
    predicted = {"oracle": errors.clamp_min(1e-10).log()}
    with torch.no_grad():
        for name, one in fitted.items():
            predicted[name] = one(found)
    plans = {}
    for name, logarithms in predicted.items():
        plans[name] = allocate.allocate(logarithms.double(), costs, budget - routing).numpy()
    plan = plans["learned"]
    values = {name: psnr[rows, chosen] for name, chosen in plans.items()}
    shares = np.bincount(plan, minlength=len(sizes)) / len(plan)
    values["random"] = psnr @ shares  # the expected value over all random orders, image by image
    turns = np.argsort(np.argsort(rows * GOLDEN % 1))
    values["fixed"] = psnr[rows, np.sort(plan)[turns]]
    spent = float(costs.numpy()[plan].mean()) + routing
    values["static"] = frontier.at(spent)
    return Judged(values, plan, spent)


def judge_cells(
    predicted: dict[str, np.ndarray], errors: np.ndarray, sizes: list[Size], frontier: Frontier,
    height: int, width: int, budget: float, seed: int,
) -> Judged:  # fmt: skip
    """A photograph, one member a cell; every rule pays for its own halos.

    Args:
        predicted: sums of squared errors (R, S, K) that "learned" and other rules predict.
        errors: measured sums of squared errors (R, S, K); a routed result equals each member's own inside its cells.
        budget: multiply-adds for the photograph, the router's included. seed: of the random rule.
    """
    members = len(sizes)
    cells = predicted["learned"].reshape(-1, members)
    shuffled = np.random.default_rng(seed).permutation(len(cells))
    rules = dict(predicted)
    rules["oracle"] = errors
    rules["random"] = cells[shuffled].reshape(errors.shape)
    rules["fixed"] = np.roll(cells, len(cells) // 2, axis=0).reshape(errors.shape)
    values, plans, spent = {}, {}, {}
    pixels = 3 * height * width
    routing = router.operations(members) * height * width / router.UNIT**2
    for name, expected in rules.items():
        plans[name] = regions.plan_for(expected, sizes, height, width, budget - routing)
        chosen = np.take_along_axis(errors, plans[name][..., None], axis=2)
        values[name] = float(decibels(chosen.sum() / pixels))
        areas = regions.rectangles(plans[name], height, width)
        spent[name] = regions.operations(areas, sizes, height, width) + routing
    values["static"] = float(frontier.at(spent["learned"])[0])
    return Judged(values, plans["learned"], spent["learned"])


def saved(psnr: float, spent: float, alone: np.ndarray, costs: np.ndarray) -> float:
    """Share of the operations (or milliseconds) that a static network of the same PSNR would need beyond `spent`.

    alone (K,) and costs (K,) are those of the static networks; beyond the best of them, its cost counts.
    """
    climbing = np.maximum.accumulate(alone)
    same = math.exp(float(np.interp(psnr, climbing, np.log(costs))))
    return 1 - spent / same
