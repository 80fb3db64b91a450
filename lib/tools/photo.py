"""Denoise image files and arrays of any size: colour with the shipped network, grey with non-local means.

    from lib.tools.photo import denoise_array; clean = denoise_array(noisy)

The network learned from colour pictures, whose three channels have independent noise. A grey picture repeated into
three channels has one and the same noise in all of them, which the network never saw and takes for detail; so grey
goes another way, the best of those measured by benchmarks/grey.py.

With a budget, colour goes through the adaptive mixture instead: networks of unequal cost, chosen for each cell of 64 pixels,
and the level of the noise, where none is given, is estimated place by place.

The level of the noise is estimated where none is given: the median absolute value of the finest diagonal Haar details,
divided by 0.6745 (Donoho and Johnstone 1994), over middling places, where few values are clipped. Texture raises it,
and JPEG, which takes a part of the noise away, lowers it.

Shapes: an image is (H, W), (H, W, 3) or (H, W, 4), its values uint8 or floating point in [0, 1].
"""

import shutil
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from lib.common import files
from lib.common.params import UserError, root

WEIGHTS = "models/quality_denoiser.safetensors"
ADAPTIVE_WEIGHTS = "models/adaptive_denoiser.safetensors"
LEVELS = (0.05, 0.5)  # of the noise that the network was trained for, and that may be asked for
# Chosen by benchmarks/grey.py: the strength of non-local means in units of the noise's level, and the estimates
# below which denoising takes more than it gives.
GREY_STRENGTH = 0.6
LEFT_ALONE = {"grey": 0.02, "colour": 0.025}
LARGEST = 10_000_000  # pixels; the network needs about 450 bytes for each
SUFFIXES = (".png", ".jpg", ".jpeg")
OUR_MODES = {  # of Pillow: what a picture of each mode is read as
    "1": "L",
    "L": "L",
    "P": "RGB",
    "RGB": "RGB",
    "LA": "RGBA",
    "RGBA": "RGBA",
}


class Picture(NamedTuple):
    """A file's pixels, uint8 (H, W), (H, W, 3) or (H, W, 4), and whether it was a JPEG."""

    pixels: np.ndarray
    is_jpeg: bool


class Outcome(NamedTuple):
    """What became of a file.

    level: of the noise, given or estimated. estimated: which of the two. changed: False when the picture was left alone.
    warning: one line for standard error, or "".
    """

    level: float
    estimated: bool
    changed: bool
    warning: str

    def __str__(self) -> str:
        """One line for the user."""
        if not self.changed:
            return (
                f"left alone: the estimated noise of {self.level:.4f} is so low that denoising would take more "
                "than it gives; the pixels are written as they are (--sigma denoises all the same)"
            )
        return f"denoised at sigma {self.level:.3f}{' (estimated)' if self.estimated else ''}"


# --- reading a picture, or refusing it


