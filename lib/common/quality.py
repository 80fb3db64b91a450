"""Measures of quality, in NumPy: one number per image, so that means, spreads and paired tests come later.

Shapes: images are (N, 3, H, W), floating point, range [0, 1].
"""

import math

import numpy as np
from skimage.metrics import structural_similarity


def mse(clean: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Mean squared error of each image, (N, C, H, W) twice -> (N,) float64. ValueError: the shapes differ."""
    _check_shapes(clean, test)
    error = clean.astype(np.float64) - test
    np.square(error, out=error)  # in place: the images may fill much of the memory
    return error.reshape(len(error), -1).mean(axis=1)  # (N,)


def psnr(clean: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of each image in dB, peak 1; equal images give infinity.

    Args:
        clean, test: (N, C, H, W), range [0, 1].

    Returns:
        (N,) float64. Their mean is the "mean of PSNRs"; compare `pooled_psnr`.

    Raises:
        ValueError: the shapes differ.
    """
    errors = mse(clean, test)  # (N,)
    with np.errstate(divide="ignore"):
        return -10 * np.log10(errors)


def pooled_psnr(clean: np.ndarray, test: np.ndarray) -> float:
    """PSNR in dB of the mean squared error over all images: never above the mean of PSNRs (Jensen).

    Equal images give infinity; shapes that differ are a ValueError.
    """
    error = mse(clean, test).mean()
    if error == 0:
        return math.inf
    return -10 * math.log10(error)


def ssim(clean: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Structural similarity of each image by scikit-image (7x7 windows, data range 1; Wang et al. 2004).

    Args:
        clean, test: (N, C, H, W), range [0, 1], H and W at least 7.

    Returns:
        (N,) float64, at most 1.

    Raises:
        ValueError: the shapes differ.
    """
    _check_shapes(clean, test)
    similarities = np.empty(len(clean))
    for i in range(len(clean)):
        similarities[i] = structural_similarity(clean[i], test[i], data_range=1.0, channel_axis=0)
    return similarities


def _check_shapes(clean: np.ndarray, test: np.ndarray) -> None:
    if clean.shape != test.shape:
        raise ValueError(f"images of equal shape are needed, found {clean.shape} and {test.shape}")
