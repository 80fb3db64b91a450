"""Attention for each pixel: a small network looks at each pixel's features and weighs the four heads there.

    z = (f - mean) / scale        features of one pixel, standardised
    a = softmax(W3 r(W2 r(W1 z)))  with r(x) = max(0, x); a gate may have fewer layers, down to one
    x = sum_h a_h F_h

The features are those of the announced groups (texture, structure, colour, spatial: what the image looks like here)
and what the heads do (how far two of them differ, how much noise each of them took away, which of two lies nearer to
the noisy pixels around). Everything is made from the noisy image, so no clean pixel can reach the answer.

Source of the idea: Jacobs, Jordan, Nowlan and Hinton, "Adaptive mixtures of local experts", 1991. Departure from the
announced attention: there four statistics of the whole image become four weights; here each pixel has its own.
`fit.py` trains the gates.

Symbols: B images, H, W, K = 4 heads, M features; F (K, B, 3, H, W) the heads' outputs; float32.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, uniform_filter

from lib.diffusion import kernels

PAIRS = ((0, 1), (0, 2), (1, 2), (0, 3), (2, 3))  # of heads whose outputs are compared
SMALL = 1e-5  # keeps a logarithm finite


def features(noisy, outputs, sigma):
    """Features of every pixel of noisy (B, 3, H, W) and its heads F: (B, M, H, W), and the number of announced ones.

    The first features belong to the announced groups, the others tell what the heads do.
    """
    texture, structure, colour, _ = outputs
    announced = [
        *_texture(texture, noisy),
        *_structure(structure),
        *_colour(colour),
        *_spatial(colour),
    ]
    of_heads = [*_differences(outputs), *_residuals(noisy, outputs, sigma)]
    stacked = np.stack([*announced, *of_heads], axis=1).astype(np.float32)
    return stacked, len(announced)


def _texture(estimate, noisy):
    """How rough the image is around a pixel, at three sizes."""
    grey = estimate.mean(1)  # (B, H, W)
    noisy_spread = np.maximum(_box_variance(noisy.mean(1), 5), 1e-4)
    return [
        np.log(_box_variance(grey, 3) + 4 * SMALL),
        np.log(_box_variance(grey, 7) + 4 * SMALL),
        np.log(noisy_spread),
    ]


def _structure(estimate):
    """Strength and common direction of the edges around a pixel (structure tensor), and the gradient at it."""
    grey = estimate.mean(1)
    down, right = np.gradient(grey, axis=(1, 2))
    down_down = _blur(down * down, 1.0)
    right_right = _blur(right * right, 1.0)
    down_right = _blur(down * right, 1.0)
    energy = down_down + right_right
    coherence = np.sqrt((right_right - down_down) ** 2 + 4 * down_right**2) / (energy + 1e-3)
    here = down * down + right * right
    return [np.log(energy + 4 * SMALL), coherence, np.log(here + 4 * SMALL)]


def _colour(estimate):
    """How much the colours vary around a pixel, and how colourful it is."""
    chroma = estimate - estimate.mean(1, keepdims=True)  # (B, 3, H, W)
    spread = _box_variance(chroma, 5).sum(1)
    return [np.log(spread + 4 * SMALL), np.log((chroma**2).sum(1) + 4 * SMALL)]


def _spatial(estimate):
    """Distance to the border in pixels, up to six, and the brightness, of which clamping depends."""
    height, width = estimate.shape[2:]
    rows, columns = np.arange(height), np.arange(width)
    to_edge = np.minimum(
        np.minimum(rows, height - 1 - rows)[:, None], np.minimum(columns, width - 1 - columns)
    )
    border = np.broadcast_to(np.minimum(to_edge, 6) / 3 - 1, (len(estimate), height, width))
    bright = estimate.mean(1) - 0.5
    return [border, 4 * bright, 4 * np.abs(bright)]


def _differences(outputs):
    """For pairs of heads: how far they differ at and around a pixel."""
    found = []
    for first, second in PAIRS:
        squared = ((outputs[first] - outputs[second]) ** 2).mean(1)
        found += [np.log(_blur(squared, 0.8) + SMALL), np.log(_blur(squared, 2.5) + SMALL)]
    return found


def _residuals(noisy, outputs, sigma):
    """For each head but the last: what it took away around a pixel, in units of the noise; for pairs: who is nearer.

    |y - F_i|^2 - |y - F_j|^2 = (F_j - F_i) (2 y - F_i - F_j); divided by its spread under pure noise.
    """
    found = []
    for head in range(3):
        taken = (noisy - outputs[head]) / np.float32(sigma)
        found.append(np.log(_blur((taken**2).mean(1), 1.5) + 0.05))
        found.append(np.log(_blur(taken.mean(1), 1.5) ** 2 + 1e-3))
    for first, second in PAIRS:
        apart = outputs[second] - outputs[first]
        nearer = _blur((apart * (2 * noisy - outputs[first] - outputs[second])).mean(1), 1.5)
        spread = np.sqrt(_blur((apart**2).mean(1), 1.5) + SMALL)
        found.append(nearer / (np.float32(sigma) * spread))
    return found


def _blur(values, width):
    """Gaussian of `width` pixels over the last two axes."""
    widths = (0,) * (values.ndim - 2) + (width, width)
    return gaussian_filter(values, widths, mode="reflect", truncate=3.0)


def _box_variance(values, side):
    """Variance over squares of `side` pixels around each pixel, last two axes."""
    sides = (1,) * (values.ndim - 2) + (side, side)
    mean = uniform_filter(values, sides, mode="reflect")
    return np.maximum(uniform_filter(values * values, sides, mode="reflect") - mean**2, 0)


@dataclass(frozen=True)
class Gate:
    """A trained gate: mean and scale (M,) of its features, and layers of a weight (N, O) and a bias (O,) each.

    A gate that looks at the announced features only has M = their number: it takes the first M.
    """

    mean: np.ndarray
    scale: np.ndarray
    layers: tuple[tuple[np.ndarray, np.ndarray], ...]

    def scores(self, found):
        """Scores before the softmax: features (B, M or more, H, W) -> (B, K, H, W)."""
        batch, _, height, width = found.shape
        values = found[:, : len(self.mean)] - self.mean[:, None, None]
        values = (values / self.scale[:, None, None]).reshape(batch, -1, height * width)
        for depth, (weight, bias) in enumerate(self.layers, 1):
            made = np.empty((batch, weight.shape[1], height * width), np.float32)
            kernels.dense_layer(values, weight, bias, depth < len(self.layers), made)
            values = made
        return values.reshape(batch, -1, height, width)

    def attend(self, noisy, outputs, sigma):
        """Weights (B, K, H, W), summing to 1 at each pixel, and the heads F mixed by them (B, 3, H, W)."""
        found, _ = features(noisy, outputs, sigma)
        return self.attend_features(found, outputs)

    def attend_features(self, found, outputs):
        """The same for features (B, M, H, W) that are there already."""
        scores = self.scores(found)
        shares, mixed = np.empty_like(scores), np.empty_like(outputs[0])
        kernels.softmax_mix(scores, outputs, shares, mixed)
        return shares, mixed


def to_arrays(gate, stem=""):
    """A gate as named arrays, for a file."""
    arrays = {f"{stem}mean": gate.mean, f"{stem}scale": gate.scale}
    for depth, (weight, bias) in enumerate(gate.layers):
        arrays[f"{stem}weight{depth}"] = weight
        arrays[f"{stem}bias{depth}"] = bias
    return arrays


def from_arrays(arrays, stem=""):
    """The gate of `to_arrays`; KeyError if a part is missing."""
    depth = sum(name.startswith(f"{stem}weight") for name in arrays)
    layers = tuple((arrays[f"{stem}weight{d}"], arrays[f"{stem}bias{d}"]) for d in range(depth))
    return Gate(arrays[f"{stem}mean"], arrays[f"{stem}scale"], layers)


def mix_pixels(outputs, shares):
    """The heads F (K, B, 3, H, W) mixed by weights for each pixel (B, K, H, W) -> (B, 3, H, W)."""
    return np.einsum("kbchw,bkhw->bchw", outputs, shares.astype(np.float32))


def shuffle_pixels(shares, seed):
    """Weights (B, K, H, W) handed to other pixels of the same image, by one permutation for each image."""
    flat = shares.reshape(*shares.shape[:2], -1)  # (B, K, H W)
    shuffled = np.empty_like(flat)
    for index, image in enumerate(flat):
        order = np.random.default_rng([seed, index]).permutation(flat.shape[2])
        shuffled[index] = image[:, order]
    return shuffled.reshape(shares.shape)


def average_pixels(shares):
    """Weights (B, K, H, W) replaced by their mean over the image."""
    return np.broadcast_to(shares.mean((2, 3), keepdims=True), shares.shape)