def read_image(source: Path) -> Picture:
    """Read a PNG or JPEG.

    Raises:
        UserError: it would be read wrongly (16 bits, CMYK, several frames), is too large, or is no image.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            with Image.open(source, formats=("PNG", "JPEG")) as opened:
                _refuse_odd(opened)
                mode = "RGBA" if "transparency" in opened.info else OUR_MODES[opened.mode]
                return Picture(np.asarray(opened.convert(mode)), opened.format == "JPEG")
    except FileNotFoundError:
        raise UserError(f"{source}: no such file") from None
    except Exception as error:  # decoders raise whatever they like on broken bytes
        reason = " ".join(str(error).split())
        raise UserError(f"{source}: not an image that can be read ({reason})") from None


def _refuse_odd(opened: Image.Image) -> None:
    frames = getattr(opened, "n_frames", 1) if opened.format == "PNG" else 1
    pixels = opened.width * opened.height
    if opened.mode not in OUR_MODES or frames > 1 or pixels > LARGEST:
        raise UserError(
            f"{opened.mode}, {frames} frame(s), {pixels:,} pixels; allowed are grey or RGB of 8 bits, "
            f"one frame, {LARGEST:,} pixels"
        )


def _check_array(image: np.ndarray) -> None:
    if image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,), (4,)):
        raise ValueError(f"image has shape {image.shape}; expected (H, W), (H, W, 3) or (H, W, 4)")
    if not np.isfinite(image).all():
        raise ValueError("image has pixels that are NaN or infinite; expected all finite")


# --- the level of the noise


def estimate_sigma(image: np.ndarray) -> float:
    """Standard deviation of the noise in an image (H, W) or (H, W, C) with values in [0, 1].

    Raises:
        UserError: the image has not two pixels each way.
    """
    height, width = (size - size % 2 for size in image.shape[:2])
    if min(height, width) < 2:
        raise UserError(
            f"image is {image.shape[0]} x {image.shape[1]}: too small to estimate its noise, give sigma"
        )
    a = image[0:height:2, 0:width:2]  # the four pixels of each 2 x 2 square
    b = image[0:height:2, 1:width:2]
    c = image[1:height:2, 0:width:2]
    d = image[1:height:2, 1:width:2]
    detail = np.abs(a - b - c + d) / 2  # its deviation is that of a pixel's noise
    mean = (a + b + c + d) / 4
    middling = detail[np.abs(mean - 0.5) < 0.2]  # elsewhere clipping hides a part of the noise
    return float(np.median(middling if middling.size >= 100 else detail) / 0.6745)


def _trusted_level(values: np.ndarray) -> float:
    """The estimate for (H, W) or (H, W, 3); UserError where it says nothing of the noise."""
    level = estimate_sigma(values)
    only_two = ((values == values.min()) | (values == values.max())).all()
    if only_two and level > 0:
        raise UserError(
            "a picture of two values: its noise cannot be told from its content, give sigma"
        )
    if level > LEVELS[1]:
        raise UserError(
            f"estimated noise {level:.3f} is above {LEVELS[1]}: a pattern rather than noise; "
            "give sigma if you want it denoised"
        )
    return level


# --- denoising


def denoise_array(
    image: np.ndarray, sigma: float | None = None, weights: Path | str | None = None,
    budget: float | None = None,
) -> np.ndarray:  # fmt: skip
    """Denoise an image; its shape and type stay, and so does alpha.

    An RGB image whose three channels are equal is grey and stays so.

    Args:
        sigma: noise level in [0.05, 0.5] for pixel values in [0, 1]. If None it is estimated; an image with less than
            LEFT_ALONE is returned as it is.
        weights: of the network for colour; the shipped ones if None.
        budget: operations of the adaptive mixture for colour, as a share of its largest network's, above 0 and at most 1; with
            less than the cheapest one takes, that one is used. If None, the whole network that ships is used.

    Raises:
        ValueError: the shape is another, or a pixel is not finite.
        UserError: sigma or the budget is out of range, or none is given and the estimate cannot be trusted.
    """
    return _denoise(image, sigma, weights, budget)[0]


def _denoise(image, sigma, weights, budget=None) -> tuple[np.ndarray, float, bool]:
    """The image, the level of its noise, and whether it was changed."""
    _check_array(image)
    if sigma is not None and not LEVELS[0] <= sigma <= LEVELS[1]:
        raise UserError(
            f"sigma = {sigma}: allowed are {LEVELS[0]} to {LEVELS[1]}, for pixel values from 0 to 1"
        )
    if budget is not None and not 0 < budget <= 1:
        raise UserError(f"budget = {budget}: allowed are shares above 0 and up to 1")
    scale = 255 if image.dtype == np.uint8 else 1
    values = (_seen(image) / np.float32(scale)).astype(np.float32)  # (H, W) or (H, W, 3)
    level = sigma
    if sigma is None:
        level = _trusted_level(values)
        if level < LEFT_ALONE["grey" if values.ndim == 2 else "colour"]:
            return image.copy(), level, False
    if values.ndim == 2:
        clean = scale * _denoise_grey(values, level)
    elif budget is not None:
        clean = scale * _denoise_adaptive(values, sigma, weights, budget)
    else:
        clean = scale * _denoise_colour(values, level, weights)
    if scale == 255:
        clean = clean.round()
    return _like(image, clean.astype(image.dtype)), level, True


def is_grey(image: np.ndarray) -> bool:
    """An image without colour: (H, W), or three equal channels, as when grey was saved as RGB."""
    if image.ndim == 2:
        return True
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    return np.array_equal(red, green) and np.array_equal(red, blue)


def _seen(image):
    """What is denoised: (H, W) of a grey image, (H, W, 3) of one with colours."""
    if image.ndim == 2:
        return image
    return image[..., 0] if is_grey(image) else image[..., :3]


def _like(image, clean):
    """The denoised values in the shape of the image, with its alpha."""
    if image.ndim == 2:
        return clean
    if clean.ndim == 2:
        clean = np.repeat(clean[..., None], 3, axis=2)
    return np.concatenate([clean, image[..., 3:]], axis=2)


def _denoise_colour(values, level, weights):
    """The network's answer to (H, W, 3), told the level, but no lower one than it was trained for."""
    import torch

    from lib.mixture import denoiser

    model = denoiser.load_weights(weights or root() / WEIGHTS)
    batch = torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))[None]  # (1, 3, H, W)
    return denoiser.denoise(model, batch, max(level, LEVELS[0]))[0].numpy().transpose(1, 2, 0)


