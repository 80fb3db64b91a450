"""The adaptive mixture: a bank of denoisers, a router that decides before any of them computes, one budget.

    mixture = adaptive.load(path)
    clean = adaptive.denoise(mixture, noisy, sigma=None, budget=0.5)

Small images get one member each, chosen for the whole batch under the budget; larger ones are cut into cells (regions.py). The
level of the noise may be a number, a map, or None: then it is estimated, place by place.

Shapes: B images, K members, N images of a set.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.common import weights
from lib.common.params import UserError
from lib.mixture import allocate, bank, denoiser, levels, regions, router
from lib.mixture.bank import Member, Size
from lib.mixture.router import Router

WHOLE_IMAGE = 64  # pixels a side; up to here an image has one member
BATCH = 250  # images at a time


class Mixture(NamedTuple):
    """Members in the order of their cost, and the router that was fitted to them."""

    members: list[Member]
    router: Router

    @property
    def sizes(self) -> list[Size]:
        """Of the members."""
        return [member.size for member in self.members]


# --- training of the router


@torch.no_grad()
def outputs(member: Member, noisy: Tensor, level: Tensor) -> Tensor:
    """What a member makes of images (N, 3, H, W) with levels (N, 1, H, W), in batches."""
    parts = zip(noisy.split(BATCH), level.split(BATCH), strict=True)
    return torch.cat([member(images, maps)[0] for images, maps in parts])


def measured_errors(members: list[Member], clean: Tensor, noisy: Tensor, level: Tensor) -> Tensor:
    """Mean squared error of every member on every image. -> (N, K)"""
    columns = []
    for member in members:
        wrong = outputs(member, noisy, level) - clean
        columns.append(wrong.square().mean((1, 2, 3)))
    return torch.stack(columns, dim=1)


def router_images(
    images: np.ndarray, seed: int, enlarged: float = 0.25
) -> tuple[Tensor, Tensor, Tensor]:
    """Clean and noisy images and levels for the router: (N, 3, 32, 32) twice, (N, 1, 32, 32).

    Every image has a level of its own, log-uniform. A share of the images is the middle of one, enlarged twice: as smooth
    as a cell of a photograph is, which images of 32 pixels never are.
    """
    generator = torch.Generator().manual_seed(seed)
    clean = torch.from_numpy(images).float() / 255
    large = round(enlarged * len(clean))
    middle = clean[:large, :, 8:24, 8:24]
    clean[:large] = F.interpolate(middle, scale_factor=2, mode="bicubic").clamp(0, 1)
    level = levels.log_uniform(torch.rand(len(clean), generator=generator))
    maps = levels.uniform_map(level, 32, 32)
    noise = torch.randn(clean.shape, generator=generator)
    return clean, (clean + maps * noise).clamp(0, 1), maps


def unit_features(noisy: Tensor, level: Tensor) -> Tensor:
    """Features of images of one unit each, (N, 3, 32, 32) -> (N, F)."""
    return router.features(noisy, level)[:, 0]


# --- any image


def denoise(
    mixture: Mixture, images: Tensor, sigma: float | Tensor | None = None, budget: float = 1.0
) -> Tensor:
    """Denoise images (B, 3, H, W) in [0, 1] -> the same shape.

    Args:
        sigma: the level of the noise, a number or a map (B, 1, H, W); estimated place by place if None.
        budget: operations to spend, as a share of what the largest member would take for everything; the cheapest member is
            taken everywhere when it is below that.
    """
    level = levels_of(images, sigma)
    if max(images.shape[2:]) <= WHOLE_IMAGE:
        return _denoise_small(mixture, images, level, budget)
    rows = zip(images.split(1), level.split(1), strict=True)
    return torch.cat([_denoise_large(mixture, one, levels, budget) for one, levels in rows])


def levels_of(images: Tensor, sigma: float | Tensor | None) -> Tensor:
    """The level of each pixel (B, 1, H, W), inside of what the bank was trained for."""
    if sigma is None:
        return levels.estimate_map(images)
    if isinstance(sigma, Tensor):
        return sigma.clamp(levels.LOWEST, levels.HIGHEST)
    inside = min(max(sigma, levels.LOWEST), levels.HIGHEST)
    return torch.full((len(images), 1, *images.shape[2:]), inside)


def plan_of_images(mixture: Mixture, noisy: Tensor, level: Tensor, budget: float) -> Tensor:
    """The member of each small image (B,), the router's own operations counted."""
    side = max(router.UNIT, *(size + -size % router.UNIT for size in noisy.shape[2:]))
    padded, levels = _to_multiple(noisy, side), _to_multiple(level, side)
    with torch.no_grad():
        logarithms = mixture.router(router.features(padded, levels))  # (B, U, K)
    predicted = logarithms.exp().mean(1).log()
    costs = torch.tensor([float(bank.operations(size, 32, 32)) for size in mixture.sizes])
    spend = budget * costs[-1] - router.operations(len(costs))
    return allocate.allocate(predicted, costs, max(spend.item(), costs[0].item()))


