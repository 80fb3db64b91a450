"""The graph of an image and diffusion on it.

Nodes are pixels, each the centre of a patch (stride 1, so every pixel is covered). The edges of a node are a fixed
stencil of offsets, the same for all nodes and images; on the regular grid that is what a KD-tree would find
(`tree_neighbours`, for centres that lie anywhere). An edge weighs

    w_ij = k( max(0, |f_i - f_j|^2 - v_i - v_j) / (h^2 (v_i + v_j) / 2) + |i - j|^2 / (2 sigma_s^2) )

with f = M orthonormal filter responses, v = M times the noise variance at the pixel and k(z) = max(0, 1 - z/16)^16,
a compact stand-in for exp(-z). A node's own weight is the largest of its others. Operators on the row-normalised
walk P = D^-1 W: P itself, the symmetric Sinkhorn balance of W, the heat kernel exp(-t(I - P)), the resolvent (I +
tau(I - P))^-1, and patch-wise averaging, in which the weights of all patches that cover a pixel are averaged first.

Sources: Buades, Coll and Morel, "A non-local algorithm for image denoising", CVPR 2005; Pang and Cheung, "Graph
Laplacian regularization for image denoising", TIP 2017 (arXiv:1604.07948); Chan, Zickler and Lu, "Understanding
symmetric smoothing filters" (arXiv:1601.00088). Departures: noise-corrected distances, compact kernel, fixed DCT
filters instead of PCA.

The loops over pixels stand in kernels.py.

Symbols: B images, C channels, H, W, M features, S offsets of the stencil; float32. The number of threads never
changes a result.
"""

from functools import cache

import numpy as np
from scipy.spatial import cKDTree

from lib.diffusion import kernels

OPPONENT = np.array([[1, 1, 1], [1, 0, -1], [0.5, -1, 0.5]]) / np.sqrt([[3.0], [2.0], [1.5]])


def check_images(images, smallest=8):
    """Return images as float32 (B, C, H, W); ValueError if shape, size or values cannot be used."""
    images = np.asarray(images, dtype=np.float32)
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"images must have shape (B, 3, H, W), got {images.shape}; add the batch axis or reorder"
        )
    if min(images.shape[2:]) < smallest:
        raise ValueError(
            f"images are {images.shape[2]} x {images.shape[3]}; need at least {smallest} pixels a side"
        )
    if not np.isfinite(images).all():
        raise ValueError("images hold NaN or infinite pixels; repair them before denoising")
    if len(images) and (images.min() < -4 or images.max() > 5):
        raise ValueError(
            "images must be scaled to about [0, 1] (noise may overshoot); divide bytes by 255"
        )
    return images


def stencil(radius):
    """Offsets (S, 2) int64 of all nodes within Euclidean `radius` pixels, the node itself first."""
    if not 1 <= radius <= 16:
        raise ValueError(f"radius must be from 1 to 16 pixels, got {radius}")
    reach = int(radius)
    offsets = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1).T
    offsets = offsets[(offsets**2).sum(1) <= radius**2]
    return offsets[np.argsort((offsets**2).sum(1), kind="stable")]  # (S, 2)


def tree_neighbours(centres, radius):
    """For free-form centres (N, 2): a list of N sorted index arrays, all nodes within `radius`, found by a KD-tree."""
    tree = cKDTree(np.asarray(centres, dtype=float))
    return [np.array(sorted(found)) for found in tree.query_ball_point(tree.data, radius + 1e-9)]


@cache
def filter_bank(size, count):
    """The `count` smoothest of the 3 size^2 orthonormal colour-DCT filters, (M, 3, size, size) float32."""
    basis = cosines(size)
    ranked = []
    for colour, down, across in np.ndindex(3, size, size):
        # luminance first: a chroma filter counts as one and a half frequencies higher
        roughness = down + across + (1.5 if colour > 0 else 0.0)
        ranked.append((roughness, colour, down, across))
    bank = []
    for _, colour, down, across in sorted(ranked)[:count]:
        bank.append(np.einsum("c,y,x->cyx", OPPONENT[colour], basis[down], basis[across]))
    return np.ascontiguousarray(bank, np.float32)  # (M, 3, size, size)


def cosines(size):
    """The orthonormal DCT of `size` values, (size, size) float64: a row for each frequency."""
    i = np.arange(size)
    basis = np.cos(np.pi * (2 * i + 1) * i[:, None] / (2 * size)) * np.sqrt(2 / size)
    basis[0] = np.sqrt(1 / size)  # the constant
    return basis


def features(images, bank):
    """Filter responses (B, M, H, W) of images (B, 3, H, W), mirrored at the border."""
    reach = bank.shape[2] // 2
    margins = ((0, 0), (0, 0), (reach, reach), (reach, reach))
    padded = np.pad(images, margins, mode="symmetric")
    out = np.zeros((len(images), len(bank), *images.shape[2:]), np.float32)  # (B, M, H, W)
    kernels.convolve(padded, bank, out)
    return out