def _denoise_adaptive(values, sigma, weights, budget):
    """The adaptive mixture's answer to (H, W, 3); without sigma the level is estimated place by place."""
    import torch

    from lib.mixture import adaptive

    mixture = adaptive.load(weights or root() / ADAPTIVE_WEIGHTS)
    batch = torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))[None]  # (1, 3, H, W)
    return adaptive.denoise(mixture, batch, sigma, budget)[0].numpy().transpose(1, 2, 0)


def _denoise_grey(values, level):
    """Non-local means of (H, W)."""
    from skimage.restoration import denoise_nl_means

    clean = denoise_nl_means(
        values, patch_size=5, patch_distance=7, h=GREY_STRENGTH * level, sigma=level
    )
    return np.clip(clean, 0, 1)


# --- files


def denoise_file(
    source: Path, target: Path, sigma: float | None = None, weights: Path | str | None = None,
    budget: float | None = None,
) -> Outcome:  # fmt: skip
    """Denoise an image file into another one; nothing is written when the picture is refused.

    Raises:
        UserError: the source cannot be read, the target is no PNG or JPEG, or as `denoise_array`.
    """
    picture = read_image(source)
    if target.suffix.lower() not in SUFFIXES:
        raise UserError(f"{target}: write a .png, .jpg or .jpeg")
    try:
        clean, level, changed = _denoise(picture.pixels, sigma, weights, budget)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    to_jpeg = target.suffix.lower() != ".png"
    with files.atomic(target) as partial:
        if not changed and picture.is_jpeg and to_jpeg:
            shutil.copyfile(source, partial)  # to compress it once more would change it
        else:
            _save(clean, partial, to_jpeg)
    warning = ""
    if picture.is_jpeg and sigma is None:
        warning = (
            f"{source}: JPEG hides a part of the noise, so the estimate of {level:.3f} is probably too low; "
            "give --sigma if you know the level"
        )
    return Outcome(level, estimated=sigma is None, changed=changed, warning=warning)


def _save(pixels: np.ndarray, path: Path, to_jpeg: bool) -> None:
    if not to_jpeg:
        Image.fromarray(pixels).save(path)
        return
    if pixels.ndim == 3:
        pixels = pixels[..., :3]  # JPEG has no transparency
    Image.fromarray(pixels).save(path, quality=95)
