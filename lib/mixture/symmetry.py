"""The eight symmetries of the square: an image in all its orientations, for training and for averaging.

Symmetry number n in 0..7: bit 1 mirrors left and right, bit 2 above and below, bit 4 swaps rows and columns.
Shapes: B images, C channels.
"""

from collections.abc import Callable

import torch
from torch import Tensor

COUNT = 8


def orient(images: Tensor, number: int) -> Tensor:
    """Images (B, C, H, W) in orientation `number`; H and W change places where rows and columns do."""
    if number & 1:
        images = images.flip(3)
    if number & 2:
        images = images.flip(2)
    if number & 4:
        images = images.transpose(2, 3)
    return images.contiguous()


def restore(images: Tensor, number: int) -> Tensor:
    """The inverse of `orient`."""
    if number & 4:
        images = images.transpose(2, 3)
    if number & 2:
        images = images.flip(2)
    if number & 1:
        images = images.flip(3)
    return images.contiguous()


def self_ensemble(denoise: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The mean of what `denoise` makes of images (B, C, H, W) in all eight orientations (geometric self-ensemble,
    Timofte et al. 2016)."""
    total = torch.zeros_like(images)
    for number in range(COUNT):
        total += restore(denoise(orient(images, number)), number)
    return total / COUNT
