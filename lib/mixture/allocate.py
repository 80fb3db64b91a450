"""From predicted errors to a plan: each unit takes the member of least predicted error + lambda x cost.

One lambda holds for all units, so the last operation spent anywhere brings the same; a budget is met by bisection.

Shapes: U units, K members.
"""

import torch
from torch import Tensor

ROUNDS = 40  # of the bisection


def choose(errors: Tensor, costs: Tensor, price: float) -> Tensor:
    """The member of each unit: argmin of error + price x cost. (U, K), (K,) -> (U,)"""
    return (errors + price * costs).argmin(dim=1)


def allocate(errors: Tensor, costs: Tensor, budget: float) -> Tensor:
    """The best plan whose mean cost is at most `budget`, found by bisection of the price. (U, K), (K,) -> (U,)

    Args:
        errors: predicted, in any unit: their logarithm where the mean PSNR of images counts, the errors themselves where
            units are parts of one image.
        budget: mean cost of a unit, in the unit of `costs`; at least the smallest cost.

    Raises:
        ValueError: not even the cheapest member fits.
    """
    if budget < float(costs.min()) * (1 - 1e-6):
        raise ValueError(f"budget {budget:g} is below the cheapest member, {float(costs.min()):g}")
    free = choose(errors, costs, 0.0)
    if costs[free].mean() <= budget:
        return free
    low, high = 0.0, 1.0
    while costs[choose(errors, costs, high)].mean() > budget:
        high *= 4
    for _ in range(ROUNDS):
        price = (low + high) / 2
        if costs[choose(errors, costs, price)].mean() > budget:
            low = price
        else:
            high = price
    return choose(errors, costs, high)


def shares(plan: Tensor, members: int) -> Tensor:
    """Share of the units that each member has. (U,) -> (K,)"""
    return torch.bincount(plan, minlength=members) / len(plan)
