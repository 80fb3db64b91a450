"""Measures of quality, in NumPy: one number per image, so that means, spreads and paired tests come later.

Shapes: images are (N, 3, H, W), floating point, range [0, 1].
"""

import math

import numpy as np
from skimage.metrics import structural_similarity


def psnr(clean: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of each image in dB, peak 1; equal images give infinity.

    Args:
        clean, test: (N, C, H, W), range [0, 1].

    Returns:
        (N,) float64. Their mean is the "mean of PSNRs"; compare `pooled_psnr`.

    Raises:
        ValueError: the shapes differ.
    """
    with np.errstate(divide="ignore"):
        return -10 * np.log10(mse(clean, test))  # (N,)


def pooled_psnr(clean: np.ndarray, test: np.ndarray) -> float:
    """PSNR in dB of the mean squared error over all images: never above the mean of PSNRs (Jensen).

    Equal images give infinity; shapes that differ are a ValueError.
    """
    error = mse(clean, test).mean()
    return -10 * math.log10(error) if error > 0 else math.inf


def mse(clean: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Mean squared error of each image, (N, C, H, W) twice -> (N,) float64."""
    if clean.shape != test.shape:
        raise ValueError(f"images of equal shape are needed, found {clean.shape} and {test.shape}")
    error = clean.astype(np.float64) - test
    return np.square(error, out=error).reshape(len(error), -1).mean(axis=1)


def ssim(clean: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Structural similarity of each image by scikit-image (7x7 windows, data range 1; Wang et al. 2004).

    Args:
        clean, test: (N, C, H, W), range [0, 1], H and W at least 7.

    Returns:
        (N,) float64, at most 1.
    """
    if clean.shape != test.shape:
        raise ValueError(f"images of equal shape are needed, found {clean.shape} and {test.shape}")
    pairs = zip(clean, test, strict=True)
    return np.array([structural_similarity(a, b, data_range=1.0, channel_axis=0) for a, b in pairs])
