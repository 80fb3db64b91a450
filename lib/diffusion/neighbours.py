"""EM in which the hidden variable is the neighbour that a pixel copies: a graph with a likelihood.

    p(j | i) = softmax_j( -t_1 n_ij - t_2 f_ij - t_3 |i - j|^2 + t_4 [j = i] )       the walk of the graph
    x_i given j ~ N(y_j, s^2 I)
    E:  g_ij = p(j | i) N(x_i; y_j, s^2 I) / sum over j
    M:  s^2 in closed form;  t by Newton steps on the concave sum g_ij log p(j | i)
    estimate:  sum_j p(j | i) y_j

n_ij is the distance of noisy features less that of pure noise, f_ij that of the colours of a pilot. The clean pixel x is
seen in training only. The likelihood of a training set cannot fall; the estimate need not get better with it, since
the model explains x as the copy of one neighbour, and the estimate is a mean over all.

Symbols: B images, H, W, S offsets of a stencil, t = (t_1, ..., t_4) parameters; float64 sums.
"""

from dataclasses import dataclass

import numpy as np

from lib.diffusion import graph, heads

FAR = np.float32(-1e9)  # log-weight of a neighbour outside the image
FEATURES = (3, 9)  # side and number of the filters behind n_ij


@dataclass(frozen=True)
class Neighbourhood:
    """What the walk of some images depends on: distances n and f (B, S, H, W), |i - j|^2 (S,), inside (S, H, W)."""

    noisy_apart: np.ndarray
    pilot_apart: np.ndarray
    far: np.ndarray
    inside: np.ndarray
    radius: float


@dataclass(frozen=True)
class Fit:
    """Parameters t (4,), the variance s^2, and the mean log-likelihood of a pixel with them."""

    parameters: np.ndarray
    variance: float
    likelihood: float


def start(variance=0.02):
    """The announced constants: bandwidths of 0.3 for both features, 5 pixels for positions, no weight for itself."""
    return Fit(
        np.array([1 / (2 * 0.3**2), 1 / (2 * 0.3**2), 1 / (2 * 5.0**2), 0.0]), variance, -np.inf
    )


def neighbourhood(noisy, pilot, sigma, radius=6):
    """Distances between each pixel and its neighbours, from noisy images and their pilot (B, 3, H, W)."""
    offsets = graph.stencil(radius)
    found = graph.features(noisy, graph.filter_bank(*FEATURES))
    noisy_apart = shifted_distances(found, offsets)
    noisy_apart = np.maximum(noisy_apart - np.float32(2 * sigma**2), 0)
    height, width = noisy.shape[2:]
    inside = np.stack([_inside(offset, height, width) for offset in offsets])
    far = (offsets**2).sum(1).astype(np.float32)
    return Neighbourhood(noisy_apart, shifted_distances(pilot, offsets), far, inside, radius)


def _inside(offset, height, width):
    """Which pixels (H, W) have a neighbour at this offset inside the image."""
    rows = np.arange(height) + offset[0]
    columns = np.arange(width) + offset[1]
    return ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))


def shifted_distances(values, offsets, others=None):
    """Mean squared difference over channels of each pixel and its neighbours: (B, C, H, W) -> (B, S, H, W).

    Neighbours are taken from `others` where it is given; outside the image the distance is 0.
    """
    others = values if others is None else others
    batch, _, height, width = values.shape
    out = np.zeros((batch, len(offsets), height, width), np.float32)
    for s, (dy, dx) in enumerate(offsets):
        here = np.s_[:, :, max(0, -dy) : height - max(0, dy), max(0, -dx) : width - max(0, dx)]
        there = np.s_[:, :, max(0, dy) : height - max(0, -dy), max(0, dx) : width - max(0, -dx)]
        out[:, s, *here[2:]] = ((values[here] - others[there]) ** 2).mean(1)
    return out


def walk(near, parameters):
    """log p(j | i) (B, S, H, W)."""
    first, second, third, own = np.asarray(parameters, np.float32)
    scores = -first * near.noisy_apart - second * near.pilot_apart
    scores -= (third * near.far)[:, None, None]
    scores[:, 0] += own
    scores[:, ~near.inside] = FAR
    top = scores.max(axis=1, keepdims=True)
    return scores - top - np.log(np.exp(scores - top).sum(axis=1, keepdims=True))


def estimate(near, parameters, noisy, sigma):
    """Clean images from noisy ones (B, 3, H, W): the mean over neighbours, bias of clamping undone."""
    weights = np.ascontiguousarray(np.exp(walk(near, parameters)), np.float32)
    return heads.unclip(graph.apply(weights, noisy, near.radius), sigma)


def em_step(near, apart, fit):
    """One step on images whose clean pixels lie at mean squared distances `apart` (B, S, H, W) from noisy neighbours.

    Returns:
        the next Fit; its likelihood is that of the parameters given, before the step.
    """
    prior = walk(near, fit.parameters)
    logs = prior - 1.5 * apart / np.float32(fit.variance)
    logs -= np.float32(1.5 * np.log(2 * np.pi * fit.variance))
    top = logs.max(axis=1, keepdims=True)
    share = np.exp(logs - top)
    total = share.sum(axis=1, keepdims=True)
    share /= total
    likelihood = float((top + np.log(total)).mean(dtype=np.float64))
    variance = float((share * apart).sum(dtype=np.float64) / share.sum(dtype=np.float64))
    parameters = fit.parameters
    for _ in range(2):
        parameters = newton(near, share, parameters)
    return Fit(parameters, variance, likelihood)


def newton(near, share, parameters):
    """One Newton step of t on the mean of sum_j g_ij log p(j | i), shortened until it does not fall."""
    logs = walk(near, parameters)
    before = _explained(share, logs, near)
    prior = np.exp(logs)
    own = np.zeros(len(near.far), np.float32)
    own[0] = 1
    parts = [
        -near.noisy_apart,
        -near.pilot_apart,
        np.broadcast_to(-near.far[:, None, None], prior.shape),
        np.broadcast_to(own[:, None, None], prior.shape),
    ]
    count = prior[:, 0].size
    means = [(prior * part).sum(1) for part in parts]  # (B, H, W) each
    gradient = [float(((share - prior) * part).sum(dtype=np.float64)) / count for part in parts]
    curvature = np.empty((4, 4))
    for a in range(4):
        for b in range(4):
            second = float((prior * parts[a] * parts[b]).sum(dtype=np.float64))
            curvature[a, b] = (second - float((means[a] * means[b]).sum(dtype=np.float64))) / count
    step = np.linalg.solve(curvature + 1e-9 * np.eye(4), gradient)
    for length in (1.0, 0.5, 0.25, 0.1, 0.03):
        trial = parameters + length * step
        trial[:3] = np.maximum(trial[:3], 1e-3)
        if _explained(share, walk(near, trial), near) >= before:
            return trial
    return parameters


def _explained(share, logs, near):
    """Mean over pixels of sum_j g_ij log p(j | i)."""
    kept = np.where(near.inside, share * logs, 0)
    return float(kept.sum(dtype=np.float64)) / logs[:, 0].size