def _denoise_small(mixture: Mixture, images: Tensor, level: Tensor, budget: float) -> Tensor:
    plan = plan_of_images(mixture, images, level, budget)
    result = torch.empty_like(images)
    for number, member in enumerate(mixture.members):
        chosen = plan == number
        if chosen.any():
            result[chosen] = outputs(member, images[chosen], level[chosen])
    return result


def predicted_cells(mixture: Mixture, noisy: Tensor, level: Tensor) -> np.ndarray:
    """Predicted sum of squared errors of every member in every cell of an image (1, 3, H, W). -> (R, S, K)"""
    padded, levels = _to_multiple(noisy, router.UNIT), _to_multiple(level, router.UNIT)
    rows, columns = (size // router.UNIT for size in padded.shape[2:])
    with torch.no_grad():
        logarithms = mixture.router(router.features(padded, levels))  # (1, U, K)
    units = logarithms[0].exp().view(rows, columns, -1).permute(2, 0, 1)  # (K, rows, columns)
    pixels = units.repeat_interleave(router.UNIT, 1).repeat_interleave(router.UNIT, 2)
    height, width = noisy.shape[2:]
    sums = regions.cell_sums(pixels[:, :height, :width].numpy())  # (K, R, S)
    return sums.transpose(1, 2, 0)


def plan_of_cells(mixture: Mixture, noisy: Tensor, level: Tensor, budget: float) -> np.ndarray:
    """The member of each cell of a padded image (1, 3, H, W), halos and router counted. -> (R, S)"""
    height, width = noisy.shape[2:]
    sizes = mixture.sizes
    units = height * width / router.UNIT**2
    spend = budget * bank.operations(sizes[-1], height, width)
    spend -= units * router.operations(len(sizes))
    predicted = predicted_cells(mixture, noisy, level)
    return regions.plan_for(predicted, sizes, height, width, spend)


def _denoise_large(mixture: Mixture, image: Tensor, level: Tensor, budget: float) -> Tensor:
    height, width = image.shape[2:]
    noisy, levels = bank.pad(image), bank.pad(level)
    plan = plan_of_cells(mixture, noisy, levels, budget)
    areas = regions.rectangles(plan, *noisy.shape[2:])
    return regions.compute(mixture.members, noisy, levels, areas)[:, :, :height, :width]


def _to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column of (B, C, H, W) up to multiples, so that the router's units fit."""
    down, right = -image.shape[2] % multiple, -image.shape[3] % multiple
    return F.pad(image, (0, right, 0, down), mode="replicate") if down or right else image


# --- one file


def save(path: Path | str, mixture: Mixture, about: dict) -> None:
    """All members and the router in one safetensors file."""
    tensors = {}
    for number, member in enumerate(mixture.members):
        tensors |= {f"member/{number}/{k}": v for k, v in member.state_dict().items()}
    tensors |= {f"router/{k}": v for k, v in mixture.router.state_dict().items()}
    sizes = [list(size) for size in mixture.sizes]
    denoiser.save_tensors(path, tensors, about | {"sizes": sizes})


def load(path: Path | str) -> Mixture:
    """The inverse of `save`, in evaluation mode; UserError: no such file, or it holds no bank."""
    tensors, about = denoiser.load_tensors(path)
    if "sizes" not in about:
        raise UserError(f"{path}: holds no bank of denoisers")
    members = []
    for number, size in enumerate(about["sizes"]):
        member = Member(Size(*size))
        _fill(path, member, tensors, f"member/{number}/")
        members.append(member.eval())
    chooser = Router(len(members))
    _fill(path, chooser, tensors, "router/")
    return Mixture(members, chooser.eval())


def _fill(path: Path | str, network: torch.nn.Module, tensors: dict, prefix: str) -> None:
    own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    shapes = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    weights.check_shapes(path, own, shapes)
    network.load_state_dict(own)
