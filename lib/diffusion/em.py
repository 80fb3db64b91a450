"""EM for a Gaussian mixture over image patches, in which the E step is attention over components.

    y = x + n,  n ~ N(0, s^2 I),  x ~ sum_k pi_k N(mu_k, C_k)
    E: g_ik = softmax_k( log pi_k + log N(y_i; mu_k, C_k + s^2 I) )
    M: pi_k, mu_k weighted means;  weighted covariance = U diag(l) U',  C_k = U diag(max(l - s^2, floor)) U'
    estimate: x_i = sum_k g_ik [mu_k + C_k (C_k + s^2 I)^-1 (y_i - mu_k)], overlapping patches averaged

The M step is the exact maximum under C_k >= floor, so the likelihood cannot fall. With s = 0 the patches are clean;
with s > 0 the same steps learn the prior from noisy patches alone. sigma itself comes from `estimate_noise`, not
from EM, where it stalls near its start.

Sources: Zoran and Weiss, "From learning models of natural image patches to whole image restoration", ICCV 2011;
Teodoro, Almeida and Figueiredo, "Single-frame image denoising and inpainting using Gaussian mixtures", 2015;
Houdard, Bouveyron and Delon, HDMI, 2018. Departure: the mixture lives in the R leading principal directions of all
patches, where all but a fraction of a percent of the variance is; the other directions share one Gaussian with
diagonal covariance.

Symbols: B images, H, W; p patch side, D = 3 p^2 (channel, row, column); N patches, R directions, K components.
"""

from dataclasses import dataclass, replace

import numpy as np

from lib.diffusion import graph

FLOOR = 1e-5  # smallest variance of a component in any direction: about half a grey level of 256, squared
BATCH = 50  # images denoised at once; bounds the memory
CHUNK = 32768  # patches of one step of a sum; fixed, so sums do not depend on memory


@dataclass(frozen=True)
class Prior:
    """A patch prior: mean (D,); basis (D, D), the R directions of the mixture first; rest (D - R,) variances;
    weights (K,), means (K, R), vectors (K, R, R) and values (K, R) of the mixture; class_weights (10, K) or (0, K).
    """

    mean: np.ndarray
    basis: np.ndarray
    rest: np.ndarray
    weights: np.ndarray
    means: np.ndarray
    vectors: np.ndarray
    values: np.ndarray
    class_weights: np.ndarray

    @property
    def patch(self):
        """Side p of a patch in pixels; D = 3 p^2."""
        return round((len(self.mean) / 3) ** 0.5)


def extract(images, patch):
    """All patches (N, D) of images (B, 3, H, W), row by row, N = B (H - p + 1)(W - p + 1); checks the images."""
    images = graph.check_images(images, patch)
    sides = (patch, patch)
    windows = np.lib.stride_tricks.sliding_window_view(images, sides, axis=(2, 3))
    windows = windows.transpose(0, 2, 3, 1, 4, 5)  # (B, H', W', 3, p, p)
    return np.ascontiguousarray(windows).reshape(-1, 3 * patch**2)  # (N, D)


def overlap(patches, shape, size):
    """Images (B, 3, H, W) of `shape`: every pixel the mean over the patches (N, 3 size^2) that cover it."""
    batch, _, height, width = shape
    rows, columns = height - size + 1, width - size + 1
    cells = patches.reshape(batch, rows, columns, 3, size, size)
    out = np.zeros(shape, np.float32)
    count = np.zeros((height, width), np.float32)  # patches that cover a pixel
    for i in range(size):
        for j in range(size):
            out[:, :, i : i + rows, j : j + columns] += cells[..., i, j].transpose(0, 3, 1, 2)
            count[i : i + rows, j : j + columns] += 1
    return out / count