def edge_weights(feat, noise, *, sigma_f, sigma_s, radius, patch=1):
    """Edge weights (B, S, H, W) of every pixel; symmetric for patch 1, rows of P that sum to 1 for patch 3, 5, ...

    Args:
        feat: (B, M, H, W) float32 responses of orthonormal filters; M may be 0, then only positions count.
        noise: (B, H, W) variance of the noise in a response.
        sigma_f: bandwidth h of the features in units of the noise; sigma_s: of the positions, in pixels.
        radius: of the neighbourhood, pixels. patch: odd; averages the weights of all patches that cover a pixel.

    Raises:
        ValueError: an even or negative patch, a bandwidth that is not positive, a radius outside 1..16.
    """
    if patch < 1 or patch % 2 == 0:
        raise ValueError(f"patch must be odd and positive, got {patch}")
    if not (0 < sigma_f < np.inf and 0 < sigma_s < np.inf):
        raise ValueError(
            f"bandwidths must be positive and finite, got sigma_f={sigma_f}, sigma_s={sigma_s}"
        )
    offsets = stencil(radius)
    out = np.empty((len(feat), len(offsets), *feat.shape[2:]), np.float32)  # (B, S, H, W)
    scaled = np.maximum(noise, 1e-8).astype(np.float32) * np.float32(max(1, feat.shape[1]))
    kernels.transition(
        feat,
        scaled,
        offsets,
        np.float32(2 / sigma_f**2),
        np.float32(0.5 / sigma_s**2),
        patch // 2,
        out,
    )
    return out


def apply(weights, images, radius):
    """Weighted sums over the neighbourhood: (B, S, H, W) and (B, C, H, W) -> (B, C, H, W), plain W x."""
    out = np.zeros_like(images)
    kernels.walk(weights, images, stencil(radius), out)
    return out


def random_walk(weights):
    """P = D^-1 W: each pixel's weights divided by their sum. (B, S, H, W) -> the same shape."""
    total = weights.sum(axis=1, keepdims=True)
    walk = weights / np.maximum(total, 1e-20)
    walk[:, :1] += total <= 1e-20  # a node without neighbours keeps its own value
    return walk


def sinkhorn(weights, radius, rounds=20):
    """Balance symmetric weights so that rows and columns of W sum to one: r_i W_ij r_j. Same shape as `weights`.

    A node without neighbours keeps its own value. Source: Chan, Zickler and Lu, above; Sinkhorn 1964.
    """
    batch, _, height, width = weights.shape
    scale = np.ones((batch, 1, height, width), np.float32)  # r
    out = weights.copy()
    out[:, :1] += apply(weights, scale, radius) < 1e-12
    for _ in range(rounds):
        scale = np.sqrt(scale / apply(out, scale, radius))  # damped: converges without oscillation
    reach = int(radius)
    own = scale[:, 0]  # r_i (B, H, W)
    padded = np.pad(own, ((0, 0), (reach, reach), (reach, reach)))
    for s, (dy, dx) in enumerate(stencil(radius)):
        rows = slice(reach + dy, reach + dy + height)
        columns = slice(reach + dx, reach + dx + width)
        out[:, s] *= own * padded[:, rows, columns]  # r_j
    return out


def apply_transpose(weights, images, radius):
    """W' x, the transpose of `apply`: the gradient of a loss behind the graph. Shapes as there."""
    out = np.zeros_like(images)
    kernels.walk_back(weights, images, stencil(radius), out)
    return out


def diffuse(walk, images, radius, tau, kind="step"):
    """Diffuse images along a walk P for the time `tau`; constants stay constant and nothing can blow up.

    Args:
        walk: (B, S, H, W) with rows that sum to one. images: (B, C, H, W).
        kind: "step" x - tau (I - P) x, tau from 0 to 1; "heat" exp(-tau (I - P)) x; "resolvent" (I + tau (I - P))^-1 x,
            the two latter for any tau >= 0.

    Raises:
        ValueError: tau out of range or an unknown kind.
    """
    if not 0 <= tau < np.inf or (kind == "step" and tau > 1):
        raise ValueError(
            f"tau = {tau} is not allowed for {kind!r}: from 0 to 1 for a step, not negative otherwise"
        )
    kinds = {"step": _step, "heat": _heat, "resolvent": _resolvent}
    if kind not in kinds:
        raise ValueError(f"unknown kind {kind!r}: step, heat or resolvent")
    if tau == 0 and kind != "heat":
        return images
    return kinds[kind](walk, images, radius, np.float32(tau))


def _step(walk, images, radius, tau):
    """x - tau (I - P) x."""
    return images + tau * (apply(walk, images, radius) - images)


def _heat(walk, images, radius, tau, terms=13):
    """exp(-t) sum_n t^n / n! P^n x, in slices of time t of at most 2."""
    slices = max(1, int(np.ceil(tau / 2)))
    t = tau / np.float32(slices)
    for _ in range(slices):
        term = images
        total = term.copy()
        for n in range(1, terms + 1):
            term = apply(walk, term, radius) * np.float32(t / n)
            total += term
        images = total * np.float32(np.exp(-t))
    return images


def _resolvent(walk, images, radius, tau):
    """The fixed point of x = (y + tau P x) / (1 + tau), until the error is a hundred-thousandth of the first."""
    rate = tau / (1 + tau)
    x = images
    for _ in range(int(np.ceil(np.log(1e-5) / np.log(rate)))):
        x = (images + tau * apply(walk, x, radius)) / (1 + tau)
    return x
