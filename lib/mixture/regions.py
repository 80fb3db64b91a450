"""Photographs of any size: one member for each cell of 64 pixels, cells of one member joined to rectangles, each with its halo.

A rectangle is computed alone, from its pixels and a halo that is just as wide as the member looks (`bank.halo`), so the result
equals what that member gives for the whole image, there: no seam but the change of the member itself. The halo costs
operations, and the plan knows it: a cell's cost depends on what its neighbours have, so the least sum of predicted error and
price x cost is sought by iterated conditional modes (Besag 1986), first all black cells of a chess board, then all white.

Shapes: R x S cells, K members.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lib.mixture import bank
from lib.mixture.bank import Member, Sides, Size

CELL = 64  # pixels; the widest halo, 36 pixels, fits into one cell
SWEEPS = 4  # of the iterated conditional modes
ROUNDS = 16  # of the bisection of the price


class Rectangle(NamedTuple):
    """Some cells of one member, in pixels of the padded image."""

    member: int
    top: int
    left: int
    bottom: int
    right: int


def edges(length: int) -> list[int]:
    """Where cells begin and the last one ends: 0, 64, 128, ..., length; the last cell takes what is left over."""
    count = max(1, length // CELL)
    return [CELL * i for i in range(count)] + [length]


def cell_sums(values: np.ndarray) -> np.ndarray:
    """Sum over every cell of values given for each pixel. (..., H, W) -> (..., R, S)"""
    rows, columns = edges(values.shape[-2])[:-1], edges(values.shape[-1])[:-1]
    return np.add.reduceat(np.add.reduceat(values, rows, axis=-2), columns, axis=-1)


def rectangles(plan: np.ndarray, height: int, width: int) -> list[Rectangle]:
    """Cover a plan (R, S) of members: from each free cell as far right as its member goes, then down by whole rows."""
    rows, columns = edges(height), edges(width)
    free = np.ones(plan.shape, dtype=bool)
    found = []
    for r in range(plan.shape[0]):
        for s in range(plan.shape[1]):
            if not free[r, s]:
                continue
            member = plan[r, s]
            usable = free & (plan == member)
            right = s + 1
            while right < plan.shape[1] and usable[r, right]:
                right += 1
            below = r + 1
            while below < plan.shape[0] and usable[below, s:right].all():
                below += 1
            free[r:below, s:right] = False
            found.append(Rectangle(int(member), rows[r], columns[s], rows[below], columns[right]))
    return found


def sides_of(area: Rectangle, height: int, width: int) -> Sides:
    """Every side inside the image has a halo."""
    return Sides(area.top > 0, area.bottom < height, area.left > 0, area.right < width)


def operations(areas: list[Rectangle], sizes: list[Size], height: int, width: int) -> int:
    """Multiply-adds of all rectangles, each with its halo."""
    total = 0
    for area in areas:
        sides = sides_of(area, height, width)
        rows, columns = area.bottom - area.top, area.right - area.left
        total += bank.operations(sizes[area.member], rows, columns, sides)
    return total


class Costs(NamedTuple):
    """What a member costs in a cell (R, S, K), and what one side of halo adds to it (K,), as shares of the largest member."""

    own: np.ndarray
    side: np.ndarray


def cell_costs(sizes: list[Size], height: int, width: int) -> Costs:
    """The costs of every cell, as shares of the largest member's operations for the whole image."""
    whole = bank.operations(sizes[-1], height, width)
    rows, columns = np.diff(edges(height)), np.diff(edges(width))
    area = rows[:, None] * columns / CELL**2  # (R, S) in cells
    one = np.array([bank.operations(size, CELL, CELL) for size in sizes])
    with_side = [bank.operations(size, CELL, CELL, Sides(left=True)) for size in sizes]
    return Costs(area[..., None] * one / whole, (np.array(with_side) - one) / whole)


def settle(errors: np.ndarray, costs: Costs, price: float) -> np.ndarray:
    """The plan of a price. errors (R, S, K) -> (R, S)

    Each cell takes the member of least error + price x (own cost + halos on both sides of every border to another member).
    """
    members = errors.shape[2]
    alone = errors + price * costs.own  # (R, S, K)
    plan = alone.argmin(axis=2)
    if price == 0:
        return plan
    black = np.indices(plan.shape).sum(axis=0) % 2 == 0
    border = price * (costs.side[:, None] + costs.side)  # (K, K): of one border between two members
    np.fill_diagonal(border, 0)
    for _ in range(SWEEPS):
        for colour in (black, ~black):
            around = np.zeros((*plan.shape, members))
            towards = border[plan]  # (R, S, K): what a neighbour of member k would pay at this cell
            around[1:] += towards[:-1]
            around[:-1] += towards[1:]
            around[:, 1:] += towards[:, :-1]
            around[:, :-1] += towards[:, 1:]
            plan = np.where(colour, (alone + around).argmin(axis=2), plan)
    return plan


def plan_for(
    errors: np.ndarray, sizes: list[Size], height: int, width: int, budget: float
) -> np.ndarray:
    """The plan of least predicted error within a budget, its halos counted. errors (R, S, K) -> (R, S)

    Args:
        errors: predicted sum of squared errors of every member in every cell.
        budget: multiply-adds for the whole image; below those of the smallest member everywhere, that is the plan.

    Every plan that uses one member only is a candidate, too: it needs no halo.
    """
    relative = errors / errors[..., -1].sum()
    costs = cell_costs(sizes, height, width)
    best = np.zeros(errors.shape[:2], dtype=np.int64)

    def price_of(plan: np.ndarray) -> tuple[float, int]:
        chosen = np.take_along_axis(errors, plan[..., None], axis=2)
        return chosen.sum(), operations(rectangles(plan, height, width), sizes, height, width)

    least = price_of(best)[0]
    for member in range(1, len(sizes)):
        candidate = np.full_like(best, member)
        error, spent = price_of(candidate)
        if spent <= budget and error < least:
            best, least = candidate, error
    low, high = 1e-4, 1e4  # of the price, bisected on a logarithmic scale
    for _ in range(ROUNDS):
        price = np.sqrt(low * high)
        candidate = settle(relative, costs, price)
        error, spent = price_of(candidate)
        if spent <= budget:
            high = price
            if error < least:
                best, least = candidate, error
        else:
            low = price
    return best


@torch.no_grad()
def compute(members: list[Member], noisy: Tensor, level: Tensor, areas: list[Rectangle]) -> Tensor:
    """Denoise a padded image (1, 3, H, W) with its level (1, 1, H, W), each rectangle by its member -> (1, 3, H, W)."""
    height, width = noisy.shape[2:]
    result = torch.empty_like(noisy)
    for area in areas:
        member = members[area.member]
        around = bank.halo(member.size)
        sides = sides_of(area, height, width)
        top, left = area.top - around * sides.top, area.left - around * sides.left
        bottom, right = area.bottom + around * sides.bottom, area.right + around * sides.right
        part = noisy[:, :, top:bottom, left:right]
        levels = level[:, :, top:bottom, left:right]
        result[:, :, area.top : area.bottom, area.left : area.right] = member.region(
            part, levels, sides
        )
    return result