def log_joint(prior, coordinates, sigma):
    """log pi_k + log N(y_i; mu_k, C_k + sigma^2 I) in the mixture's directions: (N, R) -> (N, K) float32."""
    out = np.empty((len(coordinates), len(prior.weights)), np.float32)
    for k, weight in enumerate(prior.weights):
        variance = prior.values[k].astype(np.float64) + sigma**2
        whiten = (prior.vectors[k] / np.sqrt(variance)).astype(np.float32)  # (R, R)
        z = coordinates @ whiten - prior.means[k] @ whiten
        constant = np.log(max(weight, 1e-30)) - 0.5 * np.log(2 * np.pi * variance).sum()
        out[:, k] = constant - 0.5 * np.einsum("nr,nr->n", z, z)
    return out


def attention(scores):
    """Softmax over components and the log-likelihood: (N, K) -> responsibilities (N, K), log p(y_i) (N,)."""
    top = scores.max(axis=1, keepdims=True)
    shares = np.exp(scores - top)
    total = shares.sum(axis=1, keepdims=True)
    return shares / total, (top + np.log(total))[:, 0]


def fit_prior(patches, components, rank, iterations, *, seed, sigma=0.0):
    """Fit a prior to patches (N, D) by EM.

    Args:
        components, rank: K and R. sigma: of the noise in the patches; 0 when they are clean.

    Returns:
        the Prior, and the history (iterations,) of mean log p(y_i) over the mixture's directions, before each M step.

    Raises:
        ValueError: fewer patches than 2 K or R, patches that are not finite, or sigma negative.
    """
    patches = np.asarray(patches, np.float32)
    if patches.ndim != 2 or not np.isfinite(patches).all():
        raise ValueError("patches must be a finite array (N, D); look for NaN or infinite pixels")
    enough = len(patches) >= max(2 * components, rank)
    possible = components >= 1 and 1 <= rank <= patches.shape[1]
    if not (enough and possible):
        raise ValueError(
            f"{components} components of rank {rank} need more than patches of shape {patches.shape}"
        )
    if not 0 <= sigma <= 1:
        raise ValueError(f"sigma must be from 0 to 1, got {sigma}")
    prior, coordinates = _start(patches, components, rank, seed, sigma)
    history = []
    for _ in range(iterations):
        prior, likelihood = _em_step(prior, coordinates, sigma)
        history.append(likelihood)
    return prior, np.array(history)


def _start(patches, components, rank, seed, sigma):
    """The Prior before the first step, and the patches in its directions (N, R)."""
    rng = np.random.default_rng(seed)
    mean, variances, basis = _principal_directions(patches)
    coordinates = (patches - mean) @ basis[:, :rank]  # (N, R)
    drawn = rng.permutation(len(coordinates))[: 200 * components]
    centres, spread = _clusters(coordinates[drawn], components, variances[:rank])
    values, vectors = _floored(spread, sigma)
    prior = Prior(
        mean=mean,
        basis=basis,
        rest=np.maximum(variances[rank:] - sigma**2, FLOOR).astype(np.float32),
        weights=np.full(components, 1 / components),
        means=centres,
        vectors=vectors,
        values=values,
        class_weights=np.empty((0, components), np.float32),
    )
    return prior, coordinates


def _principal_directions(patches):
    """Mean (D,), variances (D,) from the largest down, and directions (D, D) in that order, of patches (N, D)."""
    mean = patches.mean(axis=0, dtype=np.float64).astype(np.float32)
    centred = (patches - mean).astype(np.float64)
    variances, basis = np.linalg.eigh(np.cov(centred.T))  # from the smallest up
    return mean, variances[::-1], np.ascontiguousarray(basis[:, ::-1], np.float32)


def _clusters(sample, components, variances, rounds=6):
    """Centres (K, R) by a few rounds of k-means on sample (N, R), and covariances (K, R, R).

    Each covariance is drawn towards a tenth of the common variances (R,), with the weight of R patches.
    """
    rank = sample.shape[1]
    centres = sample[:components].copy()
    for _ in range(rounds):
        # |x - c|^2 without |x|^2, which is the same for all centres
        distances = (centres**2).sum(1) - 2 * sample @ centres.T  # (N, K)
        owner = np.argmin(distances, axis=1)
        for k in np.unique(owner):
            centres[k] = sample[owner == k].mean(axis=0)
    shared = np.diag(variances)
    spread = np.empty((components, rank, rank))
    for k in range(components):
        own = sample[owner == k] - centres[k]
        spread[k] = (own.T @ own + 0.1 * rank * shared) / (len(own) + rank)
    return centres, spread


