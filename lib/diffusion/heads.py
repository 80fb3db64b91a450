"""Four heads: graph filters that look at texture, structure, colour and position, and the attention that mixes
them.

    x = sum_h a_h F_h(y),   a = argmin  E |F a - u|^2   estimated without clean data by SURE (Stein 1981):
    (F'F + ridge) a = F'y - sum_i v_i dF_i/dy_i

u is the mean of the clamped observation y; the divergence is taken with one random +-1 probe (Ramani, Blu and
Unser, TIP 2008) and the linear mix is SURE-LET (Blu and Luisier, TIP 2007). Noise clamped to [0, 1] is neither
centred nor of constant variance: `clip_mean` and `clip_variance` describe it, and `unclip` undoes the bias of any
estimate of u.

Departure from the announced heads: there the weights are clipped statistics of the patches that never touch a
pixel; here they are the least-squares weights of four filters, per image, and may be negative. Symbols as in
graph.py; K = 4 heads."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from scipy.stats import norm

from lib.diffusion import graph

HEADS = ("texture", "structure", "colour", "spatial")
GRID = np.linspace(0, 1, 4097)


@dataclass(frozen=True)
class Settings:
    """What decides the four filters; lengths in pixels, sigma_f in units of the noise, colour in pixel values."""

    sigma_f: float = 0.85
    sigma_s: float = 5.0
    radius: float = 7.0
    tau: float = 0.05
    colour: float = 0.07
    spatial: float = 0.7


@cache
def _clip_curves(sigma):
    """Mean and variance of clip(x + sigma n, 0, 1) on GRID, float64 (4097,) each."""
    if not 0 < sigma <= 1:
        raise ValueError(
            f"sigma must be above 0 and at most 1 (pixel values in [0, 1]), got {sigma}"
        )
    a, b = -GRID / sigma, (1 - GRID) / sigma
    inside, low, high = norm.cdf(b) - norm.cdf(a), norm.pdf(a), norm.pdf(b)
    mean = GRID * inside + sigma * (low - high) + 1 - norm.cdf(b)
    second = (
        GRID**2 * inside
        + 2 * GRID * sigma * (low - high)
        + sigma**2 * (inside + a * low - b * high)
    )
    return mean, second + 1 - norm.cdf(b) - mean**2


def clip_mean(clean, sigma):
    """E[clip(x + n, 0, 1)] for n ~ N(0, sigma^2), elementwise, float32."""
    return np.interp(clean, GRID, _clip_curves(sigma)[0]).astype(np.float32)


def clip_variance(mean, sigma):
    """Variance of the clamped observation whose mean is `mean`, elementwise, float32."""
    curve, variance = _clip_curves(sigma)
    return np.interp(mean, curve, variance).astype(np.float32)


def unclip(mean, sigma):
    """The pixel value in [0, 1] whose clamped observation has this mean: the inverse of `clip_mean`, elementwise."""
    return np.interp(mean, _clip_curves(sigma)[0], GRID).astype(np.float32)


def head_outputs(images, sigma, settings=Settings()):
    """The four filters of noisy images (B, 3, H, W): (K, B, 3, H, W) float32, in the order of HEADS.

    texture: 3x3 colour-DCT features, patch-wise average of 3x3 patches, then one diffusion step of length tau;
    structure: 5x5 features and patches; colour: the colours of the texture head's estimate decide, pixel by pixel;
    spatial: distance alone.
    """
    _clip_curves(sigma)  # refuses a sigma out of range
    images = graph.check_images(images)
    s, shape = settings, (len(images), *images.shape[2:])
    noise = np.full(shape, sigma**2, np.float32)
    texture = graph.features(images, graph.filter_bank(3, 9))
    near = {"sigma_s": s.sigma_s, "radius": s.radius}
    walk = graph.edge_weights(texture, noise, sigma_f=s.sigma_f, patch=3, **near)
    first = graph.apply(walk, images, s.radius)
    out = [graph.diffuse(walk, first, s.radius, s.tau)]
    structure = graph.features(images, graph.filter_bank(5, 12))
    walk = graph.edge_weights(structure, noise, sigma_f=s.sigma_f, patch=5, **near)
    out.append(graph.apply(walk, images, s.radius))
    guide = graph.features(first, graph.filter_bank(1, 3))
    small = np.full(
        shape, 1e-4, np.float32
    )  # what noise is left in the guide: a hundredth of the range
    walk = graph.edge_weights(guide, small, sigma_f=s.colour / 0.01, **near)
    out.append(graph.apply(graph.random_walk(walk), images, s.radius))
    nothing = np.zeros((shape[0], 0, *shape[1:]), np.float32)
    walk = graph.edge_weights(nothing, noise, sigma_f=1.0, sigma_s=s.spatial, radius=3)
    out.append(graph.apply(graph.random_walk(walk), images, 3))
    return np.stack(out)  # (K, B, 3, H, W)


def probed_heads(images, sigma, settings=Settings(), *, seed, indices=None, clamp=True, step=0.01):
    """Filters, and what SURE needs of them, for noisy images (B, 3, H, W).

    Returns:
        outputs (K, B, 3, H, W); gram (B, K, K) = F'F / N; rhs (B, K) = (F'y - sum_i v_i dF_i/dy_i) / N, N = 3 H W.
        The probe of image b depends on (seed, indices[b]) only; without indices on (seed, b).
    """
    outputs = head_outputs(images, sigma, settings)
    names = range(len(images)) if indices is None else indices
    coins = [
        np.random.default_rng([seed, int(name)]).integers(0, 2, images.shape[1:]) for name in names
    ]
    probe = np.stack(coins).astype(np.float32) * 2 - 1  # (B, 3, H, W) of +-1
    moved = head_outputs(images + np.float32(step) * probe, sigma, settings)
    pilot = outputs[:3].mean(axis=0)
    variance = clip_variance(pilot, sigma) if clamp else np.float32(sigma**2)
    divergence = (moved - outputs) * (variance * probe / np.float32(step))
    axes = "kbchw,bchw->bk"
    rhs = (
        np.einsum(axes, outputs, images, dtype=np.float64)
        - divergence.sum(axis=(2, 3, 4), dtype=np.float64).T
    )
    gram = np.einsum("kbchw,lbchw->bkl", outputs, outputs, dtype=np.float64)
    return outputs, gram / images[0].size, rhs / images[0].size


def attend(gram, rhs, anchor, ridge):
    """Weights (B, K) = argmin a'Ga - 2 a'r + ridge |a - anchor|^2; a large ridge gives back the anchor (K,)."""
    if not ridge >= 0:
        raise ValueError(f"ridge must not be negative, got {ridge}")
    system = gram + ridge * np.eye(gram.shape[-1])
    return np.linalg.solve(system, (rhs + ridge * np.asarray(anchor))[..., None])[
        ..., 0
    ]  # (B, K) or (K,)


def mix(outputs, weights):
    """Mix filters (K, B, 3, H, W) by weights (B, K) -> (B, 3, H, W) float32."""
    return np.einsum("kbchw,bk->bchw", outputs, weights.astype(np.float32))


GRIDS = {
    "sigma_f": (0.7, 0.85, 1.0),
    "sigma_s": (3.0, 4.0, 5.0, 7.0),
    "radius": (4.0, 5.0, 6.0, 7.0),
    "tau": (0.0, 0.05, 0.2),
    "colour": (0.06, 0.07, 0.08, 0.09, 0.1),
}


def tune(noisy, sigma, settings, *, seed, grids=GRIDS, rounds=1):
    """Learn the filters' parameters from noisy images (B, 3, H, W) alone: coordinate descent on SURE.

    Returns:
        the best Settings, and the trail: a dict a trial with the parameter, its value, `risk` = SURE of the best global
        mix (mean squared error, up to the noise's own share) and these `weights` (K,). The last entry is the best.
    """
    trail, best = [], None
    for name, values in [*grids.items()] * rounds:
        for value in values:
            trial = replace(settings, **{name: value})
            risk, weights = global_weights(*probed_heads(noisy, sigma, trial, seed=seed)[1:])
            trail.append({"parameter": name, "value": value, "risk": risk, "weights": weights})
            if best is None or risk < best[0] - 1e-9:
                best = (risk, trial, trail[-1])
        settings = best[1]
    return settings, [*trail, best[2]]


def global_weights(gram, rhs):
    """One set of weights (K,) for all images, and its SURE without the constant term E[y^2] - v: (risk, weights)."""
    weights = attend(gram.mean(0), rhs.mean(0), np.full(gram.shape[-1], 1 / gram.shape[-1]), 1e-6)
    return float(weights @ gram.mean(0) @ weights - 2 * weights @ rhs.mean(0)), weights.tolist()
