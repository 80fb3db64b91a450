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
    a, b = -GRID / sigma, (1 - GRID) / sigma  # the clamps, in units of the noise
    inside = norm.cdf(b) - norm.cdf(a)  # probability of no clamp; 1 - cdf(b): of white
    low, high = norm.pdf(a), norm.pdf(b)
    mean = GRID * inside + sigma * (low - high) + 1 - norm.cdf(b)
    cross = 2 * GRID * sigma * (low - high)
    noise = sigma**2 * (inside + a * low - b * high)
    second = GRID**2 * inside + cross + noise  # of E[clip^2], the part without a clamp
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
    noise = np.full((len(images), *images.shape[2:]), sigma**2, np.float32)  # (B, H, W)
    first, texture = texture_head(images, noise, settings)
    return np.stack(
        [
            texture,
            structure_head(images, noise, settings),
            colour_head(images, first, settings),
            spatial_head(images, settings),
        ]
    )  # (K, B, 3, H, W)


def texture_head(images, noise, settings):
    """Patch-wise average by 3x3 features, without and with the step of length tau: (B, 3, H, W) each."""
    found = graph.features(images, graph.filter_bank(3, 9))
    walk = graph.edge_weights(
        found,
        noise,
        sigma_f=settings.sigma_f,
        sigma_s=settings.sigma_s,
        radius=settings.radius,
        patch=3,
    )
    first = graph.apply(walk, images, settings.radius)
    return first, graph.diffuse(walk, first, settings.radius, settings.tau)


def structure_head(images, noise, settings):
    """Patch-wise average by 5x5 features: (B, 3, H, W)."""
    found = graph.features(images, graph.filter_bank(5, 12))
    walk = graph.edge_weights(
        found,
        noise,
        sigma_f=settings.sigma_f,
        sigma_s=settings.sigma_s,
        radius=settings.radius,
        patch=5,
    )
    return graph.apply(walk, images, settings.radius)


def colour_head(images, guide, settings):
    """Average of pixels whose colours are alike in the guide (B, 3, H, W), a first estimate: (B, 3, H, W)."""
    found = graph.features(guide, graph.filter_bank(1, 3))
    # what noise is left in the guide: a hundredth of the range
    left = np.full((len(images), *images.shape[2:]), 1e-4, np.float32)
    weights = graph.edge_weights(
        found,
        left,
        sigma_f=settings.colour / 0.01,
        sigma_s=settings.sigma_s,
        radius=settings.radius,
    )
    return graph.apply(graph.random_walk(weights), images, settings.radius)


def spatial_head(images, settings, radius=3):
    """Average by distance alone: (B, 3, H, W)."""
    batch, _, height, width = images.shape
    nothing = np.zeros((batch, 0, height, width), np.float32)  # no features
    unused = np.ones((batch, height, width), np.float32)  # the noise in them
    weights = graph.edge_weights(
        nothing, unused, sigma_f=1.0, sigma_s=settings.spatial, radius=radius
    )
    return graph.apply(graph.random_walk(weights), images, radius)


def probed_heads(images, sigma, settings=Settings(), *, seed, indices=None, clamp=True, step=0.01):
    """Filters, and what SURE needs of them, for noisy images (B, 3, H, W).

    Returns:
        outputs (K, B, 3, H, W); gram (B, K, K) = F'F / N; rhs (B, K) = (F'y - sum_i v_i dF_i/dy_i) / N, N = 3 H W.
        The probe of image b depends on (seed, indices[b]) only; without indices on (seed, b).
    """
    outputs = head_outputs(images, sigma, settings)
    probe = probes(images.shape, seed, indices)
    moved = head_outputs(images + np.float32(step) * probe, sigma, settings)
    pilot = outputs[:3].mean(axis=0)
    variance = clip_variance(pilot, sigma) if clamp else np.float32(sigma**2)
    divergence = (moved - outputs) * (variance * probe / np.float32(step))
    correlation = np.einsum("kbchw,bchw->bk", outputs, images, dtype=np.float64)  # F'y
    rhs = correlation - divergence.sum(axis=(2, 3, 4), dtype=np.float64).T  # (B, K)
    gram = np.einsum("kbchw,lbchw->bkl", outputs, outputs, dtype=np.float64)  # F'F
    return outputs, gram / images[0].size, rhs / images[0].size


def probes(shape, seed, indices=None):
    """Random +-1 of `shape` (B, 3, H, W), float32; that of image b depends on (seed, indices[b] or b) only."""
    names = range(shape[0]) if indices is None else indices
    out = np.empty(shape, np.float32)
    for b, name in enumerate(names):
        coins = np.random.default_rng([seed, int(name)]).integers(0, 2, shape[1:])
        out[b] = 2 * coins - 1
    return out


def attend(gram, rhs, anchor, ridge):
    """Weights (B, K) = argmin a'Ga - 2 a'r + ridge |a - anchor|^2; a large ridge gives back the anchor (K,)."""
    if not ridge >= 0:
        raise ValueError(f"ridge must not be negative, got {ridge}")
    system = gram + ridge * np.eye(gram.shape[-1])
    right = rhs + ridge * np.asarray(anchor)  # (B, K) or (K,)
    return np.linalg.solve(system, right[..., None])[..., 0]


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
    trail = []
    best_risk = np.inf
    for name, values in [*grids.items()] * rounds:
        for value in values:
            trial = replace(settings, **{name: value})
            _, gram, rhs = probed_heads(noisy, sigma, trial, seed=seed)
            risk, weights = global_weights(gram, rhs)
            entry = {"parameter": name, "value": value, "risk": risk, "weights": weights}
            trail.append(entry)
            if risk < best_risk - 1e-9:
                best_risk, best_settings, best_entry = risk, trial, entry
        settings = best_settings
    return settings, [*trail, best_entry]


def global_weights(gram, rhs):
    """One set of weights (K,) for all images, and its SURE without the constant term E[y^2] - v: (risk, weights)."""
    count = gram.shape[-1]
    gram, rhs = gram.mean(0), rhs.mean(0)  # over images: (K, K), (K,)
    weights = attend(gram, rhs, np.full(count, 1 / count), 1e-6)
    risk = weights @ gram @ weights - 2 * weights @ rhs
    return float(risk), weights.tolist()
