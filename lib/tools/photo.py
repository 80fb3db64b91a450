"""Denoise image files and arrays of any size with the shipped weights.

    from lib.tools.photo import denoise_array; clean = denoise_array(noisy)

The noise level is estimated where none is given: the median absolute value of the finest diagonal Haar details,
divided by 0.6745 (Donoho and Johnstone 1994), over grey places where few values are clipped. Texture raises it.
"""

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lib.common import files
from lib.common.params import UserError, root
from lib.mixture.denoiser import denoise, load_weights
from lib.mixture.run import SIGMAS

WEIGHTS = "models/mixture_denoiser.safetensors"
MODES = {
    "1": "L",
    "L": "L",
    "P": "RGB",
    "RGB": "RGB",
    "LA": "RGBA",
    "RGBA": "RGBA",
}  # of Pillow -> ours
LARGEST = 10_000_000  # pixels; the network needs about 450 bytes for each


def estimate_sigma(image: np.ndarray) -> float:
    """Standard deviation of the noise in an image (H, W) or (H, W, C) with values in [0, 1], H and W at least 2."""
    h, w = (size - size % 2 for size in image.shape[:2])
    if min(h, w) < 2:
        raise UserError(
            f"image is {image.shape[0]} x {image.shape[1]}: too small to estimate its noise, give sigma"
        )
    a, b, c, d = (image[i:h:2, j:w:2] for i in (0, 1) for j in (0, 1))
    detail, mean = np.abs(a - b - c + d) / 2, (a + b + c + d) / 4
    middle = detail[np.abs(mean - 0.5) < 0.2]  # elsewhere clipping hides a part of the noise
    return float(np.median(middle if middle.size >= 100 else detail) / 0.6745)


def denoise_array(
    image: np.ndarray, sigma: float | None = None, weights: Path | str | None = None
) -> np.ndarray:
    """Denoise (H, W), (H, W, 3) or (H, W, 4), uint8 or floating point in [0, 1]; shape and type stay, alpha too.

    Args:
        sigma: noise level in [0.05, 0.5] for pixel values in [0, 1]; estimated, and brought into the range, if None.
    """
    if (
        image.ndim not in (2, 3)
        or image.shape[2:] not in ((), (3,), (4,))
        or not np.isfinite(image).all()
    ):
        raise ValueError(
            f"image has shape {image.shape}; expected (H, W), (H, W, 3) or (H, W, 4), all finite"
        )
    if sigma is not None and not SIGMAS[0] <= sigma <= SIGMAS[1]:
        raise UserError(
            f"sigma = {sigma}: allowed are {SIGMAS[0]} to {SIGMAS[1]}, for pixel values from 0 to 1"
        )
    scale = 255 if image.dtype == np.uint8 else 1
    colours = image[..., :3] if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
    values = (colours / np.float32(scale)).astype(np.float32)  # (H, W, 3)
    sigma = float(np.clip(estimate_sigma(values), *SIGMAS)) if sigma is None else sigma
    model = load_weights(weights or root() / WEIGHTS)
    batch = torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))[None]  # (1, 3, H, W)
    clean = denoise(model, batch, sigma)[0].numpy().transpose(1, 2, 0) * scale
    clean = (clean.round() if scale == 255 else clean).astype(image.dtype)
    if image.ndim == 2:
        clean = clean.mean(axis=2).round().astype(np.uint8) if scale == 255 else clean.mean(axis=2)
    return np.concatenate([clean, image[..., 3:]], axis=2) if image.ndim == 3 else clean


def read_image(source: Path) -> np.ndarray:
    """A PNG or JPEG as (H, W), (H, W, 3) or (H, W, 4) uint8. UserError: what would be read wrongly, or not at all."""
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(source, formats=("PNG", "JPEG")) as opened,
        ):
            frames, pixels = (
                getattr(opened, "n_frames", 1) if opened.format == "PNG" else 1,
                np.prod(opened.size),
            )
            if opened.mode not in MODES or frames > 1 or pixels > LARGEST:
                raise UserError(f"{opened.mode}, {frames} frame(s), {pixels:,} pixels; allowed are grey or RGB of 8 "
                                f"bits, one frame, {LARGEST:,} pixels")  # fmt: skip
            return np.asarray(
                opened.convert("RGBA" if "transparency" in opened.info else MODES[opened.mode])
            )
    except FileNotFoundError:
        raise UserError(f"{source}: no such file") from None
    except Exception as error:  # decoders raise whatever they like on broken bytes
        raise UserError(
            f"{source}: not an image that can be read ({' '.join(str(error).split())})"
        ) from None


def denoise_file(
    source: Path, target: Path, sigma: float | None = None, weights: Path | str | None = None
) -> float:
    """Denoise an image file into another one; the noise level that was used, given or estimated."""
    image = read_image(source)
    if target.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UserError(f"{target}: write a .png, .jpg or .jpeg")
    if sigma is None:
        sigma = float(np.clip(estimate_sigma(image[..., :3] / np.float32(255)), *SIGMAS))
    clean = denoise_array(image, sigma, weights)
    if target.suffix.lower() != ".png" and clean.ndim == 3:
        clean = clean[..., :3]  # JPEG has no transparency
    with files.atomic(target) as partial:
        Image.fromarray(clean).save(partial)
    return sigma