def _floored(covariances, sigma):
    """Variances without the noise, at least FLOOR, and directions of covariances (K, R, R): (K, R), (K, R, R)."""
    values, vectors = np.linalg.eigh(covariances)
    clean = np.maximum(values - sigma**2, FLOOR)
    return clean.astype(np.float32), vectors.astype(np.float32)


def _em_step(prior, coordinates, sigma):
    """One E and one M step on coordinates (N, R): the new Prior, and the mean log-likelihood of the old one."""
    mass, first, second, likelihood = _expectations(prior, coordinates, sigma)
    new = _maximise(prior, mass, first, second, sigma)
    return new, likelihood / len(coordinates)


def _expectations(prior, coordinates, sigma):
    """The E step's sums over patches y: g, g (y - mu), g (y - mu)(y - mu)' for each component, and log p(y).

    Returns:
        (K,), (K, R), (K, R, R) and a number, float64.
    """
    components, rank = prior.means.shape
    mass = np.zeros(components)
    first = np.zeros((components, rank))
    second = np.zeros((components, rank, rank))
    likelihood = 0.0
    for start in range(0, len(coordinates), CHUNK):
        block = coordinates[start : start + CHUNK]
        share, logs = attention(log_joint(prior, block, sigma))
        likelihood += logs.sum(dtype=np.float64)
        for k in range(components):
            near = np.flatnonzero(share[:, k] > 1e-6)  # the rest adds nothing
            off = block[near] - prior.means[k]
            weighted = off * share[near, k, None]
            mass[k] += share[near, k].sum(dtype=np.float64)
            first[k] += weighted.sum(axis=0, dtype=np.float64)
            second[k] += weighted.T @ off
    return mass, first, second, likelihood


def _maximise(prior, mass, first, second, sigma):
    """The M step: the Prior that the E step's sums make likeliest.

    An almost empty component keeps its shape, so that it cannot collapse onto a patch.
    """
    rank = prior.means.shape[1]
    alive = mass > rank / 10  # (K,)
    counted = np.maximum(mass, 1e-9)
    shift = first / counted[:, None]  # (K, R), new mean minus old
    outer = shift[:, :, None] * shift[:, None, :]
    spread = second / counted[:, None, None] - outer  # (K, R, R)
    spread = np.where(alive[:, None, None], spread, np.eye(rank))
    values, vectors = _floored(spread, sigma)
    means = np.where(alive[:, None], prior.means + shift, prior.means)
    return replace(
        prior,
        weights=mass / mass.sum(),
        means=means.astype(np.float32),
        values=np.where(alive[:, None], values, prior.values),
        vectors=np.where(alive[:, None, None], vectors, prior.vectors),
    )


