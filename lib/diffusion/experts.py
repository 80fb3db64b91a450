"""The lightly trained denoiser: the E step chooses a linear map, which sees the noisy patch and what the heads made of it.

For each component k of the prior, one ridge regression from a window of the noisy image and of the heads' estimate to the
clean patch in its middle. The choice is the E step's largest responsibility; overlapping answers are averaged. Since the
maps are fitted on clamped noise, they need no separate correction of the bias that clamping brings.

Sources: Jordan and Jacobs, "Hierarchical mixtures of experts and the EM algorithm", Neural Computation 1994; Romano,
Isidoro and Milanfar, RAISR, 2017 (a bank of filters chosen by hashing; here the posterior chooses).

Symbols: B images, H, W; p window side (the prior's patch), q = p - 2 side of the answer, I inputs = 2 * 3 p^2 + 1.
"""

from dataclasses import fields

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from lib.diffusion import em, heads
from lib.files import atomic
from lib.params import UserError

BATCH = 50  # images of one step of a sum; fixed, so that a fit gives the same bytes again


def pilot(images, sigma, settings, weights):
    """The heads' estimate of the clean image by fixed weights (4,): (B, 3, H, W) -> the same shape."""
    outputs = heads.head_outputs(images, sigma, settings)
    shares = np.broadcast_to(np.asarray(weights, np.float32), (len(images), len(outputs)))
    return heads.unclip(heads.mix(outputs, shares), sigma)


def _windows(images, patch):
    """Windows (N, D) centred on every pixel's answer, mirrored by one pixel at the border, N = B (H - q + 1)(W - q + 1)."""
    return em.extract(np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="symmetric"), patch)


def _inputs(prior, noisy, estimate, sigma):
    """Inputs (N, I) of the maps and the component (N,) that the E step chooses."""
    seen = _windows(noisy, prior.patch)
    chosen = np.empty(len(seen), np.int64)
    for start in range(0, len(seen), em.CHUNK):
        coordinates = (seen[start : start + em.CHUNK] - prior.mean) @ prior.basis[:, : prior.means.shape[1]]
        chosen[start : start + em.CHUNK] = em.log_joint(prior, coordinates, sigma).argmax(axis=1)
    half = np.float32(0.5)
    columns = [seen - half, _windows(estimate, prior.patch) - half, np.ones((len(seen), 1), np.float32)]
    return np.concatenate(columns, axis=1), chosen


def fit_experts(prior, clean, noisy, estimate, sigma, *, ridge=3.0):
    """Linear maps (K, I, 3 q^2) float32 from clean, noisy and pilot images (B, 3, H, W) each.

    Args:
        ridge: pull of every map towards the one map fitted on all patches, in patches' worth of unit variance.

    Raises:
        ValueError: the three stacks differ in shape.
    """
    if not clean.shape == noisy.shape == estimate.shape:
        raise ValueError(f"clean, noisy and pilot differ in shape: {clean.shape}, {noisy.shape}, {estimate.shape}")
    count, inputs, answer = len(prior.weights), 6 * prior.patch**2 + 1, prior.patch - 2
    gram = np.zeros((count, inputs, inputs))
    cross = np.zeros((count, inputs, 3 * answer**2))
    for start in range(0, len(clean), BATCH):
        part = slice(start, start + BATCH)
        x, chosen = _inputs(prior, noisy[part], estimate[part], sigma)
        target = em.extract(clean[part], answer) - np.float32(0.5)
        for k in np.unique(chosen):
            own = chosen == k
            gram[k] += x[own].T @ x[own]
            cross[k] += x[own].T @ target[own]
    unit = ridge * np.eye(inputs)
    shared = np.linalg.solve(gram.sum(0) + unit, cross.sum(0))
    return np.stack([np.linalg.solve(g + unit, c + ridge * shared) for g, c in zip(gram, cross, strict=True)]).astype(
        np.float32
    )


def apply_experts(prior, maps, noisy, estimate, sigma):
    """Clean images in [0, 1] from noisy ones and their pilot, (B, 3, H, W) each, by maps of `fit_experts`."""
    out = np.empty_like(noisy)
    for start in range(0, len(noisy), BATCH):
        part = slice(start, start + BATCH)
        x, chosen = _inputs(prior, noisy[part], estimate[part], sigma)
        answers = np.empty((len(x), maps.shape[2]), np.float32)
        for k in np.unique(chosen):
            own = chosen == k
            answers[own] = x[own] @ maps[k]
        out[part] = em.overlap(answers, noisy[part].shape, prior.patch - 2) + np.float32(0.5)
    return np.clip(out, 0, 1)
