"""The announced update rules and graph, as announced, to be looked at: nothing here decides an image.

The rules score the patches of one image, turn the scores into four attention weights, and move sigma and tau by
the sign of the change of a loss. The graph joins patches of 8 x 8 pixels on a grid of stride 5 and smooths the
matrix of their similarities. What the rules read, write and ignore is shown in notebook 02. Constants are as announced.

Symbols: n patches of 8 x 8 x 3 = 192 values of one image (H, W, 3) in [0, 1].
"""

from dataclasses import dataclass, field

import numpy as np

HEADS = ("texture", "structure", "color", "spatial")
BOUNDS = {
    "sigma": (0.1, 0.5),
    "tau": (0.05, 0.3),
    "radius": (5, 20),
    "sigma_s": (5, 20),
    "sigma_f": (0.1, 0.5),
}


def patches(image, size=8, stride=5):
    """Patch vectors (n, 192) and centres (n, 2); pixels behind the last whole step belong to no patch."""
    ys, xs = (range(0, side - size + 1, stride) for side in image.shape[:2])
    vectors = [image[y : y + size, x : x + size].ravel() for y in ys for x in xs]
    return np.array(vectors), np.array(
        [(y + size // 2, x + size // 2) for y in ys for x in xs], float
    )


def compute_patch_features(vectors, centres):
    """Four scores in [0, 1]: texture and color are the same formula, spatial depends on the grid alone."""
    spread = np.mean(vectors.std(axis=1)) / 0.1
    edges = (
        np.mean(np.abs(np.diff(vectors, axis=1))) / 0.1
    )  # two of three differences are between colours of one pixel
    return np.clip([spread, edges, spread, np.std(centres) / 10], 0, 1)


def compute_attention_weights(features):
    """softmax(2 features): the announced temperature of 2 multiplies, so it is one half."""
    shares = np.exp(2 * np.asarray(features, float))
    return shares / shares.sum()


@dataclass
class ParameterLearning:
    """The announced state. The last four fields are stored and never read again."""

    sigma: float = 0.3
    tau: float = 0.1
    radius: float = 10
    sigma_s: float = 10
    sigma_f: float = 0.3
    learning_rate: float = 0.01
    smoothing_window: int = 5
    embed_dim: int = 64
    attention_heads: int = 4
    attention_weights: list = field(default_factory=list)
    param_updates: list = field(default_factory=list)
    loss_history: list = field(default_factory=list)

    def weighted_parameter_update(self, weights, change):
        """Shrink sigma and tau when the loss rose, let them grow when it fell, by a few percent."""
        colour, shape = weights[0] + weights[2], weights[3] + weights[1]
        sign = -1 if change > 0 else 1
        self.sigma *= 1 + sign * 0.02 * colour
        self.tau *= 1 + sign * 0.05 * shape

    def update_global_params(self, loss, features):
        """One announced step: weights from the scores, a move from the last two losses, bounds, histories."""
        weights = compute_attention_weights(features)
        if self.loss_history:
            self.weighted_parameter_update(weights, loss - self.loss_history[-1])
        for name, (low, high) in BOUNDS.items():
            setattr(self, name, float(np.clip(getattr(self, name), low, high)))
        self.attention_weights.append(weights.tolist())
        self.loss_history.append(float(loss))
        self.param_updates.append((self.sigma, self.tau))
        return weights


def similarity_graph(vectors, centres, radius=10, sigma=0.3, sigma_s=10, sigma_f=0.3):
    """Edge weights W and self-similarities S, (n, n) each, zero diagonal, S on the edges of W."""
    apart = np.square(centres[:, None] - centres).sum(-1)
    differ = np.square(vectors[:, None] - vectors).sum(
        -1
    )  # not divided by 192: nearly every weight is zero
    near = (apart <= radius**2) & (apart > 0)
    weights = np.where(near, np.exp(-apart / (2 * sigma_s**2) - differ / (2 * sigma_f**2)), 0)
    return weights, np.where(near, np.exp(-differ / (2 * sigma**2)), 0)


def smooth(similarity, laplacian, tau=0.1, steps=5):
    """S <- tanh(S - tau L S) on the stored entries: the matrix is diffused, not the patches."""
    stored = similarity > 0
    for _ in range(steps):
        similarity = np.where(stored, np.tanh(similarity - tau * laplacian @ similarity), 0)
    return similarity


def denoise(image, size=8, stride=5, tau=0.1, sigma=0.3, sigma_f=0.3):
    """Run the announced filter, which its own training never calls: image (H, W, 3) and the covered pixels (H, W)."""
    vectors, centres = patches(image, size, stride)
    weights, similarity = similarity_graph(vectors, centres, sigma=sigma, sigma_f=sigma_f)
    smoothed = smooth(similarity, np.diag(weights.sum(1)) - weights, tau)
    total = smoothed.sum(1, keepdims=True)
    active = total[:, 0] > 1e-8
    vectors[active] = (smoothed @ vectors)[active] / total[active]
    out, count = np.zeros(image.shape), np.zeros(image.shape[:2])
    for vector, (y, x) in zip(vectors, centres.astype(int) - size // 2, strict=True):
        out[y : y + size, x : x + size] += vector.reshape(size, size, 3)
        count[y : y + size, x : x + size] += 1
    return out / np.maximum(count, 1)[..., None], count > 0