def estimate_noise(images, patch=5):
    """Noise level of images (B, 3, H, W): root of the mean of the smallest quarter of the patches' eigenvalues.

    0 for images without any variation. Clamping shrinks noise, so the answer is the level that is left after it.
    """
    patches = extract(images, patch)
    patches -= patches.mean(axis=0, dtype=np.float64).astype(np.float32)
    values = np.linalg.eigvalsh((patches.T @ patches).astype(np.float64) / len(patches))
    return float(np.sqrt(max(0.0, values[: len(values) // 4].mean())))


def denoise(images, prior, sigma, weights=None):
    """Posterior mean of every patch, overlapping patches averaged: (B, 3, H, W) -> the same shape.

    Args:
        sigma: of the noise, 0 to 1, else ValueError; 0 returns the images.
        weights: (B, K) mixture weights of each image instead of the prior's, for example by class.
    """
    if not 0 <= sigma <= 1:
        raise ValueError(f"sigma must be from 0 to 1, got {sigma}")
    images = graph.check_images(images, prior.patch)
    if sigma == 0:
        return images.copy()
    out = np.empty_like(images)
    for start in range(0, len(images), BATCH):
        part = slice(start, start + BATCH)
        own = None if weights is None else weights[part]
        out[part] = _posterior_mean(images[part], prior, sigma, own)
    return out


def _posterior_mean(images, prior, sigma, weights):
    """`denoise` for a few images that were checked."""
    patches = extract(images, prior.patch)
    rank = prior.means.shape[1]
    coordinates = (patches - prior.mean) @ prior.basis  # (N, D)
    mixture = coordinates[:, :rank]
    rest = coordinates[:, rank:] * (prior.rest / (prior.rest + sigma**2))
    scores = log_joint(prior, mixture, sigma)
    if weights is not None:
        change = np.log(weights / prior.weights)  # (B, K)
        scores += np.repeat(change, len(patches) // len(images), axis=0).astype(np.float32)
    share, _ = attention(scores)
    estimate = np.zeros_like(mixture)
    for k in range(len(prior.weights)):
        near = np.flatnonzero(share[:, k] > 1e-4)  # the rest adds nothing
        shrink = _shrinkage(prior, k, sigma)
        shrunk = prior.means[k] + (mixture[near] - prior.means[k]) @ shrink
        estimate[near] += share[near, k, None] * shrunk
    full = np.concatenate([estimate, rest], axis=1) @ prior.basis.T + prior.mean  # (N, D)
    return overlap(full, images.shape, prior.patch)


def _shrinkage(prior, k, sigma):
    """C_k (C_k + sigma^2 I)^-1 of component k, (R, R) float32."""
    vectors, values = prior.vectors[k], prior.values[k]
    shrink = (vectors * (values / (values + sigma**2))) @ vectors.T
    return shrink.astype(np.float32)


def fit_class_weights(prior, images, labels, rounds=5, sigma=0.0):
    """The prior with mixture weights of each of ten classes (EM on the weights alone, components shared).

    From images (B, 3, H, W) with noise sigma and labels (B,), 0 to 9; ValueError for a class without images.
    """
    table = np.empty((10, len(prior.weights)))
    for c in range(10):
        if not (labels == c).any():
            raise ValueError(f"no image of class {c}: every class needs at least one")
        base = _component_scores(prior, images[labels == c], sigma)  # (N, K)
        weights = prior.weights.copy()
        for _ in range(rounds):
            share, _ = attention(base + np.log(weights).astype(np.float32))
            weights = share.mean(axis=0, dtype=np.float64) + 1e-6  # no component dies out
            weights /= weights.sum()
        table[c] = weights
    return replace(prior, class_weights=table)


def _component_scores(prior, images, sigma):
    """log N(y_i; mu_k, C_k + sigma^2 I) without the weights, for all patches of images: (N, K) float32."""
    leading = prior.basis[:, : prior.means.shape[1]]
    coordinates = (extract(images, prior.patch) - prior.mean) @ leading  # (N, R)
    return log_joint(prior, coordinates, sigma) - np.log(prior.weights).astype(np.float32)


def class_posterior(prior, images, sigma):
    """p(class | image) (B, 10) of noisy images (B, 3, H, W) from the likelihoods of their patches.

    Tempered by 1 / p^2, since p^2 patches see each pixel; ValueError for a prior without class weights.
    """
    if not len(prior.class_weights):
        raise ValueError("the prior has no class weights; make them with fit_class_weights")
    base = _component_scores(prior, images, sigma)  # (N, K)
    logs = []
    for weights in prior.class_weights:
        _, patch_logs = attention(base + np.log(weights).astype(np.float32))
        logs.append(patch_logs.reshape(len(images), -1))  # (B, patches of an image)
    evidence = np.stack(logs, axis=1).sum(axis=2, dtype=np.float64)  # (B, 10)
    posterior, _ = attention(evidence / prior.patch**2)
    return posterior
