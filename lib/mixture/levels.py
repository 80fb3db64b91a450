"""Levels of noise as maps: a number for each pixel, uniform, ramped, stepped or patchy; and their estimate from an image.

Shapes: B images, H x W pixels, values in the image's range [0, 1].
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LOWEST, HIGHEST = 0.05, 0.5  # what the bank is trained for
NORMAL_MEDIAN = 0.6745  # median of |x| of a standard normal x


def uniform_map(level: Tensor, height: int, width: int) -> Tensor:
    """One level for each image. (B,) -> (B, 1, H, W)"""
    return level[:, None, None, None].expand(-1, 1, height, width).contiguous()


def log_uniform(draws: Tensor) -> Tensor:
    """Uniform draws in [0, 1) as levels, log-uniform from 0.05 to 0.5; any shape."""
    return LOWEST * (HIGHEST / LOWEST) ** draws


def ramp_maps(first: Tensor, generator: torch.Generator, height: int, width: int) -> Tensor:
    """From one level to another across the image, in any direction, as a ramp or nearly as a step.

    Args:
        first: (B,), the level on one side; the other is drawn log-uniform.

    Returns:
        (B, 1, H, W)
    """
    count, device = len(first), first.device
    draws = torch.rand(3, count, generator=generator, device=device)
    second = log_uniform(draws[0])
    angle = 2 * math.pi * draws[1]
    steepness = torch.where(draws[2] < 0.5, 1.0, 6.0)
    y = torch.linspace(-1, 1, height, device=device)[:, None]  # (H, 1)
    x = torch.linspace(-1, 1, width, device=device)  # (W,)
    along = angle.sin()[:, None, None] * y + angle.cos()[:, None, None] * x  # (B, H, W)
    share = (steepness[:, None, None] * along / 2 + 0.5).clamp(0, 1)
    logarithm = torch.lerp(first.log()[:, None, None], second.log()[:, None, None], share)
    return logarithm.exp()[:, None]


def smooth_map(height: int, width: int, generator: torch.Generator) -> Tensor:
    """A map that wanders from 0.05 to 0.5: four by four log-uniform levels, bicubic between. (1, 1, H, W)"""
    coarse = torch.rand(1, 1, 4, 4, generator=generator)
    fine = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)
    spread = (fine - fine.min()) / (fine.max() - fine.min())
    return log_uniform(spread)


def patchy_map(
    height: int, width: int, generator: torch.Generator, cell: int = 128, share: float = 0.25,
    low: float = 0.1, high: float = 0.4
) -> Tensor:  # fmt: skip
    """`share` of the cells of `cell` pixels, drawn at random, have the high level, the others the low one. (1, 1, H, W)"""
    rows, columns = math.ceil(height / cell), math.ceil(width / cell)
    noisy_cells = max(1, round(share * rows * columns))
    order = torch.randperm(rows * columns, generator=generator)
    levels = torch.full((rows * columns,), low)
    levels[order[:noisy_cells]] = high
    grid = levels.view(1, 1, rows, columns)
    grid = grid.repeat_interleave(cell, 2).repeat_interleave(cell, 3)
    return grid[:, :, :height, :width].contiguous()


def estimate_map(noisy: Tensor, cell: int = 32) -> Tensor:
    """The level of each place of a noisy image. (B, 3, H, W) -> (B, 1, H, W) within [0.05, 0.5]

    In every cell the median absolute value of the finest diagonal Haar details of all colours over 0.6745 (Donoho and
    Johnstone 1994), then bilinear between the cells' centres. Clipping lowers it and texture raises it.
    """
    h, w = noisy.shape[2:]
    down, right = -h % cell, -w % cell
    padded = F.pad(noisy, (0, right, 0, down), mode="replicate")
    a, b = padded[:, :, 0::2, 0::2], padded[:, :, 0::2, 1::2]
    c, d = padded[:, :, 1::2, 0::2], padded[:, :, 1::2, 1::2]
    detail = (a - b - c + d).abs() / 2  # (B, 3, H / 2, W / 2)
    half = cell // 2
    blocks = detail.unflatten(3, (-1, half)).unflatten(
        2, (-1, half)
    )  # (B, 3, rows, half, columns, half)
    blocks = blocks.permute(0, 2, 4, 1, 3, 5).flatten(3)  # (B, rows, columns, 3 * half * half)
    level = blocks.median(dim=3).values / NORMAL_MEDIAN
    grid = level.clamp(LOWEST, HIGHEST)[:, None]  # (B, 1, rows, columns)
    fine = F.interpolate(grid, scale_factor=cell, mode="bilinear", align_corners=False)
    return fine[:, :, :h, :w].contiguous()
